"""Numbers as people write them."""

UNITS_OF_TIME = {"d": 86_400, "h": 3600, "min": 60, "s": 1}
FASTEST = 100
"""From here on a rate has no decimals."""


def format_seconds(seconds: float) -> str:
    """A time in its two largest units: ``41 s``, ``5 min 50 s``, ``3 h 7 min``, ``2 d 3 h``."""
    rest, parts = round(seconds), []
    for name, length in UNITS_OF_TIME.items():
        count, rest = divmod(rest, length)
        # A unit within a larger one that is shown, such as the 0 min of 3 h, is left out.
        if count:
            parts.append(f"{count} {name}")
        elif parts:
            break
    return " ".join(parts[:2]) or "0 s"


def format_rate(rate: float) -> str:
    """A rate above 0, of items a second: ``10,850/s``, ``12.5/s``, and below one a second ``9/min`` or ``2.5/h``."""
    for name, seconds in (("s", 1), ("min", 60), ("h", 3600)):
        if rate * seconds >= 1 or name == "h":
            break
    count = rate * seconds
    return f"{count:,.0f}/{name}" if count >= FASTEST else f"{count:.3g}/{name}"


def format_bytes(count: float) -> str:
    """A number of bytes in GB, or in MB or kB where it is less than one."""
    if count >= 1e9:
        return f"{count / 1e9:,.1f} GB"
    return f"{count / 1e6:.3g} MB" if count >= 1e6 else f"{count / 1e3:.3g} kB"

"""What the names of protocols say: "lists", "gallery", "top-100", "gallery-5x1000", "top-100-of-5x1000"."""

import re
from collections.abc import Iterable

TOP = re.compile(r"top-(\d+)(?:-of-(.+))?")


def baseline_protocol(protocol: str) -> str:
    """Where the first stage's figures stand for a protocol: a ranker's top N is re-ranked out of a whole gallery."""
    found = TOP.fullmatch(protocol)
    if not found:
        return protocol
    return f"gallery-{found[2]}" if found[2] else "gallery"


def depth_of(protocol: str) -> int:
    """N of a top N; 0 of anything else."""
    found = TOP.fullmatch(protocol)
    return int(found[1]) if found else 0


def protocol_name(protocol: str) -> str:
    """A protocol as a heading: "top-100" is the full gallery of which a ranker re-orders the first 100."""
    if protocol == "lists":
        return "Candidate lists"
    depth = depth_of(protocol)
    return gallery_name(baseline_protocol(protocol)) + (f", top {depth} re-ranked" if depth else "")


def gallery_name(gallery: str) -> str:
    """A gallery as a heading."""
    found = re.fullmatch(r"gallery-(?:(\d+)x)?(\d+)", gallery)
    if not found:
        return "Full gallery"
    images = f"{int(found[2]):,} images"
    return f"{found[1]} galleries of {images}" if found[1] else f"Gallery of {images}"


def shown_protocols(ranked: Iterable[str], found: Iterable[str]) -> list[str]:
    """The lists, then a gallery after the other, each by ascending N.

    A whole gallery has a table of its own only when nothing re-ranks it, or a ranker ranks all of it.

    Args:
        ranked: protocols with a ranker's figures.
        found: protocols with the first stage's or a ranker's.
    """
    ranked, found = set(ranked), set(found)
    re_ranked = {baseline_protocol(protocol) for protocol in ranked if depth_of(protocol)}
    shown = {protocol for protocol in found if protocol in ranked or protocol not in re_ranked}
    return sorted(shown, key=_place)


def _place(protocol: str) -> tuple[bool, bool, str, int]:
    gallery = baseline_protocol(protocol)
    return protocol != "lists", gallery != "gallery", gallery, depth_of(protocol)

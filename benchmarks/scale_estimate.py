"""Time, memory, storage and cost of a run that is too large to try, from named rates: the tables of docs/scale.md.

    python benchmarks/scale_estimate.py
    python benchmarks/scale_estimate.py --set gpu_images=2500 gpu_hour=1.1

Nothing is measured here. Each rate says where it comes from: measured (on this project's machine, by which benchmark),
calculated from a measured one, or assumed. ``--set`` replaces some of them. A pair is one image with one caption.
"""

import argparse
import math
from dataclasses import dataclass

PAIRS, GPUS = (10**6, 10**8, 10**9), (8, 64, 512)
DIMENSIONS, FLOAT16, LIST_ITEMS, ITEM_BYTES = 512, 2, 51, 12


@dataclass(frozen=True)
class Rate:
    """A number that the tables are computed from.

    Attributes:
        value: in its unit.
        unit: per what.
        kind: measured, calculated or assumed.
        source: where it comes from.
    """

    value: float
    unit: str
    kind: str
    source: str


RATES = {
    "gpu_images": Rate(1000, "images/s a GPU", "assumed", "ViT-B-32 on an L4, read and decoded by its 16 vCPUs"),
    "gpu_captions": Rate(5000, "captions/s a GPU", "assumed", "the same model"),
    "start": Rate(54, "s a stage", "measured", "start-up of the embedding stage with ViT-B-32"),
    "shard": Rate(512, "items a shard", "given", "--shard-size, its default"),
    "handed_out": Rate(102, "shards/s", "measured", "many_shards.py, 100,000 shards on Ray, one worker, two cores"),
    "driver_shard": Rate(0.0029, "s a shard", "measured", "many_shards.py, 100,000 shards: assembling and hashes"),
    "hash": Rate(1.5e9, "bytes/s", "measured", "hashing a store, one core"),
    "cores": Rate(8, "cores a GPU", "assumed", "16 vCPUs beside each GPU do what 8 of the measured cores do"),
    "mined": Rate(29_000 / 2.7, "queries/s a core", "measured", "random-hard, gallery of 145,000 in memory"),
    "mined_large": Rate(1024 / 1.05, "queries/s a core", "measured", "random-hard, gallery not in memory"),
    "lists": Rate(100_000, "lists/s a GPU", "assumed", "all rankers of a stack together, with their validation"),
    "list_passes": Rate(8e7, "lists", "assumed", "8 rankers × 10 epochs × 1,000,000 lists of a sample"),
    "compared": Rate(10_000 * 1e6 / 107, "similarities/s a core", "measured", "flat top-50, gallery of 1,000,000"),
    "test": Rate(100_000, "pairs", "assumed", "size of the test split, at most a tenth"),
    "methods": Rate(9, "methods", "assumed", "8 rankers and the first stage, each in both directions"),
    "ranked": Rate(100_000, "queries", "assumed", "queries that are ranked in the gallery of all images"),
    "driver_image": Rate(582, "bytes a pair", "calculated", "62 to 112 MiB from 10,000 to 100,000 images"),
    "tables": Rate(300, "bytes a pair", "assumed", "ids, locations, texts and splits of a pair in memory"),
    "gpu_hour": Rate(0.55, "$/h a GPU worker", "assumed", "docs/guide/cluster.md, spot"),
    "head_hour": Rate(0.45, "$/h", "assumed", "docs/guide/cluster.md"),
    "gb_month": Rate(0.025, "$ a GB and month", "assumed", "docs/guide/cluster.md"),
}
"""All rates by name."""


def estimate_seconds(pairs: int, gpus: int, rate: dict[str, float]) -> dict[str, float]:
    """Seconds of each stage."""
    cores = gpus * rate["cores"]
    mined = rate["mined" if pairs * DIMENSIONS * 4 <= 2**31 else "mined_large"]
    test = min(rate["test"], pairs / 10)
    lists = rate["list_passes"] * min(1.0, pairs / 1e6)
    # On the driver, whatever the number of GPUs: shards are handed out, then reports, arrays, hashes.
    shards = 2 * pairs / rate["shard"]
    assembled = shards * rate["driver_shard"] + store_bytes(pairs) / rate["hash"]
    encoded = pairs / gpus * (1 / rate["gpu_images"] + 1 / rate["gpu_captions"])
    return {
        "embed": rate["start"] + max(encoded, shards / rate["handed_out"]) + assembled,
        "mine": 2 * pairs / cores / mined + lists_bytes(pairs) / rate["hash"],
        "train": rate["start"] + lists / rate["lists"] / min(gpus, 8),
        "evaluate": rate["start"] + 2 * rate["methods"] * test * test / rate["compared"] / cores,
        "rank": rate["start"] + rate["ranked"] * pairs / rate["compared"] / cores,
    }


def store_bytes(pairs: int) -> int:
    """Both arrays of the store."""
    return 2 * pairs * DIMENSIONS * FLOAT16


def lists_bytes(pairs: int) -> int:
    """Lists of both directions, before compression."""
    return 2 * pairs * LIST_ITEMS * ITEM_BYTES


def make_time_table(rate: dict[str, float]) -> list[str]:
    """Markdown: hours of each stage, and dollars."""
    stages = list(estimate_seconds(1, 1, rate))
    lines = [f"| pairs | GPUs | {' | '.join(stages)} | all | cost |", "|---" * (len(stages) + 4) + "|"]
    for pairs in PAIRS:
        for gpus in GPUS:
            seconds = estimate_seconds(pairs, gpus, rate)
            total = sum(seconds.values())
            dollars = total / 3600 * (gpus * rate["gpu_hour"] + rate["head_hour"])
            cells = [format_seconds(value) for value in (*seconds.values(), total)]
            lines.append(f"| {pairs:,} | {gpus} | {' | '.join(cells)} | ${dollars:,.2f} |")
    return lines


def make_size_table(rate: dict[str, float]) -> list[str]:
    """Markdown: storage and memory."""
    lines = [
        "| pairs | store | lists | a month | objects while embedding | driver of embed | one flat index, float32 | "
        "ivfpq, all shards |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for pairs in PAIRS:
        stored = store_bytes(pairs) + lists_bytes(pairs)
        driver = pairs * (rate["driver_image"] + rate["tables"])
        cells = [
            *map(format_bytes, (store_bytes(pairs), lists_bytes(pairs))),
            f"${stored / 1e9 * rate['gb_month']:,.2f}",
            f"{6 * math.ceil(pairs / rate['shard']):,}",
            *map(format_bytes, (driver, pairs * DIMENSIONS * 4, pairs * (DIMENSIONS // 8 + 8))),
        ]
        lines.append(f"| {pairs:,} | {' | '.join(cells)} |")
    return lines


def make_rate_table(rate: dict[str, float]) -> list[str]:
    """Markdown: the rates."""
    lines = ["| name | value | | source |", "|---|---|---|---|"]
    for name, entry in RATES.items():
        value = rate[name]
        number = f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
        kind = entry.kind if value == entry.value else "given"
        lines.append(f"| `{name}` | {number} {entry.unit} | {kind} | {entry.source} |")
    return lines


def format_seconds(seconds: float) -> str:
    """Seconds as minutes or hours."""
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:,.1f} h"


def format_bytes(count: float) -> str:
    """Bytes as GB or TB."""
    return f"{count / 1e9:,.1f} GB" if count < 1e12 else f"{count / 1e12:,.1f} TB"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", dest="given")
    rate = {name: entry.value for name, entry in RATES.items()}
    for text in parser.parse_args().given:
        name, _, value = text.partition("=")
        if name not in rate:
            parser.error(f"--set {text}: expected one of {', '.join(rate)}")
        rate[name] = float(value)
    for make_table in (make_time_table, make_size_table, make_rate_table):
        print("\n".join(make_table(rate)), end="\n\n")


if __name__ == "__main__":
    main()

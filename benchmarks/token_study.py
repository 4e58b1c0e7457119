"""What the parts of a token ranker are worth: one setting changed at a time, measured on validation lists.

    python benchmarks/token_study.py --folder runs/study --seeds 0 1

Embeds generated scenes, mines, and trains with the preset `demo` and one loss for every variant below, on 2,000
training and 1,000 validation images unless a variant says otherwise. Nothing is measured on test. Prints one JSON line
a variant: for each direction hit@1, hit@5 and hit@10 before the first step and at the kept epoch, in percent, mean over
the seeds and the standard deviation of their mean; and the seconds of the training stage. The same command goes on
where it was stopped.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
DIRECTIONS = ("i2t", "t2i")
METRICS = ("hit@1", "hit@5", "hit@10")


@dataclass(frozen=True)
class Variant:
    """A variant of the preset.

    Attributes:
        train: flags of train.py.
        embed: flags of embed.py.
        images: training images.
    """

    train: str = ""
    embed: str = ""
    images: int = 2000


LOSSES = "lambdarank listnet ranknet softmax listmle approx_ndcg smooth_ndcg bce triplet"
CROSS_ATTENTION = "--ranker cross_attention --ranker.token-convolutions 2 --ranker.dropout 0.3"
VARIANTS = {
    "preset": Variant(),
    "no list transformer": Variant("--ranker.layers 0"),
    "cross-attention": Variant(CROSS_ATTENTION),
    "mined lists": Variant("--sampling random-hard"),
    "no refinement": Variant("--refine.members 0"),
    "no word detection": Variant("--detect.epochs 0"),
    "last map": Variant(embed="--image-token-layer 0"),
    "last map but one": Variant(embed="--image-token-layer 1"),
    "grid of 4": Variant(embed="--token-grid 4"),
    "stored width 32": Variant(embed="--token-width 32"),
    "other losses": Variant(f"--losses {LOSSES}"),
    "6,000 images": Variant("--detect.epochs 20", images=6000),
    "24,000 images": Variant("--detect.epochs 10 --epochs 1", images=24000),
    "no convolutions": Variant("--ranker.token-convolutions 0"),
    "ranker's token width 32": Variant("--ranker.token-width 32"),
    "ranker's token width 128": Variant("--ranker.token-width 128"),
    "int8": Variant(embed="--token-dtype int8"),
}


def run_job(job: str, *flags: Any) -> None:
    """Run a job; what it prints goes to the error output."""
    subprocess.run([sys.executable, ROOT / f"jobs/{job}.py", *map(str, flags)], check=True, stdout=sys.stderr)


def run_variant(name: str, variant: Variant, folder: Path, shared: list[str]) -> None:
    """Embed, mine and train a variant, and print its line."""
    data = folder / "-".join(["scenes", str(variant.images), *variant.embed.replace("--", "").split()])
    embeddings, lists, rankers = data / "embeddings", data / "lists", folder / name.replace(" ", "-")
    scenes = ["--dataset", "scenes", "--scenes.train", variant.images, "--scenes.val", 1000, "--scenes.test", 400]
    run_job("embed", "--preset", "demo", *scenes, *variant.embed.split(), "--output", embeddings)
    run_job("mine", "--embeddings", embeddings, "--output", lists)
    started = time.perf_counter()
    inputs = ["--embeddings", embeddings, "--lists", lists, "--output", rankers]
    run_job("train", "--preset", "demo", *inputs, *shared, *variant.train.split())
    seconds = time.perf_counter() - started
    for loss, result in summarize(rankers).items():
        print(json.dumps({"variant": name, "loss": loss, **result, "train_seconds": round(seconds)}), flush=True)


def summarize(rankers: Path) -> dict[str, dict[str, Any]]:
    """hit@k at the start and at the kept epoch, mean and its standard deviation over seeds, by loss and direction."""
    values: dict[tuple[str, str, str], list[list[float]]] = {}
    for path in sorted(rankers.glob("trials/*/history.json")):
        history = json.loads(path.read_text())
        loss, direction, _ = path.parent.name.rsplit("-", 2)
        epochs = {row["epoch"]: row for row in history["epochs"]}
        for when, epoch in (("start", 0), ("kept", history["best_epoch"])):
            row = [100 * epochs[epoch][f"validation_{metric}"] for metric in METRICS]
            values.setdefault((loss, direction, when), []).append(row)
    results: dict[str, dict[str, Any]] = {}
    for (loss, direction, when), rows in values.items():
        columns = list(zip(*rows, strict=True))
        results.setdefault(loss, {})[f"{direction} {when}"] = [round(statistics.mean(column), 1) for column in columns]
        if len(rows) > 1:
            means = [statistics.mean(row) for row in rows]
            results[loss][f"{direction} {when} std"] = round(statistics.stdev(means) / len(means) ** 0.5, 2)
    return results


def main() -> None:
    """Run the variants that were asked for, all without."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="embeddings, lists and rankers of all variants")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="seeds of each variant")
    parser.add_argument("--loss", default="neural_ndcg", help="the loss of all variants but the one that names others")
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS), metavar="NAME")
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    os.environ["XMRANK_HOME"] = str(folder)
    shared = ["--seeds", *map(str, arguments.seeds), "--losses", arguments.loss]
    for name in arguments.variants:
        run_variant(name, VARIANTS[name], folder, shared)


if __name__ == "__main__":
    main()

"""A small run, from pictures to an evaluation, in a process of its own with a cluster of its own.

    python remote_driver.py ROOT ...

Prints the fingerprint of every stage below each root, which is a folder or a URI, as a line of JSON.
"""

import json
import sys
from pathlib import Path

from plain import plain_ranker, plain_training

from xmrank.config import EmbedConfig, EvaluateConfig, MineConfig
from xmrank.datasets.reader_settings import ScenesConfig, ScenesSettings
from xmrank.embed.stage import embed
from xmrank.evaluate.stage import evaluate
from xmrank.mine.stage import mine
from xmrank.train.stage import train


def run_stages(root: Path) -> dict[str, str]:
    """All stages, and the fingerprint of each."""
    sizes = ScenesConfig(train=24, val=10, test=10)
    folders = {name: root / name for name in ("embeddings", "lists", "rankers", "evaluation")}
    inputs = {"embeddings": folders["embeddings"], "lists": folders["lists"]}
    embedded = embed(
        EmbedConfig(output=folders["embeddings"], dataset=ScenesSettings(scenes=sizes), shard_size=16, workers=1)
    )
    mined = mine(
        MineConfig(embeddings=folders["embeddings"], output=folders["lists"], random_candidates=8, hard_negatives=4)
    )
    trained = train(
        plain_training(
            **inputs,
            output=folders["rankers"],
            losses=("listnet",),
            seeds=(0,),
            ranker=plain_ranker(width=8, layers=1, heads=2, feed_forward=8, dropout=0.1),
            epochs=4,
            batch_size=16,
            workers=1,
        )
    )
    evaluated = evaluate(EvaluateConfig(**inputs, rankers=folders["rankers"], output=folders["evaluation"]))
    manifests = {"embed": embedded, "mine": mined, "train": trained, "evaluate": evaluated}
    return {name: manifest.fingerprint for name, manifest in manifests.items()}


if __name__ == "__main__":
    for root in sys.argv[1:]:
        print(json.dumps(run_stages(Path(root))), flush=True)

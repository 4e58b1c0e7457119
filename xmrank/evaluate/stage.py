"""The evaluation stage: the first stage and every ranker on the same lists and galleries, query by query."""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xmrank.config import EvaluateConfig, semantic
from xmrank.embed.store import EmbeddingStore, encoder_name
from xmrank.mine.list_paths import STAGE as MINE
from xmrank.protocols.galleries import check_galleries
from xmrank.protocols.reported import reported_images, reported_split
from xmrank.runtime.directory import StageDirectory
from xmrank.runtime.errors import DataError
from xmrank.runtime.manifest import Manifest
from xmrank.runtime.paths import resolve
from xmrank.runtime.verification import read_outputs
from xmrank.tracking.delivery import deliver_while_open
from xmrank.train.checkpoint_json import read_about
from xmrank.train.stage import STAGE as TRAIN

STAGE = "evaluate"
TIMING, CURVES = "timing.json", "curves.json"


def evaluate(config: EvaluateConfig) -> Manifest:
    """Evaluate the first stage and all trained rankers; methods that an interrupted run finished are kept.

    Raises:
        ConfigError: a gallery of more images than are reported.
        DataError: inputs that are not finished, or rankers of other embeddings or lists.
    """
    store = EmbeddingStore.open(resolve(config.embeddings))
    lists, rankers = read_outputs(resolve(config.lists), MINE), read_outputs(resolve(config.rankers), TRAIN)
    check_inputs(store, lists, rankers, resolve(config.rankers))
    folder = resolve(config.lists)
    check_galleries(config.galleries, len(reported_images(folder)), reported_split(folder))
    inputs = {"embeddings": store.fingerprint, "lists": lists.fingerprint, "rankers": rankers.fingerprint}
    output = resolve(config.output)
    stage = StageDirectory.open(output, STAGE, config=semantic(config), inputs=inputs, overwrite=config.overwrite)
    with deliver_while_open(output):
        manifest = stage.done
        if manifest is None:
            # torch, Ray and MLflow take seconds to import.
            from xmrank.evaluate.all_methods import evaluate_all

            manifest = evaluate_all(stage, config, store, lists)
    print(f"evaluate: {manifest.counts['methods']} methods, {manifest.counts['queries']} queries in {output}")
    # Also when nothing was evaluated now.
    if (output / TIMING).exists():
        print_latency(json.loads((output / TIMING).read_text())["rows"])
    return manifest


def check_inputs(store: EmbeddingStore, lists: Manifest, rankers: Manifest, folder: Path) -> None:
    """Refuse stages that are not of one run.

    Args:
        store, lists, rankers: outputs of the stages before.
        folder: of the rankers.

    Raises:
        DataError: names the stage that was made from other inputs.
    """
    if lists.inputs["embeddings"] != store.fingerprint:
        raise DataError(f"--lists: mined from other embeddings than {store.directory}")
    if rankers.inputs["embeddings"] != store.fingerprint:
        # All rankers of a training have one encoder; the first one names it.
        theirs = read_about(next(iter(sorted((folder / "trials").iterdir())))).get("encoder") or {}
        raise DataError(
            f"--rankers: trained on other embeddings than {store.directory}: theirs are of {encoder_name(theirs)}, "
            f"these of {encoder_name(store.encoder)}"
        )
    if rankers.inputs["lists"] != lists.fingerprint:
        raise DataError("--rankers: trained on other lists than the given ones")


def print_latency(timing: Sequence[dict[str, Any]]) -> None:
    """Print one line: how long a query takes on each protocol, the median over the losses."""
    times: dict[str, list[float]] = {}
    for row in timing:
        times.setdefault(row["protocol"], []).append(row["alone_ms"])
    if times:
        medians = [f"{protocol} {statistics.median(values):.1f} ms" for protocol, values in times.items()]
        print(f"evaluate: re-ranking one query takes (median of the losses) {', '.join(medians)}")

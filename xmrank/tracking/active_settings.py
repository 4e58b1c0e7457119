"""The settings that have an effect: what a run shows as parameters, where its configuration file has all of them."""

from collections.abc import Callable, Mapping
from typing import Any

from xmrank.tracking.runs import flatten_settings

Settings = Mapping[str, Any]
IDLE: dict[str, Callable[[Settings], bool]] = {
    "refine.": lambda values: not values.get("refine.members"),
    "refine.memory_": lambda values: not values.get("refine.memory_weight"),
    "refine.neighbours": lambda values: not values.get("refine.hubness_weight"),
    "refine.bank_size": lambda values: not values.get("refine.hubness_weight"),
    "detect.": lambda values: not values.get("detect.epochs"),
    "ranker.max_rank": lambda values: not values.get("ranker.positional"),
    "ranker.residual_learnable": lambda values: values.get("ranker.residual") is None,
    "sampling_images": lambda values: values.get("sampling") != "sub-gallery",
    "sampling_top": lambda values: values.get("sampling") not in ("sub-gallery", "in-batch"),
    "sampling_positives": lambda values: values.get("sampling") != "random-hard",
    "random_candidates": lambda values: values.get("strategy") != "random-hard",
    "random_negatives": lambda values: values.get("strategy") != "mixed",
    "index": lambda values: values.get("strategy") == "random-hard",
    "probes": lambda values: values.get("strategy") == "random-hard" or values.get("index") not in ("ivf", "ivfpq"),
    "ef_search": lambda values: values.get("strategy") == "random-hard" or values.get("index") != "hnsw",
}
"""Beginnings of flat names, and when the settings of these names change nothing."""


def list_active(settings: Settings) -> dict[str, Any]:
    """The settings of training or mining that have an effect, flat: ``ranker.width`` and the like.

    Left out are those of parts that are switched off, and what is off itself: None, false, 0, and empty.

    Args:
        settings: of one job, perhaps nested.
    """
    flat = flatten_settings(settings)
    idle = tuple(beginning for beginning, is_idle in IDLE.items() if is_idle(flat))
    return {name: shorten(value) for name, value in flat.items() if not name.startswith(idle) and is_on(value)}


def shorten(value: Any) -> Any:
    """A list as it is written on a command line."""
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else value


def is_on(value: Any) -> bool:
    """Whether a value switches something on."""
    # 0 and False are equal, and so are 0 and 0.0.
    return value is not None and value not in (0, "", (), [])

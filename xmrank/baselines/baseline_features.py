"""The features that baselines are fitted on and project: the store's embeddings, or arrays of their own beside it."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from xmrank.baselines.feature_pairs import FeaturePairs
from xmrank.baselines.towers import ProjectionTowers
from xmrank.config import DIRECTIONS, BaselinesConfig, Direction
from xmrank.embed.importing import load_matching_rows
from xmrank.embed.store import EmbeddingStore, to_unit_length
from xmrank.metrics import list_metrics, mean_over_queries
from xmrank.mine.candidate_lists import CandidateLists
from xmrank.mine.list_paths import lists_path
from xmrank.mine.pool import captions_of
from xmrank.runtime.errors import ConfigError
from xmrank.runtime.files import sha256_file
from xmrank.runtime.paths import resolve

VALIDATION_METRICS = ("hit@1", "hit@5", "hit@10")


@dataclass(frozen=True)
class BaselineFeatures:
    """Rows of both sides, in the store's order.

    Attributes:
        image: [images, d1], any floating dtype, memory-mapped.
        text: [captions, d2], likewise.
        relevance: text embeddings of the captions for S-NDCG, [captions, d], likewise.
    """

    image: np.ndarray
    text: np.ndarray
    relevance: np.ndarray

    @classmethod
    def open(cls, config: BaselinesConfig, store: EmbeddingStore) -> "BaselineFeatures":
        """The arrays that the configuration names, or the store's.

        Raises:
            DataError: a file that is not there, no such array, or of other rows than the store has.
        """
        arrays = {"image": store.image, "text": store.text, "relevance": store.text}
        for (side, path), rows in zip(
            list_sources(config).items(), (len(store.image), *2 * [len(store.text)]), strict=True
        ):
            if path is not None:
                arrays[side] = load_matching_rows(resolve(path), f"--{FLAGS[side]}", rows)
        return cls(**arrays)


FLAGS = {"image": "image-features", "text": "text-features", "relevance": "relevance-texts"}


def list_sources(config: BaselinesConfig) -> dict[str, Path | None]:
    """The files of each of ``Features``, as configured."""
    return {"image": config.image_features, "text": config.text_features, "relevance": config.relevance_texts}


def fingerprint_sources(config: BaselinesConfig) -> dict[str, str]:
    """The content of every file that is configured."""
    fingerprints = {}
    for side, path in list_sources(config).items():
        if path is not None:
            fingerprints[FLAGS[side].replace("-", "_")] = sha256_file(resolve(path))
    return fingerprints


def read_roles(lists: Path) -> dict[str, np.ndarray]:
    """The image rows of each role, int64, ascending."""
    content = json.loads((lists / "splits.json").read_text())
    return {role: np.array(entry["images"], np.int64) for role, entry in content.items()}


def fitted_images(config: BaselinesConfig, store: EmbeddingStore) -> np.ndarray:
    """The image rows to fit on, ascending: never one that selects or is reported.

    Raises:
        ConfigError: a split that the store does not have, or no image left.
    """
    parts = read_roles(resolve(config.lists))
    if not config.fit_splits:
        return parts["train"]
    for split in config.fit_splits:
        if split not in store.splits():
            raise ConfigError(f"--fit-splits {split}: the store has no such split; it has: {', '.join(store.splits())}")
    rows = np.unique(np.concatenate([store.image_rows(split) for split in config.fit_splits]))
    # An image that chooses epochs or is reported is never fitted, whatever split it is in.
    rows = rows[~np.isin(rows, np.concatenate([parts["validation"], parts["test"]]))]
    if not len(rows):
        raise ConfigError(f"--fit-splits {' '.join(config.fit_splits)}: all their images select or are reported")
    return rows


def pairs_of(features: BaselineFeatures, store: EmbeddingStore, images: np.ndarray) -> FeaturePairs:
    """The images and their captions as pairs to fit on; images without captions are left out."""
    captions, owner = captions_of(store, images)
    # Images without captions drop out, and the others are numbered anew.
    kept, owner = np.unique(owner, return_inverse=True)
    return FeaturePairs(
        np.asarray(features.image[images[kept]], np.float32),
        np.asarray(features.text[captions], np.float32),
        owner.reshape(-1).astype(np.int64),
        to_unit_length(features.relevance[captions], np.dtype(np.float32)),
    )


@dataclass(frozen=True)
class ValidationLists:
    """The lists that choose the best epoch, with the features of what is in them."""

    features: BaselineFeatures
    lists: dict[Direction, CandidateLists]
    images: np.ndarray
    captions: np.ndarray

    @classmethod
    def of(cls, config: BaselinesConfig, features: BaselineFeatures) -> "ValidationLists":
        """The lists of the role validation, both directions."""
        paths = {d: lists_path(resolve(config.lists), d, "validation") for d in DIRECTIONS}
        lists = {d: CandidateLists.read(path, verify=False) for d, path in paths.items()}
        # Only what occurs in the lists is projected, once for both directions.
        images = np.unique(np.concatenate([lists["i2t"].queries, lists["t2i"].candidates]))
        captions = np.unique(np.concatenate([lists["t2i"].queries, lists["i2t"].candidates]))
        return cls(features, lists, images, captions)

    def measure_towers(self, towers: ProjectionTowers) -> dict[str, float]:
        """hit@1, hit@5 and hit@10 of each direction, and the mean of all of them: validation_mean."""
        image = towers.project("image", self.features.image[self.images])
        text = towers.project("text", self.features.text[self.captions])
        figures: dict[str, float] = {}
        for direction, lists in self.lists.items():
            queries, items = np.repeat(lists.queries, lists.lengths), lists.candidates
            rows, columns = (queries, items) if direction == "i2t" else (items, queries)
            scores = multiply_rows(
                image[np.searchsorted(self.images, rows)], text[np.searchsorted(self.captions, columns)]
            )
            figures |= {f"validation_{direction}_{name}": value for name, value in measure_hits(lists, scores).items()}
        return {**figures, "validation_mean": float(np.mean([*figures.values()]))}


def measure_hits(lists: CandidateLists, scores: np.ndarray) -> dict[str, float]:
    """The mean of each validation metric over lists whose items have these scores, flat."""
    _, labels, _, mask = lists.pad_lists(np.arange(len(lists)))
    matrix = np.zeros(mask.shape, np.float32)
    matrix[mask] = scores
    metrics = list_metrics(matrix, labels, mask=mask)
    return {name: mean_over_queries(metrics[name]).mean for name in VALIDATION_METRICS}


def multiply_rows(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Row by row, the dot product in float64, rounded to float32, [rows]: as galleries are searched."""
    return np.einsum("nd,nd->n", first, second, dtype=np.float64).astype(np.float32)


def project_store(
    towers: ProjectionTowers, features: BaselineFeatures, store: EmbeddingStore, images: np.ndarray
) -> EmbeddingStore:
    """The store with the towers' projections instead of its embeddings, for some images and their captions."""
    captions, _ = captions_of(store, images)
    image, text = towers.project("image", features.image[images]), towers.project("text", features.text[captions])
    return EmbeddingStore(
        **{
            **vars(store),
            "image": _spread_rows(image, images, len(store.image)),
            "text": _spread_rows(text, captions, len(store.text)),
        }
    )


def _spread_rows(values: np.ndarray, rows: np.ndarray, count: int) -> np.ndarray:
    """The values at their rows of an array of zeros, [count, d]; rows that are never read take no memory."""
    # The system hands out pages of zeros only when they are written.
    array = np.zeros((count, values.shape[1]), np.float32)
    array[rows] = values
    return array

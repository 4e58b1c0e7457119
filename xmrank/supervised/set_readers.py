"""What ``--data NAME/FEATURES=PATH`` means: a store, a feature file, a folder of them, or one side of each of two."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from xmrank.config import SupervisedConfig
from xmrank.runtime.errors import DataError
from xmrank.runtime.manifest import MANIFEST
from xmrank.runtime.paths import resolve
from xmrank.supervised.labelled_set import PARTS, LabelledSet
from xmrank.supervised.layouts import read_features
from xmrank.supervised.stores import Captions, read_store


@dataclass(frozen=True)
class SetSource:
    """Where a labelled set is read from.

    Attributes:
        name, features: of the set.
        paths: one; or two, the first for images and the second for texts.
        annotations: of a store whose table has no labels.
        captions, seed: as ``read_store`` has them.
        unit_length: scale features to unit length; embeddings of a store have it already.
    """

    name: str
    features: str
    paths: tuple[Path, ...]
    annotations: Path | None = None
    captions: Captions = "first"
    seed: int = 0
    unit_length: bool = True

    @property
    def key(self) -> str:
        """Of files and inputs: the set's name and its features'."""
        return f"{self.name}-{self.features}" if self.features else self.name


def sources_of(
    data: tuple[str, ...],
    labels: tuple[str, ...],
    *,
    captions: Captions = "first",
    seed: int = 0,
    unit_length: bool = True,
) -> list[SetSource]:
    """The sources that flags name; their forms were checked with the configuration."""
    annotations = dict(text.split("=", 1) for text in labels)
    sources = []
    for text in data:
        full, locations = text.split("=", 1)
        name, _, features = full.partition("/")
        paths = tuple(resolve(location) for location in locations.split(","))
        own = annotations.get(name)
        annotated = resolve(own) if own else None
        sources.append(SetSource(name, features, paths, annotated, captions, seed, unit_length))
    return sources


def list_sources_of(config: SupervisedConfig) -> list[SetSource]:
    """The sources that a configuration names."""
    return sources_of(
        config.data,
        config.labels,
        captions=config.captions,
        seed=config.split_seed,
        unit_length=config.unit_length,
    )


def read_source(source: SetSource) -> LabelledSet:
    """The labelled set of a source.

    Raises:
        DataError: what cannot be read, or two files that are not of the same items.
    """
    sets = [_read_one(source, path) for path in source.paths]
    if len(sets) == 1:
        return sets[0]
    images, texts = sets
    parts = {}
    for part in PARTS:
        one, other = getattr(images, part), getattr(texts, part)
        # Two files are of the same items if their labels agree, item by item.
        if not np.array_equal(one.labels, other.labels):
            raise DataError(f"{source.paths[0]} and {source.paths[1]}: other {part} items or labels; expected the same")
        parts[part] = replace(one, text=other.text)
    return replace(images, **parts)


def _read_one(source: SetSource, path: Path) -> LabelledSet:
    if (path / MANIFEST).is_file():
        return read_store(
            source.name,
            source.features,
            path,
            captions=source.captions,
            annotations=source.annotations,
            seed=source.seed,
        )
    if source.annotations is not None:
        raise DataError(f"--labels {source.name}={source.annotations}: only for an embedding store; {path} is none")
    return read_features(source.name, source.features, path, source.seed, unit_length=source.unit_length)

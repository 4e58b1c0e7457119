"""What a method has to do to be evaluated, and the first stage as such a method."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from xmrank.config.common import Direction
from xmrank.config.method_names import FIRST_STAGE, ORACLE
from xmrank.embed.store import EmbeddingStore
from xmrank.protocols.galleries import GalleryProtocol, ListProtocol
from xmrank.protocols.query_tables import TableKey


@dataclass(frozen=True)
class RankedGallery:
    """A gallery, with what the first stage makes of it.

    Attributes:
        gallery: what is searched.
        metrics: the first stage's per-query metrics on all of it, float64 [queries] each.
        tops: its top N as lists, by ascending N.
    """

    gallery: GalleryProtocol
    metrics: dict[str, np.ndarray]
    tops: list[ListProtocol]

    def protocol_names(self) -> list[str]:
        """The gallery's name, then those of its tops."""
        return [self.gallery.name, *(top.name for top in self.tops)]


@dataclass(frozen=True)
class DirectionProtocols:
    """All protocols of one direction; one process opens them once for all its methods.

    Attributes:
        split: name of the reported split.
        images: rows of its images, int64, ascending.
        top_n: the depths of re-ranking, as configured.
        lists: the mined lists.
        searches: every gallery.
        shared: what the methods that a process evaluates one after another have in common.
    """

    store: EmbeddingStore
    direction: Direction
    split: str
    images: np.ndarray
    top_n: tuple[int, ...]
    lists: ListProtocol
    searches: list[RankedGallery]
    shared: dict[str, Any] = field(default_factory=dict, compare=False)

    def list_ranked(self) -> list[ListProtocol]:
        """The protocols that rankers rank: the mined lists, and all tops."""
        return [self.lists, *(top for search in self.searches for top in search.tops)]

    def table_key(self, protocol: str, *, method: str, loss: str = "", ranker: str = "", seed: int = -1) -> TableKey:
        """What the rows of a method on a protocol begin with."""
        named = {"method": method, "loss": loss, "ranker": ranker, "seed": seed}
        return {"direction": self.direction, "split": self.split, **named, "protocol": protocol}


@dataclass(frozen=True)
class MethodResult:
    """A method's figures on one protocol.

    Attributes:
        key: what its rows of the tables begin with.
        protocol: the lists that it ranked.
        metrics: float64 [queries] by name; NaN where a query has nothing relevant.
        scores: float32, flat as the protocol's lists; None where no ranking is kept.
        timing: milliseconds of one query, by name; empty where nothing was computed.
    """

    key: TableKey
    protocol: ListProtocol
    metrics: dict[str, np.ndarray]
    scores: np.ndarray | None
    timing: dict[str, float]


class Scorer(ABC):
    """A method under evaluation.

    It is sent to a worker and must be picklable; what it needs is loaded there, in ``measure``.
    """

    @abstractmethod
    def measure(self, protocols: DirectionProtocols) -> Iterator[MethodResult]:
        """The method's results, one for every protocol that it ranks.

        Args:
            protocols: of the direction that is evaluated.
        """


@dataclass(frozen=True)
class FirstStageScorer(Scorer):
    """The first stage on the lists and on the whole galleries, and the oracle on their tops."""

    def measure(self, protocols: DirectionProtocols) -> Iterator[MethodResult]:
        """Nothing is computed here: the similarities were searched when the protocols were made."""
        lists = protocols.lists
        scores = lists.lists.similarity
        key = protocols.table_key(lists.name, method=FIRST_STAGE)
        yield MethodResult(key, lists, lists.measure(scores), scores, {})
        for search in protocols.searches:
            # Metrics are of the whole gallery; the ranking that is kept ends at the deepest top.
            deepest = search.tops[-1]
            key = protocols.table_key(search.gallery.name, method=FIRST_STAGE)
            yield MethodResult(key, deepest, search.metrics, deepest.lists.similarity, {})
            for top in search.tops:
                # With labels as scores, the relevant items of the top come first.
                best = top.measure(top.lists.labels)
                yield MethodResult(protocols.table_key(top.name, method=ORACLE), top, best, None, {})

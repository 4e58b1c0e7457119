"""What one trial learns from: fixed lists, or lists drawn anew every epoch; similarities as its ranker refines them."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from torch import Tensor

from xmrank.config import Direction, MineConfig, RefinementSettings, TrainConfig
from xmrank.embed.store import EmbeddingStore
from xmrank.mine.list_paths import STAGE as MINE
from xmrank.mine.list_paths import read_role_images
from xmrank.mine.pool import captions_of, make_pool
from xmrank.mine.roles import RoleImages
from xmrank.rankers import Ranker, RefinementSizes
from xmrank.runtime.directory import read_manifest
from xmrank.train.adapters import TrainingPairs, apart, divide, learn
from xmrank.train.fusion import weigh
from xmrank.train.list_data import ListData
from xmrank.train.list_sampler import ListSampler
from xmrank.train.refined_lists import RefinedLists


@dataclass
class TrialData:
    """The lists of one trial.

    Attributes:
        fixed: the mined training lists; with a drawer, only their two sides are used.
        validation: the lists that choose the epoch.
        drawer: draws the training lists; None: they are fixed.
        shares: of the training images, for the drawer.
        table: refines the drawn lists; None: they keep the first stage's similarity.
    """

    fixed: ListData
    validation: ListData
    seed: int
    drawer: ListSampler | None = None
    shares: Sequence[np.ndarray] = ()
    table: RefinedLists | None = None
    last: tuple[int, ListData] | None = None

    def train(self, epoch: int) -> ListData:
        """The training lists of an epoch, counted from 1; the last one's are kept."""
        if self.drawer is None:
            return self.fixed
        if self.last is None or self.last[0] != epoch:
            lists = self.drawer(self.shares, self.seed, epoch)
            if self.table:
                lists = self.table.refine(lists)
            self.last = epoch, replace(self.fixed, lists=lists, width=self.drawer.width)
        return self.last[1]


@dataclass
class TrialDataSource:
    """Makes the courses of one direction's trials. Those of one seed and refinement share what is learned once.

    Attributes:
        train, validation: the mined lists.
        drawer: draws the training lists; None: they are fixed.
        images: rows of the training images, ascending.
    """

    train: ListData
    validation: ListData
    drawer: ListSampler | None = None
    images: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    learned: dict[tuple[RefinementSettings, int], tuple[dict[str, Tensor], TrialData]] = field(default_factory=dict)

    @classmethod
    def open(
        cls,
        train: ListData,
        validation: ListData,
        store: EmbeddingStore,
        lists: Path,
        direction: Direction,
        config: TrainConfig,
    ) -> "TrialDataSource":
        """The courses on the lists in a mining's directory."""
        if config.sampling == "fixed":
            return cls(train, validation)
        drawer = ListSampler(store, direction, mining_of(lists), config)
        return cls(train, validation, drawer, read_role_images(lists, "train"))

    def __len__(self) -> int:
        """Lists of an epoch."""
        return self._count

    @cached_property
    def _count(self) -> int:
        return self.drawer.count(self.images) if self.drawer else len(self.train.lists)

    def of(self, seed: int, ranker: Ranker, config: RefinementSettings) -> TrialData:
        """The course of a trial; the ranker's refinement, if it has one, is filled."""
        if self.drawer is None:
            return TrialData(self.train, self.validation, seed)
        if ranker.refinement is None:
            return TrialData(self.train, self.validation, seed, self.drawer, [self.images])
        key = config, seed
        if key not in self.learned:
            course = self._learn(seed, ranker, config)
            self.learned[key] = ranker.refinement.state_dict(), course
        state, course = self.learned[key]
        ranker.refinement.load_state_dict(state)
        return course

    def _learn(self, seed: int, ranker: Ranker, config: RefinementSettings) -> TrialData:
        """Learn a refinement, and make tables of the rows that training and validation lists hold."""
        drawer, refinement = self.drawer, ranker.refinement
        assert drawer is not None and refinement is not None
        shares = divide(self.images, refinement.members, seed)
        pairs = TrainingPairs.of(drawer.store, self.images, self.train.device)
        learn(refinement, pairs, shares, config, drawer.direction, seed)
        tables = []
        for member, share in enumerate(shares):
            pool = make_pool(drawer.store, RoleImages("train", "", share), drawer.direction)
            rows = np.sort(pool.queries), np.sort(pool.gallery)
            knows_none = apart(refinement, member, share, pairs, seed)
            tables.append(RefinedLists.of(knows_none, self.train.queries, self.train.gallery, *rows))
        table = RefinedLists.join(tables)
        if config.learn_fusion:
            weigh(refinement, table, drawer(shares, seed, epoch=0))
            table = replace(table, weights=refinement.fusion_weights[: len(table.queries)])
        return TrialData(self.train, refined(ranker, self.validation), seed, drawer, shares, table)


def refined(ranker: Ranker, data: ListData) -> ListData:
    """Lists with the similarities that the ranker's refinement gives in use; as they are where it has none."""
    if ranker.refinement is None:
        return data
    asked, found = (np.unique(rows).astype(np.int64) for rows in (data.lists.queries, data.lists.candidates))
    table = RefinedLists.of(ranker.refinement, data.queries, data.gallery, asked, found)
    return replace(data, lists=table.refine(data.lists))


def mining_of(lists: Path) -> MineConfig:
    """How the lists in a mining's directory were made."""
    return MineConfig(**read_manifest(lists, MINE).config)


def check_draws(lists: Path, store: EmbeddingStore, direction: Direction, config: TrainConfig, seed: int) -> None:
    """Refuse to draw lists from fewer items than they need.

    Raises:
        ConfigError: says which flag asks for more than there is.
    """
    if config.sampling != "fixed":
        shares = divide(read_role_images(lists, "train"), config.refine.members, seed)
        ListSampler(store, direction, mining_of(lists), config).check(shares)


def refinement_sizes(courses: TrialDataSource, config: RefinementSettings) -> RefinementSizes:
    """The sizes of a ranker's refinement that follow from what it learns from.

    A bank has as many queries as configured, or one for every image that all members learn from.
    """
    if not config.members or courses.drawer is None:
        return RefinementSizes()
    images = len(courses.images)
    bank = min(config.bank_size, images - -(-images // config.members))
    if not config.memory_weight:
        return RefinementSizes(bank)
    captions = len(captions_of(courses.drawer.store, courses.images)[0])
    text: Literal["query", "candidate"] = "query" if courses.drawer.direction == "t2i" else "candidate"
    return RefinementSizes(bank, min(config.memory_size, captions), images, text)

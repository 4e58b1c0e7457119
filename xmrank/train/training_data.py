"""The lists that the trials of one direction train and validate on: mined or drawn, with refined similarities."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor

from xmrank.config import Direction, MineConfig, RefinementSettings, TrainConfig
from xmrank.embed.store import EmbeddingStore
from xmrank.mine.list_paths import STAGE as MINE
from xmrank.mine.list_paths import read_role_images
from xmrank.mine.pool import captions_of, make_pool
from xmrank.mine.roles import RoleImages
from xmrank.rankers import Ranker, RefinementSizes, TokenSizes
from xmrank.rankers.refinement import Refinement
from xmrank.rankers.token_ranker import TokenRanker
from xmrank.runtime.manifest import read_manifest
from xmrank.train.adapters import TrainingPairs, fit_refinement, make_fold_refinement, split_into_folds
from xmrank.train.first_stage_validation import mean_of_similarity
from xmrank.train.fusion import fit_fusion_weights
from xmrank.train.list_data import ListData
from xmrank.train.list_sampler import ListSampler
from xmrank.train.refined_embeddings import RefinedEmbeddings
from xmrank.train.token_sides import TokenSides
from xmrank.train.word_detection import WordDetection


@dataclass(frozen=True)
class SeedRefinement:
    """What the trials of one seed share: a fitted refinement, and what it makes of their lists.

    Attributes:
        weights: the refinement's state dict.
        folds: image rows, one fold for each member.
        embeddings: refine drawn lists; each fold is seen by the member that was not trained on it.
        validation: the validation lists with the similarities that the refinement gives in use.
    """

    weights: dict[str, Tensor]
    folds: Sequence[np.ndarray]
    embeddings: RefinedEmbeddings
    validation: ListData


@dataclass
class TrainingData:
    """The lists of one direction's trials. Trials of one seed share what depends on the seed alone.

    Attributes:
        train: the mined training lists; of drawn lists, only the two sides of the store are used.
        validation: the lists that choose the epoch.
        refine: how refinements are fitted.
        sampler: draws the training lists of every epoch; None: they are fixed.
        images: rows of the training images, ascending; for the sampler.
        detection: what the encoders of token rankers learn first; None: nothing.
        refinements: what is fitted so far, by seed.
        drawn: the lists that were drawn last, by seed, and their epoch.
        starts: the validation scores of initial weights, by seeds and outputs of the rankers.
    """

    train: ListData
    validation: ListData
    refine: RefinementSettings = field(default_factory=RefinementSettings)
    sampler: ListSampler | None = None
    images: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    detection: WordDetection | None = None
    refinements: dict[int, SeedRefinement] = field(default_factory=dict)
    drawn: dict[int, tuple[int, ListData]] = field(default_factory=dict)
    starts: dict[tuple[tuple[int, int], ...], list[Tensor]] = field(default_factory=dict)

    @classmethod
    def open(
        cls,
        train: ListData,
        validation: ListData,
        store: EmbeddingStore,
        lists: Path,
        direction: Direction,
        config: TrainConfig,
        detections: Path,
    ) -> "TrainingData":
        """The data of the lists in a directory of the stage mine; with tokens, if the ranker reads them.

        ``detections`` is the folder that keeps word detections.
        """
        if config.ranker.reads_tokens:
            tokens = TokenSides.of(store, direction)
            train, validation = replace(train, tokens=tokens), replace(validation, tokens=tokens)
        sampler = None
        if config.sampling != "fixed":
            sampler = ListSampler(store, direction, read_mining(lists), config)
        images = read_role_images(lists, "train")
        detection = WordDetection.of(store, images, config, detections)
        return cls(train, validation, config.refine, sampler, images, detection)

    @cached_property
    def lists_per_epoch(self) -> int:
        """The number of training lists of an epoch."""
        return self.sampler.count_lists(self.images) if self.sampler else len(self.train.lists)

    @property
    def token_sizes(self) -> TokenSizes | None:
        """The sizes of the tokens, for a ranker that reads them."""
        return self.train.tokens.sizes if self.train.tokens else None

    @property
    def dimensions(self) -> int:
        """The length of an embedding."""
        return self.train.queries.shape[1]

    def sample_lists(self, seed: int, epoch: int) -> ListData:
        """The training lists of an epoch, counted from 1."""
        if self.sampler is None:
            return self.train
        # Every step of an epoch comes here, and every trial of the seed: lists are drawn once.
        if seed not in self.drawn or self.drawn[seed][0] != epoch:
            refinement = self.refinements.get(seed)
            lists = self.sampler.draw_lists(refinement.folds if refinement else [self.images], seed, epoch)
            if refinement:
                lists = refinement.embeddings.refine_lists(lists)
            self.drawn[seed] = epoch, replace(self.train, lists=lists, width=self.sampler.width)
        return self.drawn[seed][1]

    def validation_lists(self, seed: int) -> ListData:
        """The lists that choose the epoch of the seed's trials."""
        refinement = self.refinements.get(seed)
        return refinement.validation if refinement else self.validation

    def start_scores(self, seeds: Sequence[int], rankers: Sequence[Ranker]) -> list[Tensor]:
        """The validation scores of rankers before their first step, for `TrainingStep.validate`; at first none.

        Initial weights depend on the seed and on the number of outputs, not on the loss: losses share the scores.
        """
        key = tuple((seed, ranker.levels) for seed, ranker in zip(seeds, rankers, strict=True))
        return self.starts.setdefault(key, [])

    def load_detection(self, seed: int, ranker: Ranker) -> None:
        """Fill the encoders of a ranker that reads tokens with a word detection, if there is one."""
        if self.detection is not None and isinstance(ranker, TokenRanker):
            self.detection.fill_encoders(ranker, seed)

    def load_refinement(self, seed: int, ranker: Ranker) -> None:
        """Fill a ranker's refinement, if it has one; it is fitted for the first trial of a seed."""
        if ranker.refinement is None:
            return
        if seed not in self.refinements:
            self.refinements[seed] = self._fit_refinement(seed, ranker, ranker.refinement)
        ranker.refinement.load_state_dict(self.refinements[seed].weights)

    def _fit_refinement(self, seed: int, ranker: Ranker, refinement: Refinement) -> SeedRefinement:
        """Fit a refinement by cross-fitting: the lists of a fold come from the member that was not trained on it."""
        assert self.sampler is not None  # fixed lists have no folds, so the configuration refuses members with them
        sampler, config = self.sampler, self.refine
        folds = split_into_folds(self.images, refinement.members, seed)
        pairs = TrainingPairs.of(sampler.store, self.images, self.train.device)
        fit_refinement(refinement, pairs, folds, config, sampler.direction, seed)
        embeddings = self._embed_folds(refinement, folds, pairs, seed)
        if config.learn_fusion:
            # On lists that no epoch trains on: epochs count from 1. Where grades make every item relevant, there would
            # be nothing to tell apart.
            fit_fusion_weights(refinement, embeddings, sampler.draw_lists(folds, seed, epoch=0, graded=False))
            embeddings = replace(embeddings, weights=refinement.fusion_weights[: len(embeddings.queries)])
        validation = refine_list_data(ranker, self.validation)
        # Little data may teach a refinement nothing that holds elsewhere: rankers would start below the first stage.
        if mean_of_similarity(validation.lists) < mean_of_similarity(self.validation.lists):
            refinement.reset_()
            embeddings = self._embed_folds(refinement, folds, pairs, seed)
            validation = refine_list_data(ranker, self.validation)
        return SeedRefinement(refinement.state_dict(), folds, embeddings, validation)

    def _embed_folds(
        self, refinement: Refinement, folds: Sequence[np.ndarray], pairs: TrainingPairs, seed: int
    ) -> RefinedEmbeddings:
        """The embeddings of every fold as the member sees them that was not trained on it."""
        assert self.sampler is not None
        parts = []
        for member, fold in enumerate(folds):
            pool = make_pool(self.sampler.store, RoleImages("train", "", fold), self.sampler.direction)
            rows = np.sort(pool.queries), np.sort(pool.gallery)
            out_of_fold = make_fold_refinement(refinement, member, fold, pairs, seed)
            parts.append(RefinedEmbeddings.of(out_of_fold, self.train.queries, self.train.gallery, *rows))
        return RefinedEmbeddings.join(parts)


def refinement_key(config: TrainConfig) -> tuple[Any, ...]:
    """What decides a seed's refinement beside the lists: trainings for which it is equal can share refinements."""
    drawn = config.sampling, config.sampling_positives, config.sampling_images, config.sampling_top
    # In-batch galleries have the size of a batch; validation lists have the tokens that the ranker reads.
    return config.refine, *drawn, config.batch_size, config.ranker.reads_tokens


def refine_list_data(ranker: Ranker, data: ListData) -> ListData:
    """Lists with the similarities that the ranker's refinement gives in use; unchanged if it has none."""
    if ranker.refinement is None:
        return data
    return replace(data, lists=refine_rows(ranker.refinement, data).refine_lists(data.lists))


def refine_rows(refinement: Refinement, data: ListData) -> RefinedEmbeddings:
    """The rows of some lists as a refinement sees them: each once, however many lists hold it."""
    query_rows = np.unique(data.lists.queries).astype(np.int64)
    candidate_rows = np.unique(data.lists.candidates).astype(np.int64)
    return RefinedEmbeddings.of(refinement, data.queries, data.gallery, query_rows, candidate_rows)


def read_mining(lists: Path) -> MineConfig:
    """The configuration that the lists in a directory were mined with."""
    return MineConfig(**read_manifest(lists, MINE).config)


def check_sampling(lists: Path, store: EmbeddingStore, direction: Direction, config: TrainConfig, seed: int) -> str:
    """Refuse to draw lists from fewer items than they need.

    Returns:
        One line where lists are drawn from fewer candidates than the mined ones; otherwise empty.

    Raises:
        ConfigError: names the flag that needs more than there is.
    """
    if config.sampling == "fixed":
        return ""
    folds = split_into_folds(read_role_images(lists, "train"), config.refine.members, seed)
    return ListSampler(store, direction, read_mining(lists), config).check_folds(folds)


def refinement_sizes(data: TrainingData, config: RefinementSettings) -> RefinementSizes:
    """The sizes of a ranker's refinement that follow from its training data.

    A bank has as many queries as configured, or one for every image that all members are trained on.
    """
    if not config.members or data.sampler is None:
        return RefinementSizes()
    images = len(data.images)
    largest_fold = -(-images // config.members)
    bank = min(config.bank_size, images - largest_fold)
    if not config.memory_weight:
        return RefinementSizes(bank)
    captions = len(captions_of(data.sampler.store, data.images)[0])
    text: Literal["query", "candidate"] = "query" if data.sampler.direction == "t2i" else "candidate"
    return RefinementSizes(bank, min(config.memory_size, captions), images, text)

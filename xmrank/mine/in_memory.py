"""Candidate lists without a job: mined in the calling process, from a store in memory or on disk."""

import tempfile
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from xmrank.config import DIRECTIONS, Direction, MineConfig
from xmrank.embed.store import EmbeddingStore
from xmrank.mine.candidate_lists import CandidateLists
from xmrank.mine.chunks import count_chunks, mine_queries, plan_pool, store_sides
from xmrank.mine.gallery_index import make_flat_index
from xmrank.mine.nearest import build_index, plan_indexes, plan_searches, search_shard
from xmrank.mine.pool import QueryPool
from xmrank.mine.roles import ROLES, Role, RoleImages, choose_role_images, role_of_split
from xmrank.mine.strategies import count_needed_negatives, count_searched
from xmrank.runtime.errors import ConfigError


def mine_lists(
    store: EmbeddingStore,
    *,
    direction: Direction,
    split: str = "train",
    role: Role | None = None,
    **settings: Any,
) -> CandidateLists:
    """Candidate lists of one direction, for the queries of a split: those that `xmrank mine` writes.

    Args:
        store: the embeddings.
        direction: "i2t" (image queries, captions as candidates) or "t2i".
        split: the split whose images and captions are queries and gallery.
        role: instead of a split: the images that the mining stage would choose for "train", "validation" or "test".
        settings: fields of :class:`xmrank.config.MineConfig`, as the flags of `xmrank mine`: strategy,
            random_candidates, hard_negatives, positives, captions, seed and so on.

    Raises:
        ConfigError: no such split, an unknown setting or one out of range, or lists longer than the gallery.
        DataError: a graded relevance without what it grades by.

    >>> import numpy as np
    >>> generator = np.random.default_rng(0)
    >>> store = EmbeddingStore.from_arrays(generator.normal(size=(20, 8)), generator.normal(size=(100, 8)))
    >>> lists = mine_lists(store, direction="t2i", random_candidates=10, hard_negatives=4)
    >>> len(lists), lists.lengths[:3].tolist(), float(lists.labels[:5].sum())
    (20, [5, 5, 5], 1.0)
    """
    config = make_config(settings)
    check_choices(config, direction, role)
    # All images of a split, or those that the stage would choose: it may hold some out for validation.
    part = choose_images(store, split, config) if role is None else choose_role_images(store, config)[role]
    pool = plan_pool(store, part, direction, config)
    refuse_short_gallery(pool, part, direction, config)
    return mine_in_process(store, pool, config, part.role)


def make_config(settings: Mapping[str, Any]) -> MineConfig:
    """The configuration of the lists; the stage's own fields, its paths and workers, are no settings of lists.

    Raises:
        ConfigError: a name that is no setting.
    """
    known = {field.name for field in fields(MineConfig)} - (MineConfig.RUNTIME_FIELDS - {"relevance_texts"})
    for name in settings:
        if name not in known:
            raise ConfigError(f"mine_lists: no setting {name}; expected some of {', '.join(sorted(known))}")
    return MineConfig(**settings)


def check_choices(config: MineConfig, direction: str, role: str | None) -> None:
    """Raise ConfigError for a value that is not one of a setting's names. The command line checks that by itself."""
    if direction not in DIRECTIONS:
        raise ConfigError(f"direction {direction}: expected one of {', '.join(DIRECTIONS)}")
    if role is not None and role not in ROLES:
        raise ConfigError(f"role {role}: expected one of {', '.join(ROLES)}")
    for name, hint in get_type_hints(MineConfig).items():
        value = getattr(config, name, None)
        if get_origin(hint) is Literal and value not in get_args(hint):
            raise ConfigError(f"{name} {value}: expected one of {', '.join(get_args(hint))}")


def choose_images(store: EmbeddingStore, split: str, config: MineConfig) -> RoleImages:
    """All images of a split, in the role that they would have in the mining stage.

    Raises:
        ConfigError: the store has no such split.
    """
    images = store.image_rows(split)
    if not len(images):
        raise ConfigError(f"split {split}: the store has no such split; it has: {', '.join(store.splits())}")
    return RoleImages(role_of_split(store, split, config), split, images)


def mine_in_process(store: EmbeddingStore, pool: QueryPool, config: MineConfig, role: Role) -> CandidateLists:
    """The lists of all queries of a pool."""
    query_side, gallery_side = store_sides(store, pool.direction)
    # Made when the first chunk needs it, and not at all by strategies that search.
    flat_index = cache(lambda: make_flat_index(gallery_side, pool.gallery))
    # Searches pass their results through files, as in a job.
    with tempfile.TemporaryDirectory() as folder:
        searches = Path(folder)
        width = count_searched(config, pool)
        if width:
            for shard in plan_indexes(pool, config, searches):
                build_index(shard, pool, gallery_side, config, searches)
            for search in plan_searches(pool, config, width, searches):
                search_shard(search, pool, query_side, gallery_side, config)
        chunks = [
            mine_queries(store, pool, config, role, chunk, index=flat_index, searches=searches)
            for chunk in range(count_chunks(pool))
        ]
    return CandidateLists.join(chunks)


def refuse_short_gallery(pool: QueryPool, part: RoleImages, direction: Direction, config: MineConfig) -> None:
    """Raise ConfigError when lists need more items of other images than the gallery has."""
    if not len(pool.queries):
        raise ConfigError(f"--{part.role}-split {part.split}: no {direction} query has a positive")
    flag, needed = count_needed_negatives(config)
    # The query with the most own items has the fewest others.
    available = len(pool.gallery) - int((pool.last - pool.first).max())
    if available < needed:
        raise ConfigError(
            f"{flag} {needed}: the {direction} gallery of {part.split} has only {available} items of other images"
        )

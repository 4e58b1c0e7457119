"""Imported tokens become a store's: projected, in its number format, a block of items at a time."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch

from xmrank.config.embed import TokenSettings
from xmrank.embed.token_parts import TokenPart
from xmrank.embed.token_planning import TokenBudget, TokenShape
from xmrank.embed.token_projection import TokenMoments, TokenProjection, sample_rows, write_projections
from xmrank.embed.token_shards import TokenRecipe
from xmrank.embed.token_store import Side, count_to_offsets, token_path
from xmrank.runtime.errors import DataError
from xmrank.runtime.files import write_array, write_rows

BLOCK = 1024
"""Items that are in memory at once."""
SAMPLE = 512
"""Items whose tokens the axes are fitted on."""


def import_tokens(
    directory: Path, sides: Mapping[Side, list[TokenPart]], training: Mapping[Side, np.ndarray], settings: TokenSettings
) -> dict[str, int]:
    """Write the token arrays of a store.

    Args:
        directory: of the store.
        sides: the tokens of each side that has some, part after part in the order of its rows.
        training: which rows of each side are of the training split, bool [items].
        settings: width, number format and seed.

    Returns:
        How many tokens each side has: image_tokens, text_tokens.

    Raises:
        DataError: NaN, a number that float16 cannot hold, or a disk that is too small.
    """
    counts = {side: np.concatenate([part.counts for part in parts]) for side, parts in sides.items()}
    budget = plan_import(sides, counts, settings)
    budget.refuse_small_disk(directory, copies=1)
    print(budget.describe())
    write_projections(directory, fit_imported(sides, training, settings))
    recipe = TokenRecipe(settings, directory)
    for side, parts in sides.items():
        write_array(token_path(directory, side, "token_offsets"), count_to_offsets(counts[side]))
        write_side_tokens(directory, side, parts, recipe, int(counts[side].sum()))
    return {f"{side}_tokens": int(of_items.sum()) for side, of_items in counts.items()}


def plan_import(
    sides: Mapping[Side, list[TokenPart]], counts: Mapping[Side, np.ndarray], settings: TokenSettings
) -> TokenBudget:
    """What imported tokens take."""
    shape = TokenShape({side: parts[0].values.shape[1] for side, parts in sides.items()}, an_image=0)
    tokens = {side: float(of_items.mean()) for side, of_items in counts.items()}
    sizes = {side: 8 + mean * shape.bytes_a_token(side, settings) for side, mean in tokens.items()}
    return TokenBudget(tokens, sizes, {side: len(of_items) for side, of_items in counts.items()})


def fit_imported(
    sides: Mapping[Side, list[TokenPart]], training: Mapping[Side, np.ndarray], settings: TokenSettings
) -> dict[Side, TokenProjection]:
    """The axes of the sides whose tokens are wider than ``--token-width``, fitted on a sample of the training split."""
    projections: dict[Side, TokenProjection] = {}
    for side, parts in sides.items():
        channels = parts[0].values.shape[1]
        if not settings.width or channels <= settings.width:
            continue
        rows = np.flatnonzero(training[side])
        chosen = sample_rows(rows if len(rows) else np.arange(len(training[side])), SAMPLE, settings.seed)
        moments = TokenMoments(channels)
        starts = count_to_offsets(np.array([len(part.items) for part in parts]))
        for part, start, stop in zip(parts, starts, starts[1:], strict=False):
            moments.add(torch.from_numpy(part.read(chosen[(chosen >= start) & (chosen < stop)] - start)))
        projections[side] = moments.fit(settings.width)
    return projections


def write_side_tokens(directory: Path, side: Side, parts: list[TokenPart], recipe: TokenRecipe, total: int) -> None:
    """Write one side's tokens, and the scales of int8 ones."""
    projection, channels = recipe.projections.get(side), parts[0].values.shape[1]
    width = len(projection.axes) if projection else channels
    scales: list[np.ndarray] = []
    dtype = np.dtype(recipe.settings.dtype)
    blocks = make_blocks(side, parts, recipe, scales)
    write_rows(token_path(directory, side, "tokens"), blocks, (total, width), dtype)
    if dtype == np.int8:
        # Filled while the blocks were written.
        write_array(token_path(directory, side, "token_scales"), np.concatenate(scales))


def make_blocks(
    side: Side, parts: list[TokenPart], recipe: TokenRecipe, scales: list[np.ndarray]
) -> Iterator[np.ndarray]:
    """The stored form of the tokens, a block of items at a time; their scales are appended to ``scales``."""
    for part in parts:
        for start in range(0, len(part.items), BLOCK):
            items = np.arange(start, min(start + BLOCK, len(part.items)))
            values, of_block = recipe.make_stored(side, torch.from_numpy(part.read(items)))
            if not np.isfinite(values).all():
                raise DataError(f"{part.name}: beyond float16; give --token-dtype int8")
            if of_block is not None:
                scales.append(of_block)
            yield values

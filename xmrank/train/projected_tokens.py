"""Tokens of a gallery that a ranker has projected once, for many lists."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from xmrank.embed.token_store import TokenArray
from xmrank.rankers import ListTokens, Ranker, SideTokens
from xmrank.rankers.token_ranker import TokenRanker
from xmrank.train.list_data import ListData
from xmrank.train.token_sides import TokenSides, gather_side

BLOCK = 256
"""Candidates projected at once."""


@dataclass(frozen=True)
class ProjectedSides(TokenSides):
    """The tokens of both sides, those of some candidates already projected by a ranker.

    Attributes:
        rows: of the store, of these candidates, int64 ascending.
        values: projected, [rows, longest, columns].
        mask: True where a token is real, [rows, longest].
    """

    rows: np.ndarray
    values: Tensor
    mask: Tensor

    def gather(self, query_rows: np.ndarray, candidate_rows: np.ndarray, device: torch.device) -> ListTokens:
        """As for all tokens; the candidates must be among the projected ones, except where they are padding."""
        # Padding has row 0, which may not be there: any index will do.
        index = np.searchsorted(self.rows, candidate_rows)
        candidate = SideTokens(self.values, self.mask, torch.from_numpy(index).to(device), projected=True)
        return ListTokens(gather_side(self.query, query_rows, device), candidate)


@torch.inference_mode()
def project_list_data(ranker: Ranker, data: ListData) -> ListData:
    """Lists whose candidates' tokens are projected, every candidate once; unchanged for a ranker without tokens.

    Args:
        ranker: in evaluation mode.
        data: the lists.
    """
    if data.tokens is None or not isinstance(ranker, TokenRanker):
        return data
    rows = np.unique(data.lists.candidates).astype(np.int64)
    values, mask = project_rows(ranker, data.tokens.candidate, rows, data.device)
    sides = data.tokens
    return replace(data, tokens=ProjectedSides(sides.query, sides.candidate, sides.text, rows, values, mask))


def project_rows(
    ranker: TokenRanker, tokens: TokenArray, rows: np.ndarray, device: torch.device
) -> tuple[Tensor, Tensor]:
    """The projected tokens of some candidates, [rows, longest, columns], and where they are real, [rows, longest]."""
    longest = max(1, int(tokens.counts[rows].max(initial=0)))
    values, masks = [], []
    # At least one block, which may be empty.
    for start in range(0, max(len(rows), 1), BLOCK):
        side = gather_side(tokens, rows[start : start + BLOCK], device, longest)
        values.append(ranker.project_tokens("candidate", side.values, side.mask))
        masks.append(side.mask)
    return torch.cat(values), torch.cat(masks)

"""Similarities of lists as a refinement sees them, from tables that hold every row once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from xmrank.mine.candidate_lists import CandidateLists
from xmrank.rankers.refinement import Refinement

BLOCK = 4096
"""Items of lists, or rows of a side, that are computed at once."""


@dataclass(frozen=True)
class RefinedLists:
    """Queries and candidates as the views of a refinement see them.

    Attributes:
        query_rows, candidate_rows: rows of the store that are here, int64, ascending.
        queries: [views, queries, d].
        candidates: [views, candidates, d].
        hubness: [views, candidates].
        weights: of every view's cosine and of its hubness, [views, 2].
    """

    query_rows: np.ndarray
    candidate_rows: np.ndarray
    queries: Tensor
    candidates: Tensor
    hubness: Tensor
    weights: Tensor

    @classmethod
    @torch.no_grad()
    def of(
        cls,
        refinement: Refinement,
        queries: Tensor,
        gallery: Tensor,
        query_rows: np.ndarray,
        candidate_rows: np.ndarray,
    ) -> "RefinedLists":
        """The table of some rows.

        Args:
            refinement: its views compute.
            queries, gallery: both sides of the store, [rows, d].
            query_rows, candidate_rows: ascending.
        """
        asked = [refinement.embed_queries(queries[part]) for part in blocks(query_rows)]
        found = [refinement.embed_candidates(gallery[part]) for part in blocks(candidate_rows)]
        return cls(
            query_rows,
            candidate_rows,
            torch.cat(asked, 1),
            torch.cat([part.embeddings for part in found], 1),
            torch.cat([part.hubness for part in found], 1),
            refinement.view_weights,
        )

    @classmethod
    def join(cls, tables: "Sequence[RefinedLists]") -> "RefinedLists":
        """Tables of different rows, but of views that weigh the same, as one."""
        query_rows, candidate_rows = (
            np.concatenate([getattr(t, name) for t in tables]) for name in ("query_rows", "candidate_rows")
        )
        by_query, by_candidate = np.argsort(query_rows), np.argsort(candidate_rows)
        return cls(
            query_rows[by_query],
            candidate_rows[by_candidate],
            torch.cat([t.queries for t in tables], 1)[:, by_query],
            torch.cat([t.candidates for t in tables], 1)[:, by_candidate],
            torch.cat([t.hubness for t in tables], 1)[:, by_candidate],
            tables[0].weights,
        )

    def refine(self, lists: CandidateLists) -> CandidateLists:
        """Lists of rows that are here, their similarities the views' weighted sum."""
        of_cosine, of_hubness = self.weights.T
        similarity = [of_cosine @ cosine - of_hubness @ hubness for cosine, hubness in self.items(lists)]
        return replace(lists, similarity=torch.cat([self.hubness.new_empty(0), *similarity]).cpu().numpy())

    def items(self, lists: CandidateLists) -> Iterator[tuple[Tensor, Tensor]]:
        """Cosine and hubness of the items of lists, one after another, [views, items] at a time."""
        asked = np.repeat(np.searchsorted(self.query_rows, lists.queries), lists.lengths)
        found = np.searchsorted(self.candidate_rows, lists.candidates)
        for start in range(0, len(found), BLOCK):
            q, c = (torch.from_numpy(places[start : start + BLOCK]) for places in (asked, found))
            yield torch.linalg.vecdot(self.queries[:, q], self.candidates[:, c]), self.hubness[:, c]


def blocks(rows: np.ndarray) -> list[Tensor]:
    """The rows, some at a time; at least one block, perhaps an empty one."""
    return [torch.from_numpy(rows[start : start + BLOCK]) for start in range(0, max(len(rows), 1), BLOCK)]

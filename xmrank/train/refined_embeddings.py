"""Embeddings as a refinement sees them, every row once, and the refined similarities of lists from them."""

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
class RefinedEmbeddings:
    """Queries and candidates as the views of a refinement see them (`xmrank.rankers.refinement`).

    Attributes:
        query_rows: rows of the store, int64 [queries], ascending.
        candidate_rows: rows of the store, int64 [candidates], ascending.
        queries: [views, queries, d].
        candidates: [views, candidates, d].
        hubness: [views, candidates].
        weights: fusion weights, of every view's cosine and of its hubness, [views, 2].
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
    ) -> "RefinedEmbeddings":
        """The refined embeddings of some rows.

        Args:
            refinement: computes them.
            queries: the query side of the store, [rows, d].
            gallery: the other side, [rows, d].
            query_rows: int64, ascending.
            candidate_rows: int64, ascending.
        """
        # Block by block: hubness compares every candidate with a whole bank.
        refined_queries = [refinement.embed_queries(queries[block]) for block in split_into_blocks(query_rows)]
        refined_candidates = [
            refinement.embed_candidates(gallery[block]) for block in split_into_blocks(candidate_rows)
        ]
        return cls(
            query_rows,
            candidate_rows,
            torch.cat(refined_queries, 1),
            torch.cat([block.embeddings for block in refined_candidates], 1),
            torch.cat([block.hubness for block in refined_candidates], 1),
            refinement.view_weights,
        )

    @classmethod
    def join(cls, parts: "Sequence[RefinedEmbeddings]") -> "RefinedEmbeddings":
        """The rows of several parts, which have no row in common, all with the weights of the first part."""
        query_rows = np.concatenate([part.query_rows for part in parts])
        candidate_rows = np.concatenate([part.candidate_rows for part in parts])
        # Ascending again, because lists are looked up by binary search.
        by_query, by_candidate = np.argsort(query_rows), np.argsort(candidate_rows)
        return cls(
            query_rows[by_query],
            candidate_rows[by_candidate],
            torch.cat([part.queries for part in parts], 1)[:, by_query],
            torch.cat([part.candidates for part in parts], 1)[:, by_candidate],
            torch.cat([part.hubness for part in parts], 1)[:, by_candidate],
            parts[0].weights,
        )

    def refine_lists(self, lists: CandidateLists) -> CandidateLists:
        """Lists, all of whose rows are here, with the refined similarity: the views' weighted sum."""
        cosine_weights, hubness_weights = self.weights.T
        # The empty block gives dtype and device where there are no lists.
        blocks = [self.hubness.new_empty(0)]
        for cosine, hubness in self.compare_items(lists):
            blocks.append(cosine_weights @ cosine - hubness_weights @ hubness)
        return replace(lists, similarity=torch.cat(blocks).cpu().numpy())

    def compare_items(self, lists: CandidateLists) -> Iterator[tuple[Tensor, Tensor]]:
        """Cosine with the query and hubness of all items of the lists, in order, a block [views, items] at a time."""
        # Positions of the lists' rows among the rows here; every item has the query of its list.
        query_index = np.repeat(np.searchsorted(self.query_rows, lists.queries), lists.lengths)
        candidate_index = np.searchsorted(self.candidate_rows, lists.candidates)
        for start in range(0, len(candidate_index), BLOCK):
            queries = torch.from_numpy(query_index[start : start + BLOCK])
            candidates = torch.from_numpy(candidate_index[start : start + BLOCK])
            cosine = torch.linalg.vecdot(self.queries[:, queries], self.candidates[:, candidates])
            yield cosine, self.hubness[:, candidates]


def split_into_blocks(rows: np.ndarray) -> list[Tensor]:
    """The rows, some at a time; at least one block, which may be empty."""
    return [torch.from_numpy(rows[start : start + BLOCK]) for start in range(0, max(len(rows), 1), BLOCK)]

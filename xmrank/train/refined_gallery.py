"""The candidates of a gallery as a refinement sees them: computed once, compared with queries as these come."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from xmrank.rankers.refinement import Refinement
from xmrank.train.refined_embeddings import RefinedEmbeddings


@dataclass(frozen=True)
class RefinedGallery:
    """Some candidates as the views of a refinement see them.

    Attributes:
        refinement: refines the queries.
        refined: the candidates, and with `queries_known` the queries that may come.
        queries_known: whether all queries are refined before, not when they come.
    """

    refinement: Refinement
    refined: RefinedEmbeddings
    queries_known: bool = False

    @classmethod
    def of(cls, refinement: Refinement, gallery: Tensor, rows: np.ndarray) -> "RefinedGallery":
        """The candidates of some rows.

        Args:
            refinement: refines them, and the queries.
            gallery: their side of the store, [all rows, d].
            rows: int64, ascending.
        """
        return cls(refinement, RefinedEmbeddings.of(refinement, gallery[:0], gallery, np.empty(0, np.int64), rows))

    @torch.inference_mode()
    def compare(self, query: Tensor, query_rows: np.ndarray, candidates: np.ndarray) -> Tensor:
        """The refined similarity of some lists.

        Args:
            query: embeddings, [lists, d].
            query_rows: their rows of the store, int64 [lists]; they matter for known queries only.
            candidates: rows of the store, int64 [lists, items]; they are in the gallery, except where they are padding.

        Returns:
            [lists, items]; anything at padding.
        """
        known = self.refined
        if self.queries_known:
            queries = known.queries[:, torch.from_numpy(np.searchsorted(known.query_rows, query_rows))]
        else:
            queries = self.refinement.embed_queries(query)
        # Padding has row 0, which may not be there: any index will do.
        index = np.searchsorted(known.candidate_rows, candidates).clip(max=len(known.candidate_rows) - 1)
        items = torch.from_numpy(index).to(known.hubness.device)
        similarity = known.hubness.new_zeros(items.shape)
        # A view at a time: all together would need the memory of all.
        for view, weights in enumerate(known.weights):
            cosine = (F.embedding(items, known.candidates[view]) @ queries[view, :, :, None]).squeeze(-1)
            similarity += weights[0] * cosine - weights[1] * known.hubness[view][items]
        return similarity

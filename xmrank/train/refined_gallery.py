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
        rows: of the store, these candidates, int64 [candidates], ascending.
        embeddings: [views, candidates, d].
        hubness: [views, candidates].
    """

    refinement: Refinement
    rows: np.ndarray
    embeddings: Tensor
    hubness: Tensor

    @classmethod
    def of(cls, refinement: Refinement, gallery: Tensor, rows: np.ndarray) -> "RefinedGallery":
        """The candidates of some rows.

        Args:
            refinement: refines them, and the queries.
            gallery: their side of the store, [all rows, d].
            rows: int64, ascending.
        """
        refined = RefinedEmbeddings.of(refinement, gallery[:0], gallery, np.empty(0, np.int64), rows)
        return cls.share(refinement, refined)

    @classmethod
    def share(cls, refinement: Refinement, refined: RefinedEmbeddings) -> "RefinedGallery":
        """The candidates among embeddings that a refinement has refined."""
        return cls(refinement, refined.candidate_rows, refined.candidates, refined.hubness)

    @torch.inference_mode()
    def compare(self, query: Tensor, candidates: np.ndarray) -> Tensor:
        """The refined similarity of queries that are refined here.

        Args:
            query: embeddings, [lists, d].
            candidates: rows of the store, int64 [lists, items]; they are in the gallery, except where they are padding.

        Returns:
            [lists, items]; anything at padding.
        """
        # Padding has row 0, which may not be there: any index will do.
        index = np.searchsorted(self.rows, candidates).clip(max=len(self.rows) - 1)
        items = torch.from_numpy(index).to(self.hubness.device)
        similarity = self.hubness.new_zeros(items.shape)
        # A view at a time: all together would need the memory of all.
        views = zip(self.refinement.embed_queries(query), self.embeddings, self.hubness, strict=True)
        for (queries, embeddings, hubness), weights in zip(views, self.refinement.view_weights, strict=True):
            cosine = (F.embedding(items, embeddings) @ queries[..., None]).squeeze(-1)
            similarity += weights[0] * cosine - weights[1] * hubness[items]
        return similarity

"""A gallery that is refined once gives lists the similarity that the refinement gives each of them."""

import numpy as np
import pytest
import torch

from xmrank.rankers import RefinementParameters, RefinementSizes
from xmrank.rankers.refinement import Refinement
from xmrank.train.refined_embeddings import RefinedEmbeddings
from xmrank.train.refined_gallery import RefinedGallery

SIZES = {
    "adapters": RefinementSizes(bank=5),
    "memory of queries": RefinementSizes(bank=5, memory_pairs=8, memory_images=4, text="query"),
    "memory of candidates": RefinementSizes(bank=5, memory_pairs=8, memory_images=4, text="candidate"),
}


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_queries_are_compared_as_the_refinement_does(sizes):
    torch.manual_seed(0)
    refinement = Refinement(6, RefinementParameters(members=2, width=4, neighbours=2, memory_neighbours=3), sizes)
    for name, value in refinement.state_dict().items():
        value.copy_(torch.arange(8) % 4 if name.endswith("owner") else torch.randn(value.shape))
    gallery, query = torch.randn(20, 6), torch.randn(3, 6)
    rows = np.array([2, 3, 5, 8, 13, 19])
    made = RefinedGallery.of(refinement, gallery, rows)
    candidates = np.array([[2, 19, 8, 3], [5, 5, 13, 2], [19, 8, 3, 13]])
    expected = refinement(query, gallery[torch.from_numpy(candidates)])
    torch.testing.assert_close(made.compare(query, np.empty(0), candidates), expected, atol=1e-5, rtol=1e-5)
    # Queries that are known are looked up by their rows: those of 7, 3 and 7 here.
    known = RefinedGallery(
        refinement, RefinedEmbeddings.of(refinement, gallery, gallery, np.array([3, 7]), rows), queries_known=True
    )
    expected_known = refinement(gallery[[7, 3, 7]], gallery[torch.from_numpy(candidates)])
    found = known.compare(query, np.array([7, 3, 7]), candidates)
    torch.testing.assert_close(found, expected_known, atol=1e-5, rtol=1e-5)
    # Padding has row 0, which is not in the gallery, and may be given behind the last one.
    padded = np.hstack([candidates, [[0, 20]] * 3])
    torch.testing.assert_close(made.compare(query, np.empty(0), padded)[:, :4], expected, atol=1e-5, rtol=1e-5)

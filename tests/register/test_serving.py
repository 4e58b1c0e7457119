"""A ranker as a function of named arrays."""

import numpy as np
import pytest
import torch

from xmrank.rank.trained_rankers import RANKER_FOLDER
from xmrank.rankers import LateInteractionParameters, ListTokens, TokenSizes, build_ranker
from xmrank.register import serving
from xmrank.train.checkpoint import save_ranker
from xmrank.train.checkpoint_json import read_about


@pytest.mark.parametrize("text", ["query", "candidate"])
def test_a_ranker_that_reads_tokens_is_served_with_them(tmp_path, text):
    sizes = TokenSizes(text, text_width=3, text_longest=5, image_width=2, image_longest=4, image_grid=2)
    torch.manual_seed(0)
    parameters = LateInteractionParameters(width=8, heads=2, token_width=8, zero_init_output=False)
    ranker = build_ranker(parameters, dimensions=6, tokens=sizes).eval()
    save_ranker(tmp_path, ranker, ranker.state_dict(), {"direction": "t2i"})
    assert serving.read_token_sizes(read_about(tmp_path)) == sizes

    shapes, example = serving.input_shapes(6, sizes), serving.example_inputs(6, sizes)
    assert list(shapes) == list(example)
    for name, array in example.items():
        assert all(want in (-1, got) for want, got in zip(shapes[name], array.shape, strict=True))
    widths = (3, 2) if text == "query" else (2, 3)
    assert (shapes["query_tokens"][-1], shapes["candidate_tokens"][-1]) == widths

    # The last token of every query is padding.
    example["query_token_mask"][:, -1] = 0
    scores = serving.load_scoring_function({RANKER_FOLDER: tmp_path}, {})(example, {})
    arrays = {name: torch.from_numpy(array) for name, array in example.items()}
    tokens = ListTokens.of_lists(
        arrays["query_tokens"],
        arrays["candidate_tokens"],
        arrays["query_token_mask"].bool(),
        arrays["candidate_token_mask"].bool(),
    )
    with torch.no_grad():
        expected = ranker(arrays["query"], arrays["candidates"], arrays["similarity"], tokens=tokens)
    np.testing.assert_allclose(scores, expected.numpy(), atol=1e-6)

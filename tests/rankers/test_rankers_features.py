"""The factorised first layer against the plain one, and the features that depend on the list."""

import math

import pytest
import torch
from torch import tensor
from torch.nn import functional as F

from xmrank.rankers.item_features import ItemFeatures, cosine_columns, first_stage_rank

CHOICES = [
    ("concat",),
    ("product",),
    ("difference",),
    ("concat", "product"),
    ("concat", "difference", "cosine"),
    ("product", "difference", "cosine"),
    ("concat", "product", "difference", "cosine"),
]


def layer(features, *, norm=False, dropout=0.0):
    torch.manual_seed(0)
    made = ItemFeatures(6, 4, features, norm=norm, dropout=dropout).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return made


def explicit_blocks(features, query, candidates):
    """What the layer never builds: every item's features beside each other, [lists, items, columns]."""
    query = query[:, None].expand_as(candidates)
    blocks = {
        "concat": torch.cat([query, candidates], -1),
        "product": query * candidates,
        "difference": (query - candidates).abs(),
    }
    return torch.cat([blocks[feature] for feature in features if feature in blocks], -1)


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("features", CHOICES)
def test_factorised_equals_explicit_concatenation(features, norm, lists):
    made, (query, candidates, similarity) = layer(features, norm=norm), lists
    query, candidates = 3 * query + 1, 2 * candidates - 1  # blocks of different means and spreads
    items = explicit_blocks(features, query, candidates)
    if norm:
        items = F.layer_norm(items, items.shape[-1:], made.norm_weight, made.norm_bias, eps=1e-5)
    if "cosine" in features:
        items = torch.cat([items, cosine_columns(similarity, None)], -1)
    expected = F.linear(items, made.weight, made.bias)
    torch.testing.assert_close(made(query, candidates, similarity, None), expected, rtol=0, atol=1e-12)


def test_the_plain_layer_with_norm_is_gradient_checked(lists):
    made, (query, candidates, similarity) = layer(("concat", "product"), norm=True), lists
    inputs = (query.requires_grad_(), candidates.requires_grad_())
    assert torch.autograd.gradcheck(lambda q, c: made(q, c, similarity, None), inputs)


def test_input_dropout_leaves_the_cosine_and_drops_each_block(lists):
    made = layer(("concat", "cosine"), dropout=0.999)
    query, candidates, similarity = lists
    only_cosine = made.bias + F.linear(cosine_columns(similarity, None), made.weight[:, -2:])
    dropped = [made(query, candidates, similarity, None) for _ in range(20)]
    assert sum(torch.allclose(output, only_cosine) for output in dropped) >= 10
    both = layer(("concat",), dropout=0.5)
    still_query = made.bias + torch.zeros(3, 5, 4)
    assert not torch.allclose(both(query, torch.zeros_like(candidates), similarity, None), still_query.double())


def test_cosine_columns_standardise_over_real_items():
    similarity = tensor([[0.1, 9.0, 0.3, 0.8]], dtype=torch.float64)
    columns = cosine_columns(similarity, tensor([[True, False, True, True]]))
    mean = (0.1 + 0.3 + 0.8) / 3
    deviation = math.sqrt(((0.1 - mean) ** 2 + (0.3 - mean) ** 2 + (0.8 - mean) ** 2) / 3 + 1e-8)
    assert columns[0, [0, 2, 3], 0].tolist() == [0.1, 0.3, 0.8]
    standardised = [(0.1 - mean) / deviation, (0.3 - mean) / deviation, (0.8 - mean) / deviation]
    assert columns[0, [0, 2, 3], 1].tolist() == pytest.approx(standardised, rel=1e-12)


def test_cosine_columns_of_a_constant_list_are_zero_with_finite_gradients():
    similarity = torch.full((2, 3), 0.5, requires_grad=True)
    columns = cosine_columns(similarity, None)
    assert (columns[..., 1] == 0).all()
    columns.sum().backward()
    assert similarity.grad.isfinite().all()


def test_first_stage_rank_sorts_descending_and_ties_keep_their_order():
    similarity = tensor([[0.2, 0.9, 0.2, 0.5], [-1.0, 0.0, 0.0, -1.0]])
    assert first_stage_rank(similarity, None).tolist() == [[2, 0, 3, 1], [2, 0, 1, 3]]


def test_first_stage_rank_counts_real_items_only():
    similarity = tensor([[5.0, 0.1, 5.0, 0.7, 0.3]])
    mask = tensor([[False, True, False, True, True]])
    assert first_stage_rank(similarity, mask)[mask].tolist() == [2, 0, 1]


def test_ties_keep_their_order_in_a_long_list():
    similarity = tensor([0.3, 0.7]).repeat(500)[None]  # every other item ties
    rank = first_stage_rank(similarity, None)[0]
    assert rank[1::2].tolist() == list(range(500))
    assert rank[::2].tolist() == list(range(500, 1000))


def test_a_single_real_item_standardises_to_zero():
    columns = cosine_columns(tensor([[0.4, 7.0]]), tensor([[True, False]]))
    assert columns[0, 0].tolist() == pytest.approx([0.4, 0.0])

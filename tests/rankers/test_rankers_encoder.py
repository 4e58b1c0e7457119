"""The encoder's parts, each against what defines it."""

import math

import pytest
import torch
from ranker_samples import build
from torch import nn

from xmrank.rankers.layers import Dropout
from xmrank.rankers.transformer import RankEncoding, SelfAttention, UnbiasedLayerNorm, make_sinusoids


def test_attention_equals_torchs_own():
    torch.manual_seed(0)
    attention, theirs = SelfAttention(8, 2, 0.0).double(), nn.MultiheadAttention(8, 2, batch_first=True).double()
    theirs.load_state_dict(
        {
            "in_proj_weight": attention.qkv.weight,
            "in_proj_bias": attention.qkv.bias,
            "out_proj.weight": attention.output.weight,
            "out_proj.bias": attention.output.bias,
        }
    )
    x = torch.randn(3, 5, 8, dtype=torch.float64)
    mask = torch.tensor([[True] * 5, [True, False, True, True, False], [False, True, False, False, False]])
    expected, _ = theirs(x, x, x, key_padding_mask=~mask)
    torch.testing.assert_close(attention(x, mask[:, None, None]), expected, rtol=0, atol=1e-12)


def test_attention_with_dropout_differs_by_the_dropout_only():
    torch.manual_seed(0)
    attention = SelfAttention(8, 2, 1e-9).double()  # rounds to no element, but takes the path of training with dropout
    x, attend = torch.randn(3, 5, 8, dtype=torch.float64), torch.rand(3, 1, 1, 5) > 0.3
    attend[..., 0] = True
    for mask in (None, attend):
        torch.testing.assert_close(attention.train()(x, mask), attention.eval()(x, mask), rtol=0, atol=1e-12)
    attention.dropout.probability = 0.5
    assert not torch.allclose(attention.train()(x, attend), attention.eval()(x, attend))


def test_dropout_drops_the_share_it_says_and_keeps_the_mean():
    torch.manual_seed(0)
    dropped = Dropout(0.3)(torch.ones(100_003))
    kept = dropped[dropped != 0]
    assert 1 - len(kept) / len(dropped) == pytest.approx(0.3, abs=0.006)  # four standard deviations
    assert kept.tolist() == pytest.approx([1 / 0.7] * len(kept), rel=1e-4)
    for lane in range(4):  # the four elements that share one draw
        assert (dropped[lane::4] == 0).float().mean().item() == pytest.approx(0.3, abs=0.012)
    neighbours = ((dropped[:-1] == 0) & (dropped[1:] == 0)).float().mean().item()
    assert neighbours == pytest.approx(0.3 * 0.3, abs=0.006)


def test_dropout_of_nearly_everything_stays_finite():
    assert Dropout(1 - 1e-9)(torch.ones(1000)).isfinite().all()
    assert Dropout(0.5)(torch.ones(0, 3)).shape == (0, 3)


def test_unbiased_layer_norm_divides_by_deviation_plus_eps():
    norm = UnbiasedLayerNorm(3, eps=0.5).double()
    x = torch.tensor([[1.0, 2.0, 6.0]], dtype=torch.float64)
    deviation = math.sqrt(((1 - 3) ** 2 + (2 - 3) ** 2 + (6 - 3) ** 2) / (3 - 1))
    assert norm(x)[0].tolist() == pytest.approx([-2 / (deviation + 0.5), -1 / (deviation + 0.5), 3 / (deviation + 0.5)])


def test_unbiased_layer_norm_of_a_constant_has_a_finite_gradient():
    x = torch.full((2, 4), 3.0, requires_grad=True)
    UnbiasedLayerNorm(4)(x).square().sum().backward()
    assert x.grad.isfinite().all()


def test_sinusoids_spelled_out():
    table = make_sinusoids(3, 5)
    row = [math.sin(2), math.cos(2), math.sin(2 / 10000 ** (2 / 5)), math.cos(2 / 10000 ** (2 / 5))]
    assert table[2].tolist() == pytest.approx([*row, math.sin(2 / 10000 ** (4 / 5))], abs=1e-7)


@pytest.mark.parametrize("learned", [True, False])
def test_rank_encoding_adds_the_ranks_row_and_nothing_beyond_the_last(learned):
    encoding = RankEncoding(4, max_rank=3, learned=learned)
    x = torch.ones(1, 5, 4)
    encoded = encoding(x, torch.tensor([[2, 0, 3, 1, 9]]))
    expected = torch.stack([2 + encoding.table[2], 2 + encoding.table[0], torch.full((4,), 2.0)])
    torch.testing.assert_close(encoded[0, :3], expected)
    assert torch.equal(encoded[0, 4], encoded[0, 2])
    assert ("table" in dict(encoding.named_parameters())) == learned
    assert (encoding.table[:3].abs().sum(1) > 0).all()


def test_the_rank_encoding_reads_the_similarity():
    torch.manual_seed(0)
    ranker = build("context_aware", dimensions=4, width=8, heads=2, positional="fixed").eval()
    query, candidates = torch.randn(1, 4), torch.ones(1, 3, 4)  # items that differ in their rank only
    scores = ranker(query, candidates, torch.tensor([[0.1, 0.9, 0.5]]))
    again = ranker(query, candidates, torch.tensor([[0.9, 0.5, 0.1]]))
    torch.testing.assert_close(scores[0, [1, 2, 0]], again[0])
    assert scores.std() > 1e-4


def test_the_fused_projections_start_as_if_each_stood_alone():
    torch.manual_seed(0)
    attention = SelfAttention(30, 2, 0.0)
    bound = math.sqrt(6 / (30 + 30))
    for part in attention.qkv.weight.chunk(3):
        assert part.abs().max().item() == pytest.approx(bound, rel=0.02)
    assert attention.qkv.bias.abs().max().item() <= 30**-0.5


@pytest.mark.parametrize("eps", [1e-6, 0.3])
def test_unbiased_layer_norm_and_its_gradient(eps):
    norm = UnbiasedLayerNorm(8, eps).double()
    x, weight, bias = (torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((3, 8), (8,), (8,)))

    def applied(x, weight, bias):
        return torch.func.functional_call(norm, {"weight": weight, "bias": bias}, (x,))

    expected = weight * (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + eps) + bias
    torch.testing.assert_close(applied(x, weight, bias), expected)
    assert torch.autograd.gradcheck(applied, (x, weight, bias))


def test_long_lists_attend_as_short_ones(make_lists, monkeypatch):
    ranker = build("context_aware", dimensions=6, width=8, heads=2).double()
    query, candidates, similarity = make_lists(count=3, items=5)
    mask = torch.tensor([[True] * 5, [True, False, True, True, False], [False] * 5])
    short = ranker(query, candidates, similarity, mask=mask)
    monkeypatch.setattr("xmrank.rankers.transformer.SHORT", 2)
    torch.testing.assert_close(ranker(query, candidates, similarity, mask=mask), short)

"""The objectives of the dual encoders: values spelled out, and values and gradients of public implementations."""

import math
import os
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import tensor

from xmrank.baselines.objectives import (
    canonical_correlations,
    caption_relevance,
    cmpc_loss,
    cmpm_loss,
    dcca_loss,
    infonce_loss,
    listwise_loss,
    mix_losses,
    vsepp_loss,
)
from xmrank.losses import approx as losses_approx
from xmrank.losses import smooth_ndcg

REFERENCE = os.environ.get("XMRANK_REFERENCE")
FOLDER = Path(REFERENCE) if REFERENCE and Path(REFERENCE).is_dir() else None
reference = pytest.mark.skipif(FOLDER is None, reason="XMRANK_REFERENCE names no folder of reference values")
CASES = range(5)


@lru_cache
def load(name):
    with np.load(FOLDER / f"{name}.npz") as arrays:
        return dict(arrays)


def leaf(array):
    return torch.from_numpy(np.array(array)).requires_grad_()


def assert_gradients(value, leaves, expected, tolerance):
    for ours, theirs in zip(torch.autograd.grad(value, leaves), expected, strict=True):
        size = float(np.abs(theirs).max())
        torch.testing.assert_close(ours, torch.from_numpy(theirs).to(ours), rtol=tolerance, atol=tolerance * size)


@reference
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("ridge", ["0.0", "0.001", "0.0001"])
def test_canonical_correlations_are_the_singular_values(case, ridge):
    arrays = load("dcca_cca")
    candidates = canonical_correlations(
        *(torch.from_numpy(arrays[f"case{case}.{h}"]) for h in ("H1", "H2")), ridge=float(ridge)
    )
    expected = torch.from_numpy(arrays[f"case{case}.numpy_singular_values_reg{ridge}"])
    torch.testing.assert_close(candidates, expected, rtol=1e-9, atol=1e-12)


@reference
@pytest.mark.parametrize("case", CASES)
def test_dcca(case):
    """The reference adds its ridge also to the squares of the correlations, and keeps the k largest of them."""
    arrays = load("dcca_cca")
    sides = leaf(arrays[f"case{case}.H1"]), leaf(arrays[f"case{case}.H2"])
    key, k = f"case{case}.michaelvll_topk", int(arrays[f"case{case}.k"])
    if k == min(side.shape[1] for side in sides):
        value = dcca_loss(*sides, ridge=1e-3, smoothing=1e-3)
    else:
        value = -(canonical_correlations(*sides, ridge=1e-3)[:k].square() + 1e-3).sqrt().sum()
    assert value.item() == pytest.approx(float(arrays[f"{key}.loss64"]), rel=1e-9)
    assert_gradients(value, sides, [arrays[f"{key}.grad_H1"], arrays[f"{key}.grad_H2"]], 1e-7)


def test_dcca_of_one_dimension_is_the_correlation():
    first, second = tensor([[1.0], [2.0], [4.0]]), tensor([[2.0], [1.0], [5.0]])
    # deviations −4/3 −1/3 5/3 and −2/3 −5/3 7/3
    covariance = (8 + 5 + 35) / 9 / 2
    variances = (16 + 1 + 25) / 9 / 2 + 0.5, (4 + 25 + 49) / 9 / 2 + 0.5
    assert dcca_loss(first, second, ridge=0.5).item() == pytest.approx(
        -covariance / math.sqrt(variances[0] * variances[1])
    )


@reference
@pytest.mark.parametrize("case", CASES)
def test_cmpm(case):
    arrays = load("cmpm_cmpc_tf")
    sides = leaf(arrays[f"case{case}.img"]), leaf(arrays[f"case{case}.txt"])
    value = cmpm_loss(*sides, torch.from_numpy(arrays[f"case{case}.labels"]))
    key = f"case{case}.tf_cmpm"
    assert value.item() == pytest.approx(float(arrays[f"{key}64"]), rel=1e-9)
    assert_gradients(value, sides, [arrays[f"{key}_grad_img64"], arrays[f"{key}_grad_txt64"]], 1e-9)


def test_cmpm_by_hand():
    image, text = tensor([[2.0, 0.0], [0.0, 1.0]]), tensor([[3.0, 0.0], [0.0, 5.0]])
    value = cmpm_loss(image, text, tensor([7, 8]))

    def divergence(own):  # of the softmax of (own, 0) from (1, 0)
        p = math.exp(own) / (math.exp(own) + 1)
        return p * math.log(p) + (1 - p) * (math.log(1 - p) - math.log(1e-8))

    assert value.item() == pytest.approx(
        (divergence(2.0) + divergence(1.0) + divergence(3.0) + divergence(5.0)) / 2, rel=1e-5
    )


@reference
@pytest.mark.parametrize("case", CASES)
def test_cmpc(case):
    """The reference rounds its logits to single precision."""
    arrays = load("cmpm_cmpc_tf")
    leaves = [leaf(arrays[f"case{case}.{name}"]) for name in ("img", "txt", "W")]
    value = cmpc_loss(leaves[0], leaves[1], torch.from_numpy(arrays[f"case{case}.labels"]), leaves[2])
    key = f"case{case}.tf_cmpc"
    assert value.item() == pytest.approx(float(arrays[f"{key}64"]), rel=1e-6)
    assert_gradients(value, leaves, [arrays[f"{key}_grad_{name}64"] for name in ("img", "txt", "W")], 1e-5)


@reference
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("margin", ["0.05", "0.2"])
@pytest.mark.parametrize("hardest", [0, 1])
def test_vsepp(case, margin, hardest):
    """The reference adds up the hinges of all pairs in both directions; ours is their mean."""
    arrays = load("vsepp_contrastive")
    key = f"case{case}.cosine_max{hardest}_m{margin}"
    if f"{key}.loss64" not in arrays:
        pytest.skip("no such case")
    sides = leaf(arrays[f"case{case}.img"]), leaf(arrays[f"case{case}.txt"])
    value = 2 * len(sides[0]) * vsepp_loss(*sides, margin=float(margin), hardest=bool(hardest))
    assert value.item() == pytest.approx(float(arrays[f"{key}.loss64"]), rel=1e-9)
    assert_gradients(value, sides, [arrays[f"{key}.grad_img64"], arrays[f"{key}.grad_txt64"]], 1e-9)


@reference
@pytest.mark.parametrize("weight", ["0.0", "0.5", "1.0"])
@pytest.mark.parametrize("temperature", ["0.01", "0.1", "1.0"])
@pytest.mark.parametrize("case", CASES)
def test_listwise_itr(case, temperature, weight):
    """Relevance, and the sum of both halves, with the two faults of the public code."""
    arrays = load("listwise_itr_sndcg")
    key = f"case{case}.tau{temperature}_w{weight}"
    own, captions = (torch.from_numpy(arrays[f"case{case}.{name}"]) for name in ("img_caption_emb", "txt_caption_emb"))
    own, captions = (torch.nn.functional.normalize(embeddings, dim=-1) for embeddings in (own, captions))
    relevance = caption_relevance(own, torch.ones(own.shape[:2], dtype=torch.bool), captions)
    expected = torch.from_numpy(arrays[f"case{case}.tau{temperature}_w1.0.local.relevance"])
    torch.testing.assert_close(relevance, expected, rtol=1e-9, atol=1e-12)
    relevance = expected  # captions of one image tie in its IDCG, or do not, by the last bit of a product
    sides = leaf(arrays[f"case{case}.img_emb"]), leaf(arrays[f"case{case}.txt_emb"])
    ranked = listwise_loss(*sides, relevance, temperature=float(temperature), reference_compatible=True)
    value = mix_losses(vsepp_loss(*sides, margin=0.2), ranked, float(weight))
    assert value.item() == pytest.approx(float(arrays[f"{key}.loss64"]), rel=1e-9, abs=1e-12)
    expected = [arrays[f"{key}.grad_{side}64"] for side in ("img", "txt")]
    if case == 4:  # images 0 and 1 are equal, so tie as the hardest: their gradient goes to one there, to both here
        assert torch.equal(sides[0][0], sides[0][1])
        candidates = torch.autograd.grad(value, sides)
        for ours, theirs in zip(candidates, map(torch.from_numpy, expected), strict=True):
            close = {"rtol": 1e-8, "atol": 1e-8 * float(theirs.abs().max())}
            torch.testing.assert_close(ours[2:], theirs[2:], **close)
            torch.testing.assert_close(ours[:2].sum(0), theirs[:2].sum(0), **close)
    else:
        assert_gradients(value, sides, expected, 1e-8)


def test_listwise_asks_the_columns_of_the_relevance_in_the_other_direction():
    generator = torch.Generator().manual_seed(0)
    image, text = (torch.randn(4, 3, generator=generator, dtype=torch.float64) for _ in "it")
    relevance = torch.rand(4, 4, generator=generator, dtype=torch.float64)
    scores = image @ text.T
    expected = (smooth_ndcg(scores, relevance) + smooth_ndcg(scores.T, relevance.T)) / 2
    faulty = (smooth_ndcg(scores, relevance) + smooth_ndcg(scores.T, relevance)) / 2
    assert listwise_loss(image, text, relevance).item() == pytest.approx(expected.item())
    assert listwise_loss(image, text, relevance, reference_compatible=True).item() == pytest.approx(faulty.item())
    assert abs(expected.item() - faulty.item()) > 0.01


def test_relevance_by_hand():
    own = tensor([[[1.0, 0.0], [0.0, 1.0]], [[-1.0, 0.0], [0.6, 0.8]]])
    real = tensor([[True, True], [True, False]])  # the second image has one caption
    captions = tensor([[1.0, 0.0], [0.6, 0.8]])
    candidates = caption_relevance(own, real, captions)
    assert candidates.tolist() == [
        pytest.approx([(1 + 1.0) / 2, (1 + 0.8) / 2]),
        pytest.approx([(1 - 1.0) / 2, (1 - 0.6) / 2]),
    ]


def test_infonce_by_hand():
    image, text = torch.eye(2), tensor([[0.6, 0.8], [0.8, 0.6]])
    rows = math.log(1 + math.exp(5 * (0.8 - 0.6)))  # of every image, and of every text
    assert infonce_loss(image, text, 5.0).item() == pytest.approx(rows)


def test_weight_mixes():
    assert mix_losses(tensor(2.0), tensor(10.0), 0.25).item() == 0.75 * 2.0 + 0.25 * 10.0
    assert mix_losses(tensor(2.0), None, 0.25).item() == 2.0


@pytest.mark.parametrize("padded", [False, True])
def test_blocks_of_dense_lists_change_nothing(monkeypatch, padded):
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(5, 7, generator=generator, dtype=torch.float64, requires_grad=True)
    labels = torch.rand(5, 7, generator=generator, dtype=torch.float64) + 0.1
    mask = torch.rand(5, 7, generator=generator) > 0.3 if padded else None
    values = []
    for cells in (1 << 20, 100):  # all at once; two lists at a time
        monkeypatch.setattr(losses_approx, "CELLS", cells)
        value = smooth_ndcg(scores, labels, mask=mask, temperature=0.5)
        values.append((value.detach(), *torch.autograd.grad(value, scores)))
    for whole, blocks in zip(*values, strict=True):
        torch.testing.assert_close(blocks, whole, rtol=1e-12, atol=1e-14)


LARGE = """
import resource, torch
torch.set_num_threads(1)
from xmrank.baselines.objectives import listwise_loss
image, text = (torch.nn.functional.normalize(torch.randn(BATCH, 64), dim=1).requires_grad_() for _ in "ab")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
listwise_loss(image, text, torch.rand(BATCH, BATCH)).backward()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_memory_of_a_batch_does_not_grow_with_its_third_power():
    """300 lists of 300 items: a value for every list and pair of items takes 103 MiB; a plain gradient keeps some."""
    code = LARGE.replace("BATCH", "300")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 60 * 1024  # KiB

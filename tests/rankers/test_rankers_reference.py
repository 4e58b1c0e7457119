"""Forward and gradient of allRank's models, recorded with their parameters, reproduced by ours.

A recorded item is a vector without query and candidate. It becomes one through the feature `product` with a query of
ones, so that everything runs through the public forward.
"""

import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from ranker_samples import build

FOLDER = os.environ.get("XMRANK_REFERENCE")
pytestmark = pytest.mark.skipif(not FOLDER, reason="XMRANK_REFERENCE does not name the folder of reference values")

# What each recorded model was made with; the file has the parameters only.
MODELS = {
    "seed_config": ("context_aware", {"heads": 4}),
    "small_pe_fixed": (
        "context_aware",
        {
            "width": 8,
            "hidden": [16],
            "activation": "relu",
            "heads": 4,
            "feed_forward": 24,
            "positional": "fixed",
            "max_rank": 9,
            "input_norm": True,
            "output_activation": "tanh",
        },
    ),
    "small_pe_learned": (
        "context_aware",
        {"width": 8, "layers": 1, "heads": 2, "feed_forward": 16, "positional": "learned", "max_rank": 9},
    ),
    "ordinal_head": (
        "context_aware",
        {"width": 8, "heads": 1, "feed_forward": 16, "levels": 4, "output_activation": "sigmoid"},
    ),
    "mlp_only": ("pointwise", {"hidden": [16, 8], "activation": "relu"}),
}
NAMES = [  # theirs → ours, in this order
    (r"^input_layer\.layers\.0\.", "input."),
    (r"^input_layer\.input_norm\.", "input.norm_"),
    (r"^output_layer\.w_1\.", "output."),
    (r"^encoder\.position\.pe(\.weight)?$", "position.table"),
    (r"^encoder\.", ""),
    (r"\.self_attn\.linears\.3\.", ".attention.output."),
    (r"\.feed_forward\.w_1\.", ".widen."),
    (r"\.feed_forward\.w_2\.", ".narrow."),
    (r"\.sublayer\.0\.norm\.", ".attention_norm."),
    (r"\.sublayer\.1\.norm\.", ".feed_forward_norm."),
    (r"norm\.a_2$", "norm.weight"),
    (r"norm\.b_2$", "norm.bias"),
]


@pytest.fixture(scope="module")
def recorded():
    path = Path(FOLDER) / "allrank_model_forward.npz"
    if not path.exists():
        pytest.skip(f"{path} does not exist")
    with np.load(path) as arrays:
        return {key: torch.from_numpy(np.asarray(arrays[key])) for key in arrays.files}


def translate(theirs, further_layers):
    """Their parameters under our names; the three projections of attention become one."""
    ours, fused = {}, {}
    for key, value in theirs.items():
        projection = re.fullmatch(r"encoder\.(layers\.\d+)\.self_attn\.linears\.[012]\.(weight|bias)", key)
        if projection:
            fused.setdefault(f"{projection[1]}.attention.qkv.{projection[2]}", []).append(value)
            continue
        for pattern, name in NAMES:
            key = re.sub(pattern, name, key)
        key = re.sub(r"^input_layer\.layers\.(\d+)", lambda m: f"{further_layers}.layers.{int(m[1]) - 1}", key)
        ours[key] = value
    return ours | {key: torch.cat(values) for key, values in fused.items()}


@pytest.mark.parametrize("case", MODELS)
def test_equals_the_recorded_model(case, recorded):
    arrays = {key.removeprefix(f"{case}."): value for key, value in recorded.items() if key.startswith(f"{case}.")}
    items, mask = arrays["x"].requires_grad_(), ~arrays["mask"]
    name, parameters = MODELS[case]
    variant = {"layer_norm": "unbiased"} if name == "context_aware" else {}
    ranker = build(name, dimensions=items.shape[-1], features=["product"], **variant, **parameters).double().eval()
    theirs = {key.removeprefix("param."): value for key, value in arrays.items() if key.startswith("param.")}
    ranker.load_state_dict(translate(theirs, "front" if name == "context_aware" else "hidden"))
    assert sum(p.numel() for p in ranker.parameters()) == arrays["n_params"].item()

    query = torch.ones_like(items[:, 0])
    similarity = -torch.arange(items.shape[1], dtype=torch.float64).expand(mask.shape)  # rank = recorded index
    assert torch.equal(torch.where(mask, -similarity, -1).long(), arrays["indices"])
    output = ranker(query, items, similarity, mask=mask)
    torch.testing.assert_close(output[mask], arrays["output"][mask], rtol=0, atol=1e-9)

    scores = ranker.score(query, items, similarity, mask=mask)
    torch.testing.assert_close(scores[mask], arrays["score"][mask], rtol=0, atol=1e-9)
    (gradient,) = torch.autograd.grad(scores.sum(), items)
    torch.testing.assert_close(gradient, arrays["grad_x_of_sum_valid_scores"], rtol=0, atol=1e-9)


def test_every_recorded_model_is_reproduced(recorded):
    assert {key.split(".")[0] for key in recorded} == set(MODELS)

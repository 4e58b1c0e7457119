"""Building by name: what is kept, and what is said when something is wrong."""

import json

import pytest
from ranker_samples import build

from xmrank.rankers import RANKERS


def test_an_unknown_ranker_names_the_known_ones():
    with pytest.raises(ValueError, match=rf"^ranker tree: expected one of {', '.join(RANKERS)}$"):
        build("tree", dimensions=4)


@pytest.mark.parametrize("name", RANKERS)
def test_an_unknown_parameter_names_the_known_ones(name):
    with pytest.raises(ValueError, match=rf"^ranker {name} has no parameter depth; expected: features, "):
        build(name, dimensions=4, depth=3)


@pytest.mark.parametrize("name", RANKERS)
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"dimensions": 0}, "dimensions 0: expected an integer of at least 1"),
        ({"levels": True}, "levels True: expected an integer of at least 1"),
        ({"features": []}, r"features \[\]: expected a list of distinct names among concat, product, "),
        ({"features": "concat"}, "features 'concat': expected a list of distinct names"),
        ({"features": ["concat", "sum"]}, r"features \['concat', 'sum'\]: expected"),
        ({"features": ["concat", "concat"]}, r"features \['concat', 'concat'\]: expected a list of distinct names"),
        ({"input_norm": 1}, "input_norm 1: expected true or false"),
        ({"input_norm": True, "features": ["cosine"]}, "input_norm True: expected embedding features"),
        ({"input_dropout": 1.0}, "input_dropout 1.0: expected at least 0 and below 1"),
        ({"input_dropout": "0.1"}, "input_dropout '0.1': expected at least 0 and below 1"),
        ({"output_activation": "relu"}, "output_activation 'relu': expected one of None, sigmoid, tanh"),
        ({"residual": float("inf")}, "residual inf: expected a finite number or None"),
    ],
)
def test_a_wrong_shared_value_is_named(name, wrong, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        build(name, **{"dimensions": 4, **wrong})


@pytest.mark.parametrize(
    ("name", "wrong", "message"),
    [
        ("context_aware", {"width": 10, "heads": 4}, "width 10: expected a multiple of heads 4"),
        ("context_aware", {"layers": 0}, "layers 0: expected an integer of at least 1"),
        ("context_aware", {"max_rank": 2.5}, "max_rank 2.5: expected an integer"),
        ("context_aware", {"hidden": 5}, "hidden 5: expected a list of layer sizes"),
        ("context_aware", {"positional": "rotary"}, "positional 'rotary': expected one of None, fixed, learned"),
        ("context_aware", {"layer_norm": "rms"}, "layer_norm 'rms': expected one of standard, unbiased"),
        ("context_aware", {"activation": "selu"}, "activation 'selu': expected one of None, relu, gelu, silu, tanh"),
        ("context_aware", {"dropout": -0.1}, "dropout -0.1: expected at least 0 and below 1"),
        ("pointwise", {"hidden": []}, r"hidden \(\): expected at least one layer size"),
        ("pointwise", {"hidden": [8, 0]}, "hidden 0: expected an integer of at least 1"),
        ("pointwise", {"activation": "selu"}, "activation 'selu': expected one of"),
        ("pointwise", {"dropout": 1}, "dropout 1: expected at least 0 and below 1"),
    ],
)
def test_a_wrong_value_of_its_own_is_named(name, wrong, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        build(name, dimensions=4, **wrong)


def test_parameters_are_complete_and_survive_json():
    ranker = build("context_aware", dimensions=8, features=("cosine", "concat"), hidden=(16,), residual=25)
    kept = ranker.describe()["parameters"]
    assert json.loads(json.dumps(kept)) == kept
    assert kept["features"] == ["concat", "cosine"]
    assert ranker.describe()["dimensions"] == 8
    assert (kept["width"], kept["layers"], kept["heads"], kept["feed_forward"]) == (64, 2, 4, 128)
    assert kept["hidden"] == [16]
    assert kept["residual"] == 25


def test_the_papers_ranker_has_its_parameter_count():
    ranker = build("context_aware", dimensions=512)
    first = 1024 * 64 + 64
    encoder_layer = 4 * (64 * 64 + 64) + (64 * 128 + 128) + (128 * 64 + 64) + 2 * (64 + 64)
    assert sum(p.numel() for p in ranker.parameters()) == first + 2 * encoder_layer + (64 + 64) + (64 + 1)

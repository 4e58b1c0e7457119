"""Building by name: what is kept, and what is said when something is wrong."""

import json

import pytest

from xmrank.rankers import RANKERS, build


def test_an_unknown_ranker_names_the_known_ones():
    with pytest.raises(ValueError, match=r"^unknown ranker 'tree'; expected one of context_aware, pointwise, linear$"):
        build("tree", dimensions=4)


@pytest.mark.parametrize("name", RANKERS)
def test_an_unknown_parameter_names_the_known_ones(name):
    with pytest.raises(ValueError, match=rf"^ranker '{name}' has no parameter depth; expected: dimensions, features, "):
        build(name, dimensions=4, depth=3)


@pytest.mark.parametrize("name", RANKERS)
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"dimensions": 0}, "dimensions must be an integer of at least 1, not 0"),
        ({"levels": True}, "levels must be an integer of at least 1, not True"),
        ({"features": []}, r"features must be a list of distinct names among concat, product, .*, not \[\]"),
        ({"features": "concat"}, "features must be a list of distinct names"),
        ({"features": ["concat", "sum"]}, r"not \['concat', 'sum'\]"),
        ({"features": ["concat", "concat"]}, "features must be a list of distinct names"),
        ({"input_norm": 1}, "input_norm must be true or false, not 1"),
        ({"input_norm": True, "features": ["cosine"]}, "input_norm normalises embedding features"),
        ({"input_dropout": 1.0}, "input_dropout must be at least 0 and below 1, not 1.0"),
        ({"input_dropout": "0.1"}, "input_dropout must be at least 0 and below 1, not '0.1'"),
        ({"output_activation": "relu"}, "output_activation must be one of None, sigmoid, tanh, not 'relu'"),
        ({"residual": float("inf")}, "residual must be a finite number or None, not inf"),
    ],
)
def test_a_wrong_shared_value_is_named(name, wrong, message):
    with pytest.raises(ValueError, match=f"^ranker '{name}': .*{message}"):
        build(name, **{"dimensions": 4, **wrong})


@pytest.mark.parametrize(
    ("name", "wrong", "message"),
    [
        ("context_aware", {"width": 10, "heads": 4}, "width 10 must be a multiple of heads 4"),
        ("context_aware", {"layers": 0}, "layers must be an integer of at least 1, not 0"),
        ("context_aware", {"max_rank": 2.5}, "max_rank must be an integer"),
        ("context_aware", {"hidden": 5}, "hidden must be a list of layer sizes, not 5"),
        ("context_aware", {"positional": "rotary"}, "positional must be one of None, fixed, learned, not 'rotary'"),
        ("context_aware", {"layer_norm": "rms"}, "layer_norm must be one of standard, unbiased, not 'rms'"),
        ("context_aware", {"activation": "selu"}, "activation must be one of None, relu, gelu, silu, tanh"),
        ("context_aware", {"dropout": -0.1}, "dropout must be at least 0 and below 1, not -0.1"),
        ("pointwise", {"hidden": []}, "hidden must have at least one layer size"),
        ("pointwise", {"hidden": [8, 0]}, "each of hidden must be an integer of at least 1, not 0"),
        ("pointwise", {"activation": "selu"}, "activation must be one of"),
        ("pointwise", {"dropout": 1}, "dropout must be at least 0 and below 1, not 1"),
    ],
)
def test_a_wrong_value_of_its_own_is_named(name, wrong, message):
    with pytest.raises(ValueError, match=f"^ranker '{name}': {message}"):
        build(name, dimensions=4, **wrong)


def test_parameters_are_complete_and_survive_json():
    ranker = build("context_aware", dimensions=8, features=("cosine", "concat"), hidden=(16,), residual=25)
    kept = ranker.parameters_
    assert json.loads(json.dumps(kept)) == kept
    assert kept["features"] == ["concat", "cosine"]
    assert (kept["dimensions"], kept["width"], kept["layers"], kept["heads"], kept["feed_forward"]) == (
        8,
        64,
        2,
        4,
        128,
    )
    assert kept["hidden"] == [16]
    assert kept["residual"] == 25


def test_the_papers_ranker_has_its_parameter_count():
    ranker = build("context_aware", dimensions=512)
    first = 1024 * 64 + 64
    encoder_layer = 4 * (64 * 64 + 64) + (64 * 128 + 128) + (128 * 64 + 64) + 2 * (64 + 64)
    assert sum(p.numel() for p in ranker.parameters()) == first + 2 * encoder_layer + (64 + 64) + (64 + 1)

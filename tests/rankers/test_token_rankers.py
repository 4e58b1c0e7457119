"""What the rankers that read tokens compute, beside the contract of all rankers."""

from dataclasses import replace

import pytest
import torch
from ranker_samples import TEXT, build, tokens_of

from xmrank.rankers import (
    ListTokens,
    SideTokens,
    TokenSizes,
    build_ranker,
    late_interaction,
    make_parameters,
    token_ranker,
)
from xmrank.rankers.item_features import cosine_columns

NAMES = ["late_interaction", "cross_attention"]
CANDIDATE_TEXTS = replace(TEXT, text="candidate")
SMALL = {"width": 8, "heads": 2, "token_width": 4, "token_heads": 2}

each = pytest.mark.parametrize("name", NAMES)
each_side = pytest.mark.parametrize("sizes", [TEXT, CANDIDATE_TEXTS], ids=["query", "candidate"])


def make(name, sizes=TEXT, **parameters):
    """A float64 ranker in evaluation mode, with no parameter at 0."""
    torch.manual_seed(5)
    ranker = build(name, tokens=sizes, **{**SMALL, **parameters}).double().eval()
    with torch.no_grad():
        for parameter in ranker.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return ranker


def evidence(ranker, word, matched):
    """log σ(q·m/√d + bias) − log prior of an encoded word and what it is compared with, times the word's weight."""
    vector, (bias, prior, weight) = word[:4], word[4:]
    logit = vector @ matched / 2 + bias  # 2 is the root of token_width
    return weight * (torch.nn.functional.logsigmoid(logit) - prior)


def test_late_interaction_sums_the_evidence_of_the_best_regions(lists):
    # With one layer of width 1 and the output at 0, the score is the residual and the interaction.
    ranker = make("late_interaction", token_gain=3.0, residual=2.0)
    for layer in (ranker.output.weight, ranker.output.bias):
        torch.nn.init.zeros_(layer)
    query, _, similarity = lists
    tokens = tokens_of(TEXT, query, similarity)
    words = ranker.project_tokens("query", tokens.query.values, tokens.query.mask)
    regions = ranker.project_tokens("candidate", tokens.candidate.values, tokens.candidate.mask)
    for row in range(3):
        real = words[row][tokens.query.mask[row]]
        for item in range(5):
            own = regions[tokens.candidate.index[row, item]]
            interaction = sum(evidence(ranker, word, own[(own @ word[:4]).argmax()]) for word in real)
            expected = ranker.residual * similarity[row, item] + 3.0 * ranker.interaction_scale * interaction
            assert ranker(*lists)[row, item].item() == pytest.approx(expected.item(), abs=1e-12)


def test_cross_attention_compares_a_word_with_what_it_attends_to(lists):
    ranker = make("cross_attention", token_heads=1, token_gain=3.0, residual=None)
    for layer in (ranker.output.weight, ranker.output.bias):
        torch.nn.init.zeros_(layer)
    query, _, similarity = lists
    tokens = tokens_of(TEXT, query, similarity)
    words = ranker.project_tokens("query", tokens.query.values, tokens.query.mask)
    regions, keys, values = ranker.project_tokens("candidate", tokens.candidate.values, None).split(4, -1)
    layer, image = ranker.cross_layers[0], tokens.candidate.index[1, 2]
    real = words[1][tokens.query.mask[1]]
    vectors = real[:, :4]
    matched = (vectors @ regions[image].T / 2).softmax(-1) @ regions[image]
    attention = (layer.query(layer.norm(vectors + matched)) @ keys[image].T / 2).softmax(-1)
    matched = matched + layer.output(attention @ values[image])
    interaction = sum(evidence(ranker, word, match) for word, match in zip(real, matched, strict=True))
    expected = 3.0 * ranker.interaction_scale * interaction
    assert ranker(*lists)[1, 2].item() == pytest.approx(expected.item(), abs=1e-12)


def test_the_list_transformer_reads_the_mean_of_the_words(lists):
    ranker = make("late_interaction")
    query, _, similarity = lists
    tokens = ranker.project_lists(tokens_of(TEXT, query, similarity))
    vectors, scores = ranker._compare(tokens.query, tokens.candidate)
    words, regions = tokens.query.values[1], tokens.candidate.values[tokens.candidate.index[1, 2]]
    real = words[tokens.query.mask[1]]
    products = torch.stack([word[:4] * regions[(regions @ word[:4]).argmax()] for word in real])
    weights = real[:, 6]
    torch.testing.assert_close(vectors[1, 2], (weights[:, None] * products).sum(0) / weights.sum())
    assert scores.shape == similarity.shape


def test_a_word_is_the_same_in_every_text_at_first():
    torch.manual_seed(0)
    ranker = build("late_interaction", **SMALL).double().eval()
    words = torch.randn(2, 3, 4, dtype=torch.float64)
    encoded = ranker.project_tokens("query", words, None)
    alone = ranker.project_tokens("query", words[:, :1], None)
    torch.testing.assert_close(encoded[:, :1], alone, rtol=0, atol=1e-12)
    torch.nn.init.normal_(ranker.word_encoder.layers[0].attention.output.weight)
    assert not torch.allclose(ranker.project_tokens("query", words, None)[:, :1], alone)


def test_a_word_is_detected_by_the_best_region():
    ranker = make("late_interaction")
    images, words = torch.randn(2, 4, 5, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)
    mask = torch.tensor([[True] * 4, [True, True, False, False]])
    logits, prior = ranker.detect_words(images, words, mask)
    regions = ranker.region_encoder(images, mask)
    encoded = ranker.word_encoder(words[:, None], None, in_context=False)[:, 0]
    for image, count in ((0, 4), (1, 2)):
        best = (regions[image, :count] @ encoded[2, :4]).max()
        assert logits[image, 2].item() == pytest.approx((best / 2 + encoded[2, 4]).item(), abs=1e-12)
    torch.testing.assert_close(prior, encoded[:, 5])
    assert (prior < 0).all()
    assert torch.equal(ranker.detect_words(images[:1], words)[0], ranker.detect_words(images[:1], words, mask[:1])[0])


@each
def test_renewed_encoders_follow_from_the_seed_alone(name):
    one, other = make(name, width=8), make(name, width=4)
    before = torch.random.get_rng_state()
    for ranker in (one, other):
        ranker.renew_encoders(7)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(one.word_encoder.input.weight, other.word_encoder.input.weight)
    assert torch.equal(one.region_encoder.output.weight, other.region_encoder.output.weight)


@each
@each_side
def test_projected_tokens_give_equal_scores(name, sizes, lists):
    ranker, (query, _, similarity) = make(name, sizes), lists
    tokens = tokens_of(sizes, query, similarity)
    query_side, candidate_side = (
        SideTokens(ranker.project_tokens(side, part.values, part.mask), part.mask, part.index, projected=True)
        for side, part in (("query", tokens.query), ("candidate", tokens.candidate))
    )
    projected = ListTokens(query_side, candidate_side)
    half = ListTokens(tokens.query, candidate_side)
    torch.testing.assert_close(ranker(*lists, tokens=half), ranker(*lists, tokens=tokens), rtol=0, atol=1e-12)
    torch.testing.assert_close(ranker(*lists, tokens=projected), ranker(*lists, tokens=tokens), rtol=0, atol=1e-12)


@each
@each_side
def test_blocks_of_lists_give_equal_scores(name, sizes, lists, monkeypatch):
    ranker = make(name, sizes)
    whole = ranker(*lists)
    monkeypatch.setattr(token_ranker, "BLOCK", 1)
    torch.testing.assert_close(ranker(*lists), whole, rtol=0, atol=1e-12)


@each
@each_side
def test_an_item_in_several_lists_is_encoded_once(name, sizes, lists):
    ranker, (query, candidates, similarity) = make(name, sizes), lists
    # The second list has the candidates of the first, by index.
    lists = query, candidates[[0, 0, 2]], similarity[[0, 0, 2]]
    tokens = tokens_of(sizes, query, lists[2])
    index = tokens.candidate.index.clone()
    index[1] = index[0]
    shared = replace(tokens, candidate=replace(tokens.candidate, index=index))
    torch.testing.assert_close(ranker(*lists, tokens=shared), ranker(*lists, tokens=tokens), rtol=0, atol=1e-12)


@pytest.mark.parametrize("all_real", [True, False])
def test_images_that_lists_share_are_compared_once(lists, monkeypatch, all_real):
    ranker, tokens = make("late_interaction"), tokens_of(TEXT, lists[0], lists[2])
    mask = tokens.candidate.mask.clone()
    mask[:] = True
    mask[1, 2:] = mask[4] = all_real
    # Every list has some of the first seven images, in an order of its own.
    index = torch.tensor([[4, 1, 0, 6, 2], [0, 0, 3, 1, 5], [6, 5, 4, 3, 1]])
    candidate = replace(tokens.candidate, values=tokens.candidate.values[:7], mask=mask[:7], index=index)
    scores = []
    for most in (0, 7 / 5):
        monkeypatch.setattr(late_interaction, "SHARED", most)
        scores.append(ranker(*lists, tokens=replace(tokens, candidate=candidate)))
        # From here on, the comparison list by list is not used.
        monkeypatch.setattr(SideTokens, "gather", forbid_copies(SideTokens.gather))
    torch.testing.assert_close(scores[1], scores[0], rtol=0, atol=1e-12)


def forbid_copies(gather):
    """`SideTokens.gather`, which must not be called for candidates."""

    def checked(side):
        assert side.index.dim() == 1, "the regions of a list were copied"
        return gather(side)

    return checked


@each
@each_side
def test_tokens_of_lists_without_common_items(name, sizes, lists):
    ranker, (query, _, similarity) = make(name, sizes), lists
    tokens = tokens_of(sizes, query, similarity)
    sides = tokens.query.gather(), tokens.candidate.gather()
    masks = tokens.query.gather_mask(), tokens.candidate.gather_mask()
    expected = ranker(*lists, tokens=tokens)
    scores = ranker(*lists, tokens=ListTokens.of_lists(*sides, *masks))
    torch.testing.assert_close(scores, expected, rtol=0, atol=1e-12)
    # One gallery for all lists: the candidates of the first.
    gallery = ListTokens.of_lists(sides[0], sides[1][0], masks[0], masks[1][0])
    scores = ranker(*lists, tokens=gallery)
    torch.testing.assert_close(scores[0], expected[0], rtol=0, atol=1e-12)


@each
@each_side
def test_padding_of_tokens_changes_nothing(name, sizes, lists):
    ranker, (query, _, similarity) = make(name, sizes), lists
    tokens = tokens_of(sizes, query, similarity)
    expected = ranker(*lists, tokens=tokens)

    def pad(side):
        values = torch.nn.functional.pad(side.values, (0, 0, 0, 2), value=float("nan"))
        return SideTokens(values, torch.nn.functional.pad(side.mask, (0, 2)), side.index)

    scores = ranker(*lists, tokens=ListTokens(pad(tokens.query), pad(tokens.candidate)))
    torch.testing.assert_close(scores, expected, rtol=0, atol=1e-12)
    scores.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in ranker.parameters() if parameter.grad is not None)


@each
def test_an_item_without_tokens_has_a_score(name, lists):
    ranker, (query, _, similarity) = make(name), lists
    tokens = tokens_of(TEXT, query, similarity)
    emptied = [replace(side, mask=side.mask & (torch.arange(len(side.mask)) > 0)[:, None])
               for side in (tokens.query, tokens.candidate)]  # fmt: skip
    scores = ranker(*lists, tokens=ListTokens(*emptied))
    scores.sum().backward()
    assert scores.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in ranker.parameters() if parameter.grad is not None)


@each
@each_side
def test_the_first_steps_from_the_first_stage_reach_the_tokens(name, sizes, lists):
    torch.manual_seed(0)
    ranker = build(name, tokens=sizes, **SMALL, residual=20.0).double()
    optimizer = torch.optim.Adam(ranker.parameters(), 0.01)
    target = torch.randn(3, 5, dtype=torch.float64)
    losses = []
    for _ in range(30):
        loss = (ranker(*lists) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert ranker.region_encoder.input.weight.grad.abs().sum() > 0
    assert losses[-1] < 0.5 * losses[0]


@each
def test_regions_without_an_order_may_be_in_any_order(name, lists):
    ranker, (query, _, similarity) = make(name, image_positions=False), lists
    tokens = tokens_of(TEXT, query, similarity)
    turned = replace(tokens, candidate=replace(tokens.candidate, values=tokens.candidate.values.flip(1)))
    torch.testing.assert_close(ranker(*lists, tokens=turned), ranker(*lists, tokens=tokens), rtol=0, atol=1e-12)


@each
def test_without_layers_a_score_depends_on_its_own_candidate(name, lists):
    # The standardised columns depend on the list, so that the first step of the list transformer is left out here.
    ranker = make(name, layers=0)
    assert len(ranker.layers) == 0
    assert ranker(*lists).shape == (3, 5)


def test_only_token_rankers_may_have_no_layers():
    with pytest.raises(ValueError, match="layers 0: expected an integer of at least 1"):
        make_parameters("context_aware", layers=0)


@each
def test_missing_tokens_are_named(name, lists):
    ranker = build_ranker(make_parameters(name, **SMALL), dimensions=6, tokens=TEXT).double()
    with pytest.raises(ValueError, match=f"ranker {name}: reads tokens"):
        ranker(*lists)
    with pytest.raises(ValueError, match=r"expected their sizes \(tokens=TokenSizes"):
        build_ranker(make_parameters(name), dimensions=6)


def test_a_ranker_without_tokens_refuses_them(lists):
    query, _, similarity = lists
    with pytest.raises(ValueError, match="ranker linear: reads no tokens"):
        build("linear").double()(*lists, tokens=tokens_of(TEXT, query, similarity))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"index": torch.zeros(3, 4, dtype=torch.int64)}, r"candidate token index must be int64 \[3, 5\]"),
        ({"mask": torch.ones(15, 4)}, r"candidate token mask must be bool \[15, 4\]"),
        ({"values": torch.zeros(15, 4)}, r"candidate tokens must be floating point \[items, longest, width\]"),
        ({"values": torch.zeros(15, 4, 3)}, r"candidate tokens must be \[items, longest, 5\]"),
        ({"values": torch.zeros(15, 3, 5), "mask": torch.ones(15, 3, dtype=torch.bool)}, "expected a grid of 4"),
    ],
)
def test_tokens_that_do_not_fit_are_refused(change, message, lists):
    query, _, similarity = lists
    tokens = tokens_of(TEXT, query, similarity)
    wrong = replace(tokens, candidate=replace(tokens.candidate, **change))
    with pytest.raises(ValueError, match=message):
        make("late_interaction", token_convolutions=1)(*lists, tokens=wrong)


def test_convolutions_need_a_grid():
    with pytest.raises(ValueError, match="token_convolutions 2: expected 0, since the image tokens are no square grid"):
        build(
            "late_interaction", token_convolutions=2, tokens=TokenSizes(text_width=4, image_width=5, image_longest=36)
        )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"token_width": 6, "token_heads": 4}, "token_width 6: expected a multiple of token_heads 4"),
        ({"token_gain": -1.0}, "token_gain -1.0: expected a finite number of at least 0"),
        ({"token_dropout": 1.0}, "token_dropout 1.0: expected at least 0 and below 1"),
        ({"image_positions": False, "token_convolutions": 1}, "token_convolutions 1: expected 0 with image_positions"),
        ({"image_positions": 1}, "image_positions 1: expected true or false"),
        ({"text_token_layers": -1}, "text_token_layers -1: expected an integer of at least 0"),
    ],
)
def test_bad_values_are_named(values, message):
    with pytest.raises(ValueError, match=message):
        make_parameters("late_interaction", **values)


def test_tiny_differences_of_the_interaction_are_not_blown_up():
    # Scores of a list that differ by 2e-4 around 0.1: a standard deviation of 1e-4, beside a floor of 1e-2.
    scores = torch.tensor([[0.1001, 0.0999]], dtype=torch.float64)
    columns = cosine_columns(scores, None, token_ranker.SCORE_FLOOR)
    assert columns[0, :, 1].tolist() == pytest.approx([1e-2, -1e-2], rel=1e-3)

"""The refinement: its arithmetic, that an empty one changes nothing, and that a ranker with one scores by it."""

import math
from dataclasses import replace

import pytest
import torch
from ranker_samples import build
from torch import tensor
from torch.nn import functional as F

from xmrank.rankers import RefinementParameters, RefinementSizes, rebuild_ranker
from xmrank.rankers.key_value_memory import KeyValueMemory
from xmrank.rankers.refinement import Refinement, apply_adapters


def gelu(x):
    return x * 0.5 * (1 + math.erf(x / math.sqrt(2)))


def refinement(dimensions, *, bank=0, memory=None, **parameters):
    """A refinement with a bank of some size; `memory` is taken as it is."""
    sizes = memory.sizes if memory else RefinementSizes()
    made = Refinement(dimensions, RefinementParameters(**parameters), replace(sizes, bank=bank))
    made.memory = memory
    return made


def filled(dimensions=6, members=2, **changes):
    """A refinement with weights and a bank that are not 0."""
    made = refinement(dimensions, **{"members": members, "width": 3, "bank": 4, "neighbours": 2, **changes}).double()
    generator = torch.Generator().manual_seed(5)
    for name, value in made.named_buffers():
        drawn = torch.randn(value.shape, generator=generator, dtype=torch.float64)
        value.copy_(F.normalize(drawn, dim=-1) if name == "bank" else drawn)
    return made


def test_an_adapter_adds_what_its_two_layers_make_of_the_embedding():
    inner, outer = tensor([[[2.0], [0.0]]]), tensor([[[0.0, 3.0]]])
    x = tensor([[0.6, 0.8]])
    adapted = apply_adapters(x, [inner, tensor([[[-0.2]]]), outer, tensor([[[0.5, 0.0]]])])
    raw = [0.6 + 0.5, 0.8 + 3.0 * gelu(2.0 * 0.6 - 0.2)]
    length = math.hypot(*raw)
    torch.testing.assert_close(adapted, tensor([[[raw[0] / length, raw[1] / length]]]))


def test_hubs_lose_the_mean_of_the_nearest_queries_of_the_bank():
    made = refinement(2, members=1, width=1, bank=3, neighbours=2)
    made.bank.copy_(tensor([[[1.0, 0.0], [0.6, 0.8], [-1.0, 0.0]]]))
    query, candidates = tensor([[1.0, 0.0]]), tensor([[[1.0, 0.0], [0.0, 1.0]]])
    # to the first candidate the bank's cosines are 1, 0.6 and -1, to the second 0, 0.8 and 0
    expected = [[1.0 - 0.5 * (1.0 + 0.6) / 2, 0.0 - 0.5 * (0.8 + 0.0) / 2]]
    torch.testing.assert_close(made(query, candidates), tensor(expected))


def test_members_are_averaged(lists):
    query, candidates, _ = lists
    both = filled()
    alone = []
    for member in range(2):
        one = refinement(6, members=1, width=3, bank=4, neighbours=2).double()
        for name, value in one.named_buffers():
            value.copy_(both.fusion_weights if name == "fusion_weights" else getattr(both, name)[member : member + 1])
        alone.append(one(query, candidates))
    torch.testing.assert_close(both(query, candidates), (alone[0] + alone[1]) / 2)
    assert not torch.allclose(*alone, atol=0.01)


def double(values):
    return tensor(values, dtype=torch.float64)


def make_memory(text="query", **changes):
    """A memory of three captions: two of the first image, one of the second."""
    parameters = RefinementParameters(memory_neighbours=2, memory_scale=5.0)
    sizes = RefinementSizes(memory_pairs=3, memory_images=2, **{"bank": 2, "text": text, **changes})
    made = KeyValueMemory(2, parameters, sizes).double()
    made.captions.copy_(double([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]]))
    made.images.copy_(double([[0.6, 0.8], [-1.0, 0.0]]))
    made.owner.copy_(tensor([0, 0, 1]))
    return made


def unit(*values):
    length = math.hypot(*values)
    return [value / length for value in values]


def test_a_caption_retrieves_the_images_of_similar_captions():
    made, caption = make_memory(), double([[0.6, 0.8]])
    # cosines 0.6, 0.96, 0.8: of the two nearest, one is of each image
    near, far = math.exp(5 * 0.96), math.exp(5 * 0.8)
    share = near / (near + far)
    expected = unit(0.6 * share - (1 - share), 0.8 * share)
    torch.testing.assert_close(made.retrieve_images(caption), double([expected]))
    torch.testing.assert_close(made.retrieve_images(caption, tensor([0])), double([[-1.0, 0.0]]))
    kept = made.drop_images(tensor([1])).double()
    torch.testing.assert_close(kept.retrieve_images(caption), double([[0.6, 0.8]]), atol=1e-3, rtol=0)


def test_a_memory_that_changes_is_not_read_as_it_was():
    """While queries are scored it keeps its captions and images in the queries' dtype."""
    made, caption = make_memory().half(), tensor([[0.6, 0.8]])
    with torch.inference_mode():
        first = made.retrieve_images(caption)
        assert made._widen(torch.float32)[0] is made._widen(torch.float32)[0]
        assert made.retrieve_images(caption.double()).dtype == torch.float64
    torch.testing.assert_close(made.retrieve_images(caption), first)
    made.load_state_dict({name: value.flip(-1) for name, value in made.state_dict().items()})
    with torch.inference_mode():
        changed = made.retrieve_images(caption)
        torch.testing.assert_close(made.to("cpu").double().retrieve_images(caption), changed)
    torch.testing.assert_close(made.retrieve_images(caption), changed)
    assert not torch.allclose(changed, first)


@pytest.mark.parametrize("text", ["query", "candidate"])
def test_the_memory_is_one_more_view_with_its_own_weight_and_bank(text):
    memory = make_memory(text)
    memory.bank.copy_(double([[1.0, 0.0], [0.0, 1.0]]))
    members = refinement(2, members=1, width=1, bank=2, neighbours=1).double()
    members.bank.copy_(double([[[0.6, 0.8], [1.0, 0.0]]]))
    both = refinement(2, members=1, width=1, bank=2, neighbours=1, memory=memory, memory_weight=0.3).double()
    both.bank.copy_(members.bank)
    query, candidates = double([[0.6, 0.8]]), double([[[1.0, 0.0], [0.28, 0.96]]])
    q, c = query, candidates[0]
    q, c = (memory.retrieve_images(q), c) if text == "query" else (q, memory.retrieve_images(c))
    retrieved = (c @ q.mT).mT - 0.5 * c.max(1).values  # to the axes, which are the bank
    torch.testing.assert_close(both(query, candidates), members(query, candidates) + 0.3 * retrieved)


def test_views_have_the_weights_of_the_fusion():
    memory = make_memory("candidate", bank=1).float()
    made = refinement(2, members=2, width=1, bank=1, neighbours=1, memory=memory)
    made.fusion_weights.copy_(tensor([[0.8, 0.6], [0.4, -0.2]]))
    made.bank.copy_(tensor([[[1.0, 0.0]], [[0.0, 1.0]]]))
    made.memory.bank.copy_(tensor([[-1.0, 0.0]]))
    query, candidate = tensor([[0.6, 0.8]]), tensor([[0.28, 0.96]])
    retrieved = made.memory.retrieve_images(candidate)[0]
    members = 0.8 * (0.6 * 0.28 + 0.8 * 0.96) - 0.6 * (0.28 + 0.96) / 2
    memory = 0.4 * (0.6 * retrieved[0] + 0.8 * retrieved[1]) + 0.2 * -retrieved[0]
    torch.testing.assert_close(made(query, candidate[None])[0, 0], members + memory)


def test_a_single_member_has_the_memory_without_some_images():
    memory = make_memory()
    both = refinement(2, members=2, width=3, bank=2, neighbours=1, memory=memory, memory_weight=0.3).double()
    generator = torch.Generator().manual_seed(1)
    for name in ("bank", "query_inner", "candidate_outer"):
        value = getattr(both, name)
        value.copy_(torch.randn(value.shape, generator=generator, dtype=torch.float64))
    one = both.take_member(1, tensor([0]))
    assert one.members == 1 and one.memory.captions.tolist() == [[0.0, 1.0]] and one.memory.owner.tolist() == [1]
    assert torch.equal(one.query_inner[0], both.query_inner[1].float()) and torch.equal(
        one.bank[0], both.bank[1].float()
    )
    assert not one.memory.bank.any() and torch.equal(one.fusion_weights, both.fusion_weights.float())


def test_an_empty_refinement_gives_the_cosine(lists):
    query, candidates, similarity = lists
    made = refinement(6, members=3, width=4, bank=0, neighbours=10).double()
    torch.testing.assert_close(made(query, candidates), similarity)


def test_more_neighbours_than_the_bank_has_are_all_of_it(lists):
    query, candidates, _ = lists
    few, many = filled(neighbours=4), filled(neighbours=99)
    torch.testing.assert_close(few(query, candidates), many(query, candidates))


@pytest.mark.parametrize("padded", [False, True])
def test_a_ranker_sees_the_refined_similarity_wherever_it_saw_the_first_stages(lists, padded):
    query, candidates, similarity = lists
    parameters = {"features": ["concat", "cosine"], "width": 8, "heads": 2, "feed_forward": 8, "residual": 2.0}
    torch.manual_seed(0)
    plain = build("context_aware", dimensions=6, **parameters).double().eval()
    torch.manual_seed(0)
    shape = {"refine": {"members": 2, "width": 3, "neighbours": 2}, "sizes": {"bank": 4}}
    ranker = build("context_aware", dimensions=6, **parameters, **shape).double().eval()
    ranker.refinement.load_state_dict(filled().state_dict())
    mask = None
    if padded:
        mask = torch.ones(3, 5, dtype=torch.bool)
        mask[1, 2:] = False
        candidates = candidates.masked_fill(~mask[..., None], torch.nan)
    refined = filled()(query, candidates)
    expected = plain(query, candidates, refined, mask=mask)
    torch.testing.assert_close(ranker(query, candidates, similarity, mask=mask), expected)
    torch.testing.assert_close(ranker(query, candidates, refined, mask=mask, refined=True), expected)
    assert not torch.allclose(expected, plain(query, candidates, similarity, mask=mask), atol=0.01)


def test_its_weights_are_kept_with_the_ranker_and_not_trained():
    ranker = build("linear", dimensions=6, refine={"members": 2}, sizes={"bank": 4})
    assert not any(name.startswith("refinement") for name, _ in ranker.named_parameters())
    assert ranker.state_dict()["refinement.bank"].shape == (2, 4, 6)
    assert rebuild_ranker(ranker.describe()).state_dict().keys() == ranker.state_dict().keys()


def test_a_memory_is_kept_with_the_ranker_in_half_precision():
    sizes = {"bank": 4, "memory_pairs": 5, "memory_images": 2, "text": "candidate"}
    ranker = build("linear", dimensions=6, refine={"members": 2, "memory_weight": 0.3}, sizes=sizes)
    state = ranker.state_dict()
    assert (state["refinement.memory.captions"].shape, state["refinement.memory.images"].shape) == ((5, 6), (2, 6))
    assert state["refinement.memory.captions"].dtype == torch.half
    assert state["refinement.fusion_weights"].tolist() == [[1.0, 0.5], pytest.approx([0.3, 0.15])]
    assert ranker.refinement.memory.caption_side == "candidate"
    again = rebuild_ranker(ranker.describe())
    again.load_state_dict(state)
    assert again.refinement.memory.hyperparameters.memory_neighbours == 150


def test_projected_candidates_need_a_similarity_that_is_refined(lists):
    query, candidates, similarity = lists
    ranker = build("linear", dimensions=6, refine={"members": 2}).double()
    projected = ranker.project_candidates(candidates.flatten(0, 1)).view(3, 5, -1)
    with pytest.raises(ValueError, match="expected a refined similarity"):
        ranker(query, projected, similarity, projected=True)
    refined = ranker.refinement(query, candidates)
    torch.testing.assert_close(
        ranker(query, projected, refined, projected=True, refined=True), ranker(query, candidates, similarity)
    )


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"members": -1}, "members -1: expected an integer of at least 0"),
        ({"width": 0}, "width 0: expected an integer of at least 1"),
        ({"hubness_weight": -0.5}, "hubness_weight -0.5: expected a finite number of at least 0"),
    ],
)
def test_bad_parameters_are_named(wrong, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        RefinementParameters(**wrong)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"memory_pairs": 1.5}, "memory_pairs 1.5: expected an integer of at least 0"),
        ({"text": "both"}, "text 'both': expected one of query, candidate"),
    ],
)
def test_bad_sizes_are_named(wrong, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        RefinementSizes(**wrong)

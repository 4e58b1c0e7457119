"""Rankers made from a name and values, and tokens for those that read them, for the tests of this folder."""

import torch
from plain import plain_values

from xmrank.rankers import (
    ListTokens,
    RefinementParameters,
    RefinementSizes,
    SideTokens,
    TokenSizes,
    build_ranker,
    make_parameters,
)

TEXT = TokenSizes(text="query", text_width=4, text_longest=3, image_width=5, image_longest=4, image_grid=2)
"""Sizes where texts are the queries: up to three words, and a grid of two times two regions."""


def build(name, dimensions=6, refine=None, sizes=None, tokens=TEXT, **values):
    """A ranker by name, plain but for the values; `refine` and `sizes` hold fields of RefinementParameters and
    RefinementSizes."""
    ranker = build_ranker(
        make_parameters(name, **{**plain_values(name), **values}),
        dimensions=dimensions,
        refinement=RefinementParameters(**refine) if refine else None,
        sizes=RefinementSizes(**sizes) if sizes else None,
        tokens=tokens,
    )
    return give_tokens(ranker)


def give_tokens(ranker):
    """The ranker, which from now on gets tokens with every call: those that `tokens_of` makes, if it reads tokens."""

    def add_tokens(module, arguments, keywords):
        # Inputs that do not fit are refused before the tokens are read.
        fits = len(arguments) == 3 and arguments[2].dim() == 2
        if module.hyperparameters.reads_tokens and keywords.get("tokens") is None and fits:
            tokens = tokens_of(module.sizes, arguments[0], arguments[2], keywords.get("mask"))
            return arguments, {**keywords, "tokens": tokens}
        return arguments, keywords

    ranker.register_forward_pre_hook(add_tokens, with_kwargs=True)
    return ranker


def tokens_of(sizes, query, similarity, mask=None):
    """Tokens that follow from the query's first number and the candidate's similarity, so that items keep theirs."""
    query, similarity = query.double(), similarity.double().nan_to_num(0, 0, 0)
    candidates = similarity.flatten()
    index = torch.arange(len(candidates)).view(similarity.shape)
    if mask is not None and mask.dtype == torch.bool and mask.shape == index.shape:
        index = index.masked_fill(~mask, 0)
    query_index = torch.arange(len(query))
    sides = {"query": (query[:, 0].nan_to_num(0), query_index), "candidate": (candidates, index)}
    made = {side: make_side(numbers, index, sizes, side) for side, (numbers, index) in sides.items()}
    return ListTokens(made["query"], made["candidate"])


def make_side(numbers, index, sizes, side):
    """Words or regions of one side, waves whose frequency is an item's number; some texts have one word less."""
    is_text = side == sizes.text
    longest, width = (sizes.text_longest, sizes.text_width) if is_text else (sizes.image_longest, sizes.image_width)
    times = torch.arange(1, longest * width + 1, dtype=numbers.dtype).view(longest, width)
    mask = torch.arange(longest) < torch.where(numbers > 0, longest, longest - is_text)[:, None]
    # The values at padding must not matter.
    values = torch.sin(7 * numbers[:, None, None] * times + times).masked_fill(~mask[..., None], torch.nan)
    return SideTokens(values, mask, index)

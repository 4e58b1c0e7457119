"""Late interaction: every word of a text meets the region of an image that is most similar to it."""

import torch
from torch import Tensor

from xmrank.rankers.list_tokens import SideTokens
from xmrank.rankers.parameters import LateInteractionParameters
from xmrank.rankers.ranker import is_all_real
from xmrank.rankers.token_ranker import TokenRanker, fill_empty_items


class LateInteractionRanker(TokenRanker):
    """v = Σ_w a_w (q_w ∘ p_w), over the words w of the text; p_w is the image's region with the largest u·(q_w ∘ p).

    a is a softmax over the words, of a learned linear layer on q_w; u is the learned scale of the interaction score. So
    the score u·v is the weighted mean of the words' largest similarities.

    Sources: Khattab and Zaharia, "ColBERT", SIGIR 2020 (MaxSim); Yao et al., "FILIP", ICLR 2022 (words and patches).
    """

    parameters_type = LateInteractionParameters

    def interact(self, words: SideTokens, regions: SideTokens) -> Tensor:
        """The words times their most similar regions, summed over the words, [lists, items, token_width]."""
        mask = None if is_all_real(words.mask) else fill_empty_items(words.gather_mask())
        own = words.gather()  # [lists, words, width], or [lists, items, words, width] where texts are candidates
        nearest = regions.gather_chosen(self._find_nearest(own, regions))
        weighted = own * self.weigh_words(own, mask)[..., None]
        if weighted.dim() == 3:
            weighted = weighted[:, None]
        return (weighted * nearest).sum(2)

    @torch.no_grad()
    def _find_nearest(self, words: Tensor, regions: SideTokens) -> Tensor:
        """The position of the most similar region for each word of each pair, int64 [lists, items, words].

        No gradient passes the choice, so that the similarities of all regions need not be kept.
        """
        scaled, own = words * self.interaction_scale, regions.gather()
        mask = None if is_all_real(regions.mask) else fill_empty_items(regions.gather_mask())
        if scaled.dim() == 4:  # texts are candidates: [lists, items · words, width] times [lists, width, regions]
            similarity = (scaled.flatten(1, 2) @ own.transpose(1, 2)).unflatten(1, scaled.shape[1:3])
            mask = None if mask is None else mask[:, None, None]
        else:  # [lists, words, width] times [lists, width, items · regions]
            flat = scaled @ own.flatten(1, 2).transpose(1, 2)
            similarity = flat.unflatten(2, own.shape[1:3]).transpose(1, 2)
            mask = None if mask is None else mask[:, :, None]
        if mask is not None:
            similarity = similarity.masked_fill(~mask, -torch.inf)
        return similarity.argmax(-1)

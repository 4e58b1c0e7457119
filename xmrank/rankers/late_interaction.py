"""Late interaction: every word of a text meets the region of an image that is most similar to it."""

import torch
from torch import Tensor

from xmrank.rankers.list_tokens import SideTokens
from xmrank.rankers.parameters import LateInteractionParameters
from xmrank.rankers.ranker import is_all_real
from xmrank.rankers.token_ranker import TokenRanker, fill_empty_items

SHARED = 1.5
"""Images that lists share are compared as a whole if there are at most so many for each item of a list."""


class LateInteractionRanker(TokenRanker):
    """m_w is the image's region p with the largest q_w·p, for every word w of the text.

    Sources: Khattab and Zaharia, "ColBERT", SIGIR 2020 (MaxSim); Yao et al., "FILIP", ICLR 2022 (words and patches).
    """

    parameters_type = LateInteractionParameters

    def match_words(self, words: Tensor, regions: SideTokens) -> Tensor:
        """The most similar region of every word, [lists, items, words, token_width]."""
        return regions.gather_chosen(self._find_nearest(words, regions))

    @torch.no_grad()
    def _find_nearest(self, words: Tensor, regions: SideTokens) -> Tensor:
        """The position of the most similar region for each word of each pair, int64 [lists, items, words].

        No gradient passes the choice, so that the similarities of all regions need not be kept.
        """
        if words.dim() == 3 and len(regions.values) <= SHARED * regions.index.shape[1]:
            return self._find_nearest_once(words, regions)
        own = regions.gather()
        mask = None if is_all_real(regions.mask) else fill_empty_items(regions.gather_mask())
        if words.dim() == 4:  # texts are candidates: [lists, items · words, width] times [lists, width, regions]
            similarity = (words.flatten(1, 2) @ own.transpose(1, 2)).unflatten(1, words.shape[1:3])
            mask = None if mask is None else mask[:, None, None]
        else:  # [lists, words, width] times [lists, width, items · regions]
            flat = words @ own.flatten(1, 2).transpose(1, 2)
            similarity = flat.unflatten(2, own.shape[1:3]).transpose(1, 2)
            mask = None if mask is None else mask[:, :, None]
        if mask is not None:
            similarity = similarity.masked_fill(~mask, -torch.inf)
        return similarity.argmax(-1)

    def _find_nearest_once(self, words: Tensor, regions: SideTokens) -> Tensor:
        """The same for images that the lists share: every word meets every image once, and no region is copied."""
        similarity = (words.flatten(0, 1) @ regions.values.flatten(0, 1).T).unflatten(1, regions.values.shape[:2])
        if not is_all_real(regions.mask):
            similarity = similarity.masked_fill(~fill_empty_items(regions.mask), -torch.inf)
        nearest = similarity.argmax(-1).unflatten(0, words.shape[:2])  # [lists, words, images]
        index = regions.index[:, None].expand(-1, words.shape[1], -1)
        return nearest.gather(2, index).transpose(1, 2)

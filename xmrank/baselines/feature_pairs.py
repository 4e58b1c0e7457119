"""The pairs that a baseline is fitted on: features of images, of their captions, and which belong together."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from xmrank.baselines.objectives import caption_relevance

ORDER_STREAM = 0xBA5E
"""Separates the order of the pairs from other draws under the same seed."""


@dataclass(frozen=True)
class FeaturePairs:
    """Images and captions to fit on.

    Attributes:
        image: features, float32 [images, d1].
        text: features, float32 [captions, d2].
        owner: the index of each caption's image, int64 [captions].
        relevance: unit-length text embeddings of the captions for S-NDCG, [captions, d]; may be a memory map.
    """

    image: np.ndarray
    text: np.ndarray
    owner: np.ndarray
    relevance: np.ndarray

    def draw_batches(self, size: int, seed: int, epoch: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Every caption once, with its image; in a batch, no two captions are of one image.

        An epoch is as many rounds as an image has captions at most; each round gives every image one of those that it
        has left. Batches of a round are equal, up to one pair, and hold ``size`` pairs at least where the round does.

        Yields:
            indices of the images and of the captions, int64 [pairs] each.
        """
        generator = np.random.default_rng([seed, ORDER_STREAM, epoch])
        drawn = generator.permutation(len(self.owner))
        # Sorted by image, with the captions of an image in random order.
        drawn = drawn[np.argsort(self.owner[drawn], kind="stable")]
        owner = self.owner[drawn]
        turn = np.arange(len(owner)) - np.searchsorted(owner, owner)  # the how-manyth of its image's captions
        # Round by round: the first caption of every image, then the second of those that have two.
        for number in range(int(turn.max(initial=-1)) + 1):
            captions = generator.permutation(drawn[turn == number])
            for part in np.array_split(captions, max(1, len(captions) // size)):
                yield self.owner[part], part

    def list_captions(self) -> np.ndarray:
        """Each image's captions, int64 [images, most]; −1 behind the last."""
        order = np.argsort(self.owner, kind="stable")
        owner = self.owner[order]
        turn = np.arange(len(owner)) - np.searchsorted(owner, owner)
        table = np.full((len(self.image), int(turn.max(initial=0)) + 1), -1, np.int64)
        # Row: the image; column: the how-manyth of its captions.
        table[owner, turn] = order
        return table

    def rate_captions(self, images: np.ndarray, captions: np.ndarray, table: np.ndarray) -> Tensor:
        """How relevant each caption of a batch is to each of its images, float32 [pairs, pairs]; 1 on matched pairs.

        Args:
            images, captions: indices of a batch's pairs, int64 [pairs] each.
            table: of ``list_captions``.
        """
        own = table[images]
        embeddings, others = (
            torch.from_numpy(self.relevance[at].astype(np.float32)) for at in (own.reshape(-1), captions)
        )
        relevance = caption_relevance(embeddings.view(*own.shape, -1), torch.from_numpy(own >= 0), others)
        # Rounding can leave a matched pair just below 1, so it is set.
        matched = torch.from_numpy(self.owner[captions] == images[:, None])
        return torch.where(matched, 1.0, relevance.clamp(0, 1))

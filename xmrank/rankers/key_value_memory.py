"""Training pairs that a refinement keeps: what pictures of like captions look like."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BLOCK = 1024
"""Captions whose neighbours are looked up at once."""


class KeyValueMemory(nn.Module):
    """A similarity that goes by way of training pairs.

    Definition: m(image, caption) = image · r(caption), where r, what a memory recalls, is the mean of the images whose
    captions are nearest to the caption, weighted by softmax(scale · cosine) over the ``neighbours`` nearest, at unit
    length. So texts are compared with texts and images with images, each in the encoder that knows them.

    Captions and images are kept in half precision, as embedding stores have them. All values are buffers; a module that
    nothing was loaded into recalls zeros.

    Args:
        dimensions: length d of an embedding.
        pairs: captions that are kept.
        images: images that are kept; each caption is of one.
        bank: training queries that hubness is measured against.
        neighbours: captions that a caption recalls, or all where there are fewer.
        scale: what cosines are multiplied by in the softmax.
        text: which side of a list captions are, query or candidate.

    Source: a key–value cache of training pairs, Zhang et al., "Tip-Adapter", ECCV 2022, eq. 3 to 5, there with class
        labels for values.
    """

    captions: Tensor
    images: Tensor
    owner: Tensor
    bank: Tensor

    def __init__(
        self,
        dimensions: int,
        *,
        pairs: int,
        images: int,
        bank: int,
        neighbours: int,
        scale: float,
        text: str,
    ) -> None:
        super().__init__()
        self.neighbours, self.scale, self.text = neighbours, scale, text
        self.register_buffer("captions", torch.zeros(pairs, dimensions, dtype=torch.half))
        self.register_buffer("images", torch.zeros(images, dimensions, dtype=torch.half))
        self.register_buffer("owner", torch.zeros(pairs, dtype=torch.int64))
        self.register_buffer("bank", torch.zeros(bank, dimensions))

    def queries(self, x: Tensor) -> Tensor:
        """Queries as they meet candidates here, [items, d]."""
        return self.recall(x) if self.text == "query" else x

    def candidates(self, x: Tensor) -> Tensor:
        """Candidates as they meet queries here, [items, d]."""
        return self.recall(x) if self.text == "candidate" else x

    def recall(self, captions: Tensor, own: Tensor | None = None) -> Tensor:
        """r of every caption.

        Args:
            captions: unit length, [items, d].
            own: of each caption, an image whose captions are left out, int64 [items]; None: nothing is.

        Returns:
            [items, d] in the captions' dtype, unit length.
        """
        keys, values = self.captions.to(captions.dtype), self.images.to(captions.dtype)
        found = [captions.new_empty(0, captions.shape[1])]
        for start in range(0, len(captions), BLOCK):
            part = slice(start, start + BLOCK)
            cosine = captions[part] @ keys.T
            if own is not None:
                cosine = cosine.masked_fill(own[part, None] == self.owner, -torch.inf)
            near, places = cosine.topk(min(self.neighbours, len(keys)), -1, sorted=False)
            weights = near.new_zeros(len(near), len(values))
            weights.scatter_add_(1, self.owner[places], (self.scale * near).softmax(-1))
            found.append(F.normalize(weights @ values, dim=-1))
        return torch.cat(found)

    def without(self, images: Tensor) -> "KeyValueMemory":
        """This memory without the captions of some images, and with an empty bank."""
        kept = ~torch.isin(self.owner, images)
        made = KeyValueMemory(
            self.images.shape[1],
            pairs=int(kept.sum()),
            images=len(self.images),
            bank=len(self.bank),
            neighbours=self.neighbours,
            scale=self.scale,
            text=self.text,
        ).to(self.owner.device)
        made.captions.copy_(self.captions[kept])
        made.images.copy_(self.images)
        made.owner.copy_(self.owner[kept])
        return made

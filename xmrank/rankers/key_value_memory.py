"""A key–value memory of training pairs: captions are the keys, their images the values."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xmrank.rankers.parameters import RefinementParameters, RefinementSizes

BLOCK = 1024
"""Captions whose neighbours are searched at once."""


@dataclass(frozen=True)
class WideMemory:
    """Captions and images of a memory in another dtype, and which state of them it was.

    Attributes:
        captions, images: of the memory.
        versions: of these two: torch counts the changes of a tensor.
        keys, values: the same numbers.
    """

    captions: Tensor
    images: Tensor
    versions: tuple[int, int]
    keys: Tensor
    values: Tensor

    def is_of(self, captions: Tensor, images: Tensor, versions: tuple[int, int], dtype: torch.dtype) -> bool:
        """Whether these are still the memory's."""
        same = self.captions is captions and self.images is images and self.versions == versions
        return same and self.keys.dtype == dtype


class KeyValueMemory(nn.Module):
    """A similarity of images and captions by way of training pairs.

    Definition: m(image, caption) = image · r(caption), where r is the mean of the images of the training captions that
    are most similar to the caption, weighted by softmax(scale · cosine) over the ``memory_neighbours`` nearest, at unit
    length. So texts are compared with texts and images with images, each in the embedding space made for them.

    Captions and images are kept in half precision, as in embedding stores. All values are buffers; as long as nothing
    is loaded, r is zero.

    Args:
        dimensions: length d of an embedding.
        parameters: the number of neighbours and the scale.
        sizes: how many captions, images and bank queries are kept, and which side of a list captions are on.

    Source: a key–value cache of training pairs, Zhang et al., "Tip-Adapter", ECCV 2022, eq. 3 to 5, there with class
        labels for values.
    """

    captions: Tensor
    """Keys, [pairs, d]."""
    images: Tensor
    """Values, [images, d]."""
    owner: Tensor
    """Row in ``images`` of each caption's image, int64 [pairs]."""
    bank: Tensor
    """Training queries against which hubness is measured, [bank, d]."""

    def __init__(self, dimensions: int, parameters: RefinementParameters, sizes: RefinementSizes) -> None:
        super().__init__()
        self.hyperparameters, self.sizes = parameters, sizes
        pairs, images = sizes.memory_pairs, sizes.memory_images
        # Half precision halves the checkpoint; embedding stores have no more.
        self.register_buffer("captions", torch.zeros(pairs, dimensions, dtype=torch.half))
        self.register_buffer("images", torch.zeros(images, dimensions, dtype=torch.half))
        self.register_buffer("owner", torch.zeros(pairs, dtype=torch.int64))
        self.register_buffer("bank", torch.zeros(sizes.bank, dimensions))
        self._wide: WideMemory | None = None

    @property
    def caption_side(self) -> str:
        """The side of a list that captions are on, query or candidate."""
        return self.sizes.text

    def embed_queries(self, x: Tensor) -> Tensor:
        """Queries as they are compared with candidates here, [items, d]."""
        return self.retrieve_images(x) if self.caption_side == "query" else x

    def embed_candidates(self, x: Tensor) -> Tensor:
        """Candidates as they are compared with queries here, [items, d]."""
        return self.retrieve_images(x) if self.caption_side == "candidate" else x

    def retrieve_images(self, captions: Tensor, own: Tensor | None = None) -> Tensor:
        """r of every caption: the weighted mean of the images of similar captions.

        Args:
            captions: unit length, [items, d].
            own: for each caption, an image whose captions are left out, int64 [items]; None: none is.

        Returns:
            [items, d] in the captions' dtype, unit length.
        """
        keys, values = self._widen(captions.dtype)
        neighbours, scale = self.hyperparameters.memory_neighbours, self.hyperparameters.memory_scale
        retrieved = [captions.new_empty(0, captions.shape[1])]
        # In blocks, so that the cosines with all keys fit into memory.
        for start in range(0, len(captions), BLOCK):
            part = slice(start, start + BLOCK)
            cosine = captions[part] @ keys.T
            # In training, a caption must not find its own image.
            if own is not None:
                cosine = cosine.masked_fill(own[part, None] == self.owner, -torch.inf)
            nearest, indices = cosine.topk(min(neighbours, len(keys)), -1, sorted=False)
            # Several of the nearest captions may be of one image: its weights add up.
            weights = nearest.new_zeros(len(nearest), len(values))
            weights.scatter_add_(1, self.owner[indices], (scale * nearest).softmax(-1))
            retrieved.append(F.normalize(weights @ values, dim=-1))
        return torch.cat(retrieved)

    def _widen(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Captions and images in a dtype.

        While queries are scored they are kept: to convert all takes longer than to compare one query with them.
        """
        # Tensors made in the inference mode cannot be used in training, and their changes are not counted.
        is_counted = not (self.captions.is_inference() or self.images.is_inference())
        if not (torch.is_inference_mode_enabled() and is_counted):
            return self.captions.to(dtype), self.images.to(dtype)
        versions = self.captions._version, self.images._version
        if self._wide is None or not self._wide.is_of(self.captions, self.images, versions, dtype):
            wide = self.captions.to(dtype), self.images.to(dtype)
            self._wide = WideMemory(self.captions, self.images, versions, *wide)
        return self._wide.keys, self._wide.values

    def drop_images(self, images: Tensor) -> "KeyValueMemory":
        """This memory without the captions of some images, int64 rows; its bank holds zeros."""
        kept = ~torch.isin(self.owner, images)
        sizes = replace(self.sizes, memory_pairs=int(kept.sum()))
        smaller = KeyValueMemory(self.images.shape[1], self.hyperparameters, sizes).to(self.owner.device)
        smaller.captions.copy_(self.captions[kept])
        smaller.images.copy_(self.images)
        smaller.owner.copy_(self.owner[kept])
        return smaller

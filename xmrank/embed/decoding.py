"""Pictures: a file's bytes to an upright RGB image, and that to what a model takes."""

import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms import Compose, Normalize, ToTensor

from xmrank.runtime.errors import DataError

PIXEL_LIMIT = 100_000_000
"""Images of more pixels are refused before they are decoded."""
NARROWEST = 200
"""Images longer than so many times their width are refused: resizing the short side would make them immense."""


def decode(content: bytes) -> Image.Image:
    """The upright RGB image in a file's bytes, the first of an animation; 16 bits of grey become 8.

    Raises:
        DataError: empty, truncated, not an image, without pixels, far too narrow, or beyond ``PIXEL_LIMIT`` pixels.
    """
    if not content:
        raise DataError("no such file, or an empty one")
    Image.MAX_IMAGE_PIXELS = PIXEL_LIMIT
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(content))
            refuse_shape(image.size)
            image.load()
        return as_rgb(ImageOps.exif_transpose(image))
    except DataError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise DataError(f"more than {PIXEL_LIMIT} pixels") from None
    except UnidentifiedImageError:
        raise DataError("not an image of a known format") from None
    except Exception as error:  # Pillow's decoders raise many kinds
        raise DataError(f"not readable as an image: {' '.join(str(error).split()) or type(error).__name__}") from None


def refuse_shape(size: tuple[int, int]) -> None:
    """Refuse an image that has no pixels, or that no model takes without an immense copy in between."""
    if min(size) == 0:
        raise DataError("has no pixels")
    if max(size) > NARROWEST * min(size):
        raise DataError(f"{size[0]} × {size[1]} pixels: more than {NARROWEST} times as long as wide")


def as_rgb(image: Image.Image) -> Image.Image:
    """The image in RGB."""
    if image.mode.startswith("I;16"):  # Pillow's own conversion cuts at 255: nearly all of it would be white
        image = Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
    return image.convert("RGB")


@dataclass(frozen=True)
class PixelTransform:
    """A model's transform in two parts: resizing, for a CPU, and the arithmetic on it, for the encoder's device.

    Between the two an image is bytes, a quarter of the numbers that it becomes: what readers send to encoders.

    Attributes:
        transform: an RGB image → what is sent.
        mean, std: what bytes are scaled with, after division by 255; None: the transform has done it all.
    """

    transform: Callable[[Image.Image], Any]
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    @classmethod
    def of(cls, transform: Callable[[Image.Image], Any]) -> "PixelTransform":
        """The parts of a transform that ends as open_clip's do; of any other, all is one part."""
        steps = transform.transforms if isinstance(transform, Compose) else []
        if len(steps) > 2 and isinstance(steps[-2], ToTensor) and isinstance(steps[-1], Normalize):
            return cls(Compose(steps[:-2]), tuple(steps[-1].mean), tuple(steps[-1].std))
        return cls(transform)

    def prepared(self, image: Image.Image) -> Tensor:
        """What is sent of an image: uint8 [3, H, W], or the transform's own tensor."""
        made = self.transform(image)
        if self.mean is None:
            return torch.as_tensor(made)
        return torch.from_numpy(np.array(made)).permute(2, 0, 1).contiguous()

    def finished(self, images: Tensor) -> Tensor:
        """What the model takes, float32 [B, 3, H, W], by the very operations of ToTensor and Normalize."""
        if self.mean is None or images.dtype != torch.uint8:
            return images
        mean, std = (torch.tensor(v, device=images.device)[:, None, None] for v in (self.mean, self.std))
        return images.to(torch.float32).div_(255).sub_(mean).div_(std)

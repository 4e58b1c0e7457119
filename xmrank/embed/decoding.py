"""From a file's bytes to an upright RGB image, and from that to the pixels that a model takes."""

import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms import Compose, Normalize, ToTensor

from xmrank.datasets.colours import make_upright_rgb
from xmrank.runtime.errors import DataError

PIXEL_LIMIT = 100_000_000
"""Images of more pixels are refused before they are decoded."""
NARROWEST = 200
"""Images more than this many times as long as wide are refused: resizing the short side would make them immense."""


def decode_image(content: bytes) -> Image.Image:
    """The upright RGB image in a file's bytes (see ``make_upright_rgb``); of an animation the first image.

    Raises:
        DataError: empty, truncated, not an image, without pixels, far too narrow, beyond ``PIXEL_LIMIT`` pixels, or
            grey of an unknown range.
    """
    if not content:
        raise DataError("no such file, or an empty one")
    # Pillow's own limit only warns up to twice its value, so the warning is made an error.
    Image.MAX_IMAGE_PIXELS = PIXEL_LIMIT
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            # Opening reads the header only: the size is known before any pixel is decoded.
            image = Image.open(io.BytesIO(content))
            check_shape(image.size)
            image.load()
        return make_upright_rgb(image)
    except DataError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise DataError(f"more than {PIXEL_LIMIT} pixels") from None
    except UnidentifiedImageError:
        raise DataError("not an image of a known format") from None
    except Exception as error:  # Pillow's decoders raise many kinds
        raise DataError(f"not readable as an image: {' '.join(str(error).split()) or type(error).__name__}") from None


def check_shape(size: tuple[int, int]) -> None:
    """Raise DataError for an image without pixels, or so narrow that resizing would make an immense copy."""
    if min(size) == 0:
        raise DataError("has no pixels")
    if max(size) > NARROWEST * min(size):
        raise DataError(f"{size[0]} × {size[1]} pixels: more than {NARROWEST} times as long as wide")


@dataclass(frozen=True)
class PixelTransform:
    """A model's transform in two parts: resizing on a CPU, normalisation on the encoder's device.

    Between the two an image is uint8, a quarter of the size of its float32 values: that is what readers send to
    encoders.

    Attributes:
        transform: the first part, of an RGB image.
        mean, std: normalise the bytes after division by 255; None: the transform does everything.
    """

    transform: Callable[[Image.Image], Any]
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    @classmethod
    def split_transform(cls, transform: Callable[[Image.Image], Any]) -> "PixelTransform":
        """The two parts of a transform that ends as open_clip's do; any other is the first part as a whole."""
        # open_clip's transforms end with ToTensor and Normalize; what comes before works on a PIL image.
        steps = transform.transforms if isinstance(transform, Compose) else []
        if len(steps) > 2 and isinstance(steps[-2], ToTensor) and isinstance(steps[-1], Normalize):
            return cls(Compose(steps[:-2]), tuple(steps[-1].mean), tuple(steps[-1].std))
        return cls(transform)

    def prepare(self, image: Image.Image) -> Tensor:
        """The first part's result: uint8 [3, H, W], or the transform's own tensor."""
        made = self.transform(image)
        if self.mean is None:
            return torch.as_tensor(made)
        return torch.from_numpy(np.array(made)).permute(2, 0, 1).contiguous()

    def finish(self, images: Tensor) -> Tensor:
        """The model's input, float32 [B, 3, H, W], by the same operations as ToTensor and Normalize, bit for bit."""
        if self.mean is None or images.dtype != torch.uint8:
            return images
        mean = torch.tensor(self.mean, device=images.device)[:, None, None]
        std = torch.tensor(self.std, device=images.device)[:, None, None]
        return images.to(torch.float32).div_(255).sub_(mean).div_(std)

"""Pictures inside the page: small JPEGs as data URIs."""

import base64
import io
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps

MAX_PIXELS = 80_000_000
QUALITY = 80


@dataclass(frozen=True)
class Picture:
    """A picture that needs no other file."""

    uri: str
    width: int
    height: int


@dataclass
class Album:
    """The images of an embedding store, as pictures for the page.

    Attributes:
        root: the folder of the images; None when the store was imported and knows of none.
        missing: image id → why there is no picture of it, for those asked for of a store that has images.
    """

    root: Path | None
    locations: dict[str, str]
    missing: dict[str, str]

    def picture(self, image_id: str, side: int) -> Picture | None:
        """The image, made small.

        Args:
            image_id: which image.
            side: pixels of the longer side at most.

        Returns:
            None when there is no such file or it is no picture; ``missing`` then says why.
        """
        if self.root is None:
            return None
        location = self.locations.get(image_id)
        if not location:
            self.missing[image_id] = "the embeddings do not say where its file is"
            return None
        try:
            return thumbnail(self.root / location, side)
        # Pillow answers broken files with any of these.
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            self.missing[image_id] = f"{location}: {_reason(error)}"
            return None


def thumbnail(path: Path, side: int) -> Picture:
    """A file's picture, upright, as a small JPEG.

    Raises:
        OSError, ValueError, SyntaxError: the file is missing, broken, or has more than ``MAX_PIXELS``.
    """
    with Image.open(path) as image:
        # The header is enough to refuse a picture whose pixels would not fit into memory.
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(f"{image.width} × {image.height} pixels")
        image.draft("RGB", (side, side))
        upright = ImageOps.exif_transpose(image).convert("RGB")
    upright.thumbnail((side, side), Image.Resampling.LANCZOS)
    sink = io.BytesIO()
    upright.save(sink, "JPEG", quality=QUALITY, optimize=True)
    uri = f"data:image/jpeg;base64,{base64.b64encode(sink.getvalue()).decode()}"
    return Picture(uri, upright.width, upright.height)


def _reason(error: Exception) -> str:
    """Why, without the place of the folder, which differs between machines."""
    if isinstance(error, FileNotFoundError):
        return "the file is gone"
    if isinstance(error, ValueError):
        return str(error)
    return "not a readable picture"

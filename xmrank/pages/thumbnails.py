"""Pictures inside the page: small JPEGs as data URIs."""

import base64
import io
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from xmrank.datasets.colours import make_upright_rgb
from xmrank.datasets.locations import container_of, leads_outside, read_bytes
from xmrank.runtime.errors import DataError
from xmrank.runtime.manifest import describe_outside
from xmrank.runtime.paths import PathOrUri, below
from xmrank.runtime.redaction import redact_uri

MAX_PIXELS = 80_000_000
QUALITY = 80
WIDE = "the image folder that the embeddings name is the home directory, or above it; none of its files is shown"
REMOTE = "the images are remote, and are fetched only with --remote-images"


@dataclass(frozen=True)
class Thumbnail:
    """A picture that needs no other file."""

    uri: str
    width: int
    height: int


@dataclass
class ThumbnailAlbum:
    """The images of an embedding store, as pictures for the page.

    Attributes:
        root: the folder of the images; None when the store was imported without images.
        locations: image id → path below the root.
        missing: image id → why it has no picture; filled by ``make_picture`` where the store has images.
        remote_images: whether images may be fetched from a root that is a URI.
    """

    root: PathOrUri | None
    locations: dict[str, str]
    missing: dict[str, str]
    remote_images: bool = False

    def make_picture(self, image_id: str, side: int) -> Thumbnail | None:
        """The image, made small.

        Args:
            image_id: which image.
            side: pixels of the longer side at most.

        Returns:
            None when the file is not there, not a picture, or not one that may be read; ``missing`` then says why.
        """
        # No entry in missing: then no image has a picture, which the page says once.
        if self.root is None:
            return None
        location = self.locations.get(image_id)
        if not location:
            self.missing[image_id] = "the embeddings do not say where its file is"
            return None
        if reason := self.describe_refusal(location):
            self.missing[image_id] = reason
            return None
        try:
            return make_thumbnail(read_bytes(below(self.root, location)), side)
        # Pillow and the stores have many kinds of errors for a broken file, and none may cost the page.
        except Exception as error:
            self.missing[image_id] = f"{redact_uri(location)}: {_describe_failure(error)}"
            return None

    def describe_refusal(self, location: str) -> str:
        """Why the file at a location is not read, empty if it may be: the store can be made by anybody."""
        shown, root = redact_uri(location), find_local_root(self.root)
        if leads_outside(location):
            return f"{shown}: lies outside of the image folder"
        # Fetching what a store names would send requests into the network of whoever shows its pictures.
        if not isinstance(self.root, Path) and not self.remote_images:
            return REMOTE
        if root and holds_home(root):
            return WIDE
        # The container is what is opened: a member's name may hold anything.
        if root and (fault := describe_outside(root, container_of(location))):
            return f"{shown}: {fault}"
        return ""


def find_local_root(root: PathOrUri | None) -> Path | None:
    """The folder of a root on this machine, also of a ``file:`` URI; None for other URIs."""
    if isinstance(root, str):
        return Path(root.removeprefix("file://")) if root.startswith("file:///") else None
    return root


def holds_home(root: Path) -> bool:
    """Whether a folder is the user's home directory or above it: then all that the user has would be below it."""
    try:
        return Path.home().resolve().is_relative_to(root.resolve())
    # A user without a home directory, a loop of links.
    except (OSError, RuntimeError):
        return True


def make_thumbnail(content: bytes, side: int) -> Thumbnail:
    """An image's picture, upright and as encoders see it, as a small JPEG.

    Args:
        content: of the file; empty where there is none.
        side: pixels of the longer side at most.

    Raises:
        OSError, ValueError, SyntaxError: an empty or broken file, or more than ``MAX_PIXELS``.
        DataError: grey of an unknown range.
    """
    if not content:
        raise FileNotFoundError
    with Image.open(io.BytesIO(content)) as image:
        # The header is enough to refuse a picture whose pixels would not fit into memory.
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(f"{image.width} × {image.height} pixels")
        # JPEGs are decoded at a smaller size, which is much faster.
        image.draft("RGB", (side, side))
        upright = make_upright_rgb(image)
    upright.thumbnail((side, side), Image.Resampling.LANCZOS)
    # A data URI keeps the page in one file.
    sink = io.BytesIO()
    upright.save(sink, "JPEG", quality=QUALITY, optimize=True)
    uri = f"data:image/jpeg;base64,{base64.b64encode(sink.getvalue()).decode()}"
    return Thumbnail(uri, upright.width, upright.height)


def _describe_failure(error: Exception) -> str:
    """The reason without the path, which differs between machines."""
    if isinstance(error, FileNotFoundError):
        return "the file is gone"
    if isinstance(error, ValueError | DataError):
        return str(error)
    return "not a readable picture"

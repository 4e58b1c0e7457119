"""Captions and image files of an embedding store, for the examples."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from xmrank.pages.thumbnails import ThumbnailAlbum
from xmrank.report.inputs import ReportInputs
from xmrank.runtime.files import read_parquet


@dataclass(frozen=True)
class CaptionTexts:
    """Captions of a split.

    Attributes:
        image_of: caption id → image id.
        text_of: caption id → its text; captions of imported embeddings may have none.
        first_of: image id → the text of its first caption that has one, which describes the picture.
    """

    image_of: dict[str, str]
    text_of: dict[str, str]
    # Captions are in the order of the data set, so the first of each image stays.
    first_of: dict[str, str]


def read_captions(embeddings: Path, split: str) -> CaptionTexts:
    """The captions of one split of an embedding store, of all when ``split`` is empty."""
    table = read_parquet(
        embeddings / "text.parquet",
        columns=["caption_id", "image_id", "text"],
        filters=[("split", "==", split)] if split else None,
    )
    captions, images, texts = (table[name].to_pylist() for name in table.column_names)
    image_of = dict(zip(captions, images, strict=True))
    text_of = {caption: text for caption, text in zip(captions, texts, strict=True) if text}
    # Captions are in the order of the data set, so the first of each image stays.
    first_of: dict[str, str] = {}
    for caption, text in text_of.items():
        first_of.setdefault(image_of[caption], text)
    return CaptionTexts(image_of, text_of, first_of)


def open_album(inputs: ReportInputs, image_ids: Iterable[str], *, remote_images: bool) -> ThumbnailAlbum:
    """An album with the paths of these images; an empty one where there are no image files."""
    wanted = sorted(set(image_ids))
    root = inputs.images_root
    if root is None or not wanted:
        return ThumbnailAlbum(None, {}, {})
    # Only the images that are shown: a store may have millions.
    table = read_parquet(
        inputs.embeddings_directory / "image.parquet",
        columns=["image_id", "location"],
        filters=[("image_id", "in", wanted)],
    )
    locations = dict(zip(table["image_id"].to_pylist(), table["location"].to_pylist(), strict=True))
    return ThumbnailAlbum(root, locations, {}, remote_images)

"""One shard of work: up to ``shard_size`` images or captions in, one array and one report on disk out."""

import hashlib
import io
import json
import warnings
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from xmrank.datasets.locations import changed, read_bytes
from xmrank.embedding.encoder import Encoder
from xmrank.errors import DataError
from xmrank.files import write_array, write_json

PIXEL_LIMIT = 100_000_000
"""Images of more pixels are refused before they are decoded."""


@dataclass(frozen=True)
class Shard:
    """Rows ``start`` … ``start + len(items)`` of one table.

    Attributes:
        items: images: addresses (``datasets.locations``); captions: texts.
    """

    kind: Literal["image", "text"]
    number: int
    start: int
    items: list[str]

    def array_path(self, work: Path) -> Path:
        """Where its embeddings go."""
        return work / f"{self.kind}-{self.number:06d}.npy"

    def report_path(self, work: Path) -> Path:
        """Where its report goes, written last: a shard with a report is done."""
        return work / f"{self.kind}-{self.number:06d}.json"


@dataclass
class ShardReport:
    """What became of a shard's items.

    Attributes:
        broken: row → reason, of images that could not be read; their embeddings are rows of zeros.
        bytes, sha256: of every image file as it was read; empty for captions.
    """

    items: int
    broken: dict[int, str] = field(default_factory=dict)
    bytes: list[int] = field(default_factory=list)
    sha256: list[str] = field(default_factory=list)


def encode_shard(shard: Shard, encoder: Encoder, work: Path, *, batch_size: int, dtype: str) -> ShardReport:
    """Encode one shard and write its array, then its report.

    Batches never cross shards, so the result does not depend on which shards an interrupted run had finished.

    Raises:
        DataError: the encoder gave NaN or infinity.
    """
    report = ShardReport(len(shard.items))
    parts = []
    for first in range(0, len(shard.items), batch_size):
        items = shard.items[first : first + batch_size]
        if shard.kind == "text":
            parts.append(encoder.encode_texts(items).cpu().numpy())
        else:
            parts.append(encode_files(items, encoder, report, row=shard.start + first))
    array = np.concatenate(parts)
    if not np.isfinite(array).all():
        raise DataError(f"{encoder.name}: gave NaN or infinity for {shard.kind} rows {shard.start} and after")
    write_array(shard.array_path(work), array.astype(dtype))
    write_json(shard.report_path(work), asdict(report))
    return report


def read_report(shard: Shard, work: Path) -> ShardReport | None:
    """The report of a shard that an earlier run finished, or None."""
    path = shard.report_path(work)
    if not path.exists():
        return None
    values: dict[str, Any] = json.loads(path.read_text())
    values["broken"] = {int(row): reason for row, reason in values["broken"].items()}
    return ShardReport(**values)


def forget_changed(shard: Shard, work: Path) -> None:
    """Remove a shard's report when an image file has another size by now, a repaired one say: it is encoded again."""
    report = read_report(shard, work)
    if report and shard.kind == "image" and changed(shard.items, report.bytes):
        shard.report_path(work).unlink()


def encode_files(addresses: list[str], encoder: Encoder, report: ShardReport, *, row: int) -> np.ndarray:
    """The embeddings of images [images, d]; one that cannot be read gives zeros and a reason in the report."""
    result = np.zeros((len(addresses), encoder.dimensions), np.float32)
    pixels, rows = [], []
    for place, address in enumerate(addresses):
        content = b""
        try:
            content = read_bytes(address)
            pixels.append(encoder.preprocess(decode(content)))
            rows.append(place)
        except DataError as error:
            report.broken[row + place] = str(error)
        report.bytes.append(len(content))
        report.sha256.append(hashlib.sha256(content).hexdigest())
    if pixels:
        result[rows] = encoder.encode_images(torch.stack(pixels)).cpu().numpy()
    return result


def decode(content: bytes) -> Image.Image:
    """The upright RGB image in a file's bytes.

    Raises:
        DataError: empty, truncated, not an image, or of more than ``PIXEL_LIMIT`` pixels.
    """
    if not content:
        raise DataError("no such file, or an empty one")
    Image.MAX_IMAGE_PIXELS = PIXEL_LIMIT
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(content))
            image.load()
        return ImageOps.exif_transpose(image).convert("RGB")
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise DataError(f"more than {PIXEL_LIMIT} pixels") from None
    except UnidentifiedImageError:
        raise DataError("not an image of a known format") from None
    except Exception as error:  # Pillow's decoders raise many kinds
        raise DataError(f"not readable as an image: {' '.join(str(error).split()) or type(error).__name__}") from None

"""Throughput of every reader beside a bare loop over the same files.

    python benchmarks/readers.py --images 2000

Both yield the same images and captions. A bare loop does what a few lines of a training script do, with the standard
library, pyarrow and Pillow, and checks nothing. Three measures: the pairs alone ("listed"), the pairs with the images'
bytes ("read"), and with the pictures decoded to RGB ("decoded"), which is what an encoder needs. Each is the median of
alternating runs: the bare loop's CPU seconds divided by ours. Prints one JSON line a reader.
"""

import argparse
import csv
import io
import json
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from xmrank.datasets.locations import read_bytes
from xmrank.datasets.reader_settings import (
    CocoSettings,
    CsvSettings,
    FolderSettings,
    HuggingFaceSettings,
    JsonSettings,
    KarpathySettings,
    WebDatasetSettings,
)
from xmrank.datasets.readers import read_dataset
from xmrank.embed.decoding import decode_image
from xmrank.runtime.paths import below

CAPTIONS = 5
SIZE = (500, 375)
"""Of a photo of Flickr30k."""
Pairs = Iterator[tuple[bytes | None, list[str]]]
"""An image's bytes, None where only the pairs are listed, and its captions."""


def write_files(folder: Path, count: int) -> None:
    """The same images and captions in every format."""
    generator = np.random.default_rng(0)
    words = ["dog", "cat", "red", "runs", "beside", "a", "river", "tall", "man", "street", "two", "boats"]
    names = [f"{number:06d}.jpg" for number in range(count)]
    texts = [[" ".join(generator.choice(words, 10)) + f" {n}." for n in range(CAPTIONS)] for _ in names]
    contents = []
    for _ in names:
        # Smooth noise: as large as a photo of this size.
        small = Image.fromarray(generator.integers(0, 255, (47, 63, 3), np.uint8))
        file = io.BytesIO()
        small.resize(SIZE, Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
        contents.append(file.getvalue())
    for part in ("images", "beside", "parquet", "tars"):
        (folder / part).mkdir()
    with (folder / "pairs.csv").open("w", newline="") as file_of_rows:
        writer = csv.writer(file_of_rows)
        writer.writerow(["path", "caption"])
        writer.writerows((name, text) for name, own in zip(names, texts, strict=True) for text in own)
    with tarfile.open(folder / "tars/0.tar", "w") as tar:
        for name, content, own in zip(names, contents, texts, strict=True):
            for file_name, member in ((name, content), (name.replace("jpg", "txt"), "\n".join(own).encode())):
                entry = tarfile.TarInfo(file_name)
                entry.size = len(member)
                tar.addfile(entry, io.BytesIO(member))
            (folder / "images" / name).write_bytes(content)
            (folder / "beside" / name).write_bytes(content)
            (folder / "beside" / name).with_suffix(".txt").write_text("\n".join(own))
    images = [{"bytes": content, "path": name} for name, content in zip(names, contents, strict=True)]
    pq.write_table(pa.table({"image": images, "captions": texts}), folder / "parquet/0.parquet", row_group_size=100)
    entries = [{"filename": n, "sentences": [{"raw": t} for t in own]} for n, own in zip(names, texts, strict=True)]
    (folder / "karpathy.json").write_text(json.dumps({"images": entries}))
    rows = [{"image": name, "caption": own} for name, own in zip(names, texts, strict=True)]
    (folder / "pairs.json").write_text(json.dumps(rows))
    coco = {
        "images": [{"id": number, "file_name": name} for number, name in enumerate(names)],
        "annotations": [
            {"id": CAPTIONS * number + n, "image_id": number, "caption": text}
            for number, own in enumerate(texts)
            for n, text in enumerate(own)
        ],
    }
    (folder / "coco.json").write_text(json.dumps(coco))


def read_images(folder: Path, captions: dict[str, list[str]], read: bool) -> Pairs:
    """The images of some captions."""
    for name, texts in captions.items():
        if read:
            with open(folder / name, "rb") as file:  # noqa: PTH123
                yield file.read(), texts
        else:
            yield None, texts


def bare_csv(folder: Path, read: bool) -> Pairs:
    """csv.DictReader."""
    captions: dict[str, list[str]] = {}
    with (folder / "pairs.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            captions.setdefault(row["path"], []).append(row["caption"])
    yield from read_images(folder / "images", captions, read)


def bare_karpathy(folder: Path, read: bool) -> Pairs:
    """json.loads."""
    entries = json.loads((folder / "karpathy.json").read_text())["images"]
    captions = {entry["filename"]: [sentence["raw"] for sentence in entry["sentences"]] for entry in entries}
    yield from read_images(folder / "images", captions, read)


def bare_json(folder: Path, read: bool) -> Pairs:
    """json.loads."""
    captions = {row["image"]: row["caption"] for row in json.loads((folder / "pairs.json").read_text())}
    yield from read_images(folder / "images", captions, read)


def bare_coco(folder: Path, read: bool) -> Pairs:
    """json.loads, images by their ids."""
    content = json.loads((folder / "coco.json").read_text())
    names = {image["id"]: image["file_name"] for image in content["images"]}
    captions: dict[str, list[str]] = {name: [] for name in names.values()}
    for annotation in content["annotations"]:
        captions[names[annotation["image_id"]]].append(annotation["caption"])
    yield from read_images(folder / "images", captions, read)


def bare_folder(folder: Path, read: bool) -> Pairs:
    """Path.glob, a text for each image."""
    names = sorted(path.name for path in (folder / "beside").glob("*.jpg"))
    captions = {name: (folder / "beside" / name).with_suffix(".txt").read_text().splitlines() for name in names}
    yield from read_images(folder / "beside", captions, read)


def bare_parquet(folder: Path, read: bool) -> Pairs:
    """pyarrow's batches."""
    columns = ["captions", "image.bytes"] if read else ["captions"]
    for batch in pq.ParquetFile(folder / "parquet/0.parquet").iter_batches(100, columns=columns):
        for row in batch.to_pylist():
            yield row["image"]["bytes"] if read else None, row["captions"]


def bare_tar(folder: Path, read: bool) -> Pairs:
    """tarfile, an image before its text."""
    with tarfile.open(folder / "tars/0.tar") as tar:
        content = None
        for member in tar:
            if member.name.endswith(".jpg"):
                file = tar.extractfile(member) if read else None
                content = file.read() if file else None
            elif (file := tar.extractfile(member)) is not None:
                yield content, file.read().decode().splitlines()


def xmrank_loop(settings: Any, read: bool) -> Pairs:
    """What embed does with a data set."""
    dataset = read_dataset(settings)
    captions: dict[str, list[str]] = {image_id: [] for image_id in dataset.images["image_id"].to_pylist()}
    for image_id, text in zip(
        dataset.captions["image_id"].to_pylist(), dataset.captions["text"].to_pylist(), strict=True
    ):
        captions[image_id].append(text)
    for location, own in zip(dataset.images["location"].to_pylist(), captions.values(), strict=True):
        yield (read_bytes(below(dataset.root, location)) if read else None), own


def measure(pairs: Pairs, decode: Callable[[bytes], Any] | None) -> float:
    """CPU seconds of going through the pairs."""
    started = time.process_time()
    for content, _ in pairs:
        if decode and content:
            decode(content)
    return time.process_time() - started


def decode_bare(content: bytes) -> Image.Image:
    """Pillow alone."""
    return Image.open(io.BytesIO(content)).convert("RGB")


def main() -> None:
    """Write the files, measure every reader, print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_files(folder, options.images)
        pictures = folder / "images"
        readers: dict[str, tuple[Callable[[Path, bool], Pairs], Any]] = {
            "csv": (bare_csv, CsvSettings(annotations=folder / "pairs.csv", images=pictures)),
            "karpathy": (bare_karpathy, KarpathySettings(annotations=folder / "karpathy.json", images=pictures)),
            "json": (bare_json, JsonSettings(annotations=folder / "pairs.json", images=pictures)),
            "coco": (bare_coco, CocoSettings(annotations=folder / "coco.json", images=pictures)),
            "folder": (bare_folder, FolderSettings(images=folder / "beside")),
            "huggingface": (bare_parquet, HuggingFaceSettings(images=folder / "parquet")),
            "webdataset": (bare_tar, WebDatasetSettings(images=folder / "tars")),
        }
        for reader, (bare, settings) in readers.items():
            figures: dict[str, Any] = {"reader": reader}
            for kind, read, decoders in (
                ("listed", False, (None, None)),
                ("read", True, (None, None)),
                ("decoded", True, (decode_bare, decode_image)),
            ):
                runs = []
                for _ in range(options.repeats):
                    own = measure(xmrank_loop(settings, read), decoders[1])
                    runs.append((measure(bare(folder, read), decoders[0]), own))
                figures[kind] = round(statistics.median(other / own for other, own in runs), 2)
                figures[f"{kind}_images_per_s"] = round(options.images / min(own for _, own in runs))
            print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()

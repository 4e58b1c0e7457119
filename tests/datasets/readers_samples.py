"""One small sample of every format, and what tests of the readers share."""

import csv
import io
import json
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

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
from xmrank.runtime.errors import DataError


def refusal(config, error=DataError):
    """The one line with which a data set is refused."""
    with pytest.raises(error) as caught:
        read_dataset(config)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def picture(grey):
    """The bytes of a small PNG."""
    file = io.BytesIO()
    Image.new("L", (3, 2), grey).save(file, "PNG")
    return file.getvalue()


ITEMS = [
    ("train", "a", picture(10), ["A dog runs.", 'The "dog", it runs.']),
    ("train", "b", picture(20), ["Ein Hünd läuft.", "Two dogs."]),
    ("val", "c", picture(30), ["A cat sits.", "犬ではない"]),
]
TEXTS = [text for _, _, _, texts in ITEMS for text in texts]


def write_pictures(folder):
    for split, name, content, _ in ITEMS:
        path = folder / "pictures" / split / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def karpathy(folder):
    write_pictures(folder)
    entries = [
        {"filepath": split, "filename": f"{name}.png", "split": split, "sentences": [{"raw": text} for text in texts]}
        for split, name, _, texts in ITEMS
    ]
    (folder / "all.json").write_text(json.dumps({"images": entries}))
    return KarpathySettings(annotations=folder / "all.json", images=folder / "pictures")


def coco(folder):
    write_pictures(folder)
    for part in ("train", "val"):
        items = [(number, item) for number, item in enumerate(ITEMS) if item[0] == part]
        images = [{"id": number, "file_name": f"{item[1]}.png", "height": 2} for number, item in items]
        captions = [
            {"id": 10 * number + index, "image_id": number, "caption": text}
            for number, item in items
            for index, text in enumerate(item[3])
        ]
        (folder / f"captions_{part}.json").write_text(json.dumps({"images": images, "annotations": captions}))
    return CocoSettings(annotations=folder / "captions_*.json", images=folder / "pictures")


def table(folder):
    write_pictures(folder)
    with (folder / "all.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "caption", "split"])
        writer.writerows([f"{split}/{name}.png", text, split] for split, name, _, texts in ITEMS for text in texts)
    return CsvSettings(annotations=folder / "all.csv", images=folder / "pictures")


def json_lists(folder):
    write_pictures(folder)
    for part in ("train", "val"):
        rows = [{"image": f"{split}/{name}.png", "caption": texts} for split, name, _, texts in ITEMS if split == part]
        (folder / f"pairs_{part}.json").write_text(json.dumps(rows))
    return JsonSettings(annotations=folder / "pairs_*.json", images=folder / "pictures")


def folder_of_texts(folder):
    write_pictures(folder)
    for split, name, _, texts in ITEMS:
        (folder / "pictures" / split / f"{name}.txt").write_text("\n".join(texts), encoding="utf-8")
    return FolderSettings(images=folder / "pictures")


def parquet(folder):
    for part in ("train", "val"):
        items = [item for item in ITEMS if item[0] == part]
        columns = {
            "image": [{"bytes": content, "path": f"{name}.png"} for _, name, content, _ in items],
            "caption_0": [texts[0] for *_, texts in items],
            "caption_1": [texts[1] for *_, texts in items],
        }
        (folder / "data").mkdir(exist_ok=True)
        pq.write_table(pa.table(columns), folder / "data" / f"{part}-00000-of-00001.parquet", row_group_size=1)
    return HuggingFaceSettings(images=folder)


def add(tar, name, content):
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    tar.addfile(entry, io.BytesIO(content))


def webdataset(folder):
    for part in ("train", "val"):
        with tarfile.open(folder / f"{part}-000.tar", "w") as tar:
            for _, name, content, texts in (item for item in ITEMS if item[0] == part):
                add(tar, f"{name}.png", content)
                add(tar, f"{name}.txt", "\n".join(texts).encode())
    return WebDatasetSettings(images=folder)


SAMPLES = {
    "karpathy": karpathy,
    "coco": coco,
    "csv": table,
    "json": json_lists,
    "folder": folder_of_texts,
    "huggingface": parquet,
    "webdataset": webdataset,
}

"""Writes the same pairs in every format, so that tests can compare what readers make of them.

A writer takes a folder, the images as (id, split, captions) and a random generator that shuffles the rows, and returns
the reader's settings. ``damage`` spoils one caption of the image at an index, or all that its row holds.
"""

import csv
import io
import json
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
from readers_samples import add

from xmrank.datasets.reader_settings import (
    CocoSettings,
    ColumnsConfig,
    CsvSettings,
    FolderSettings,
    HuggingFaceSettings,
    JsonSettings,
    KarpathySettings,
    WebDatasetSettings,
)

NOT_TEXT = b"\xff\xfe"


def long_rows(images, random):
    """One row a caption: (image's index, id, caption, split), shuffled."""
    rows = [(index, name, text, split) for index, (name, split, texts) in enumerate(images) for text in texts]
    random.shuffle(rows)
    return rows


def write_karpathy(folder, images, random, damage=None):
    entries = [
        {"filename": name, "split": split, "sentences": [{"raw": text} for text in texts]}
        for name, split, texts in images
    ]
    if damage is not None:
        entries[damage]["sentences"][0] = {"words": 7}
    random.shuffle(entries)
    (folder / "all.json").write_text(json.dumps({"images": entries}))
    return KarpathySettings(annotations=folder / "all.json", images=folder)


def write_coco(folder, images, random, damage=None):
    entries = [{"id": i, "file_name": name, "split": split} for i, (name, split, _) in enumerate(images)]
    captions = [
        {"id": f"{index}/{number}", "image_id": index, "caption": text}
        for index, (_, _, texts) in enumerate(images)
        for number, text in enumerate(texts)
    ]
    if damage is not None:
        next(caption for caption in captions if caption["image_id"] == damage)["image_id"] = "nobody"
    random.shuffle(entries)
    random.shuffle(captions)
    (folder / "all.json").write_text(json.dumps({"images": entries, "annotations": captions}))
    return CocoSettings(annotations=folder / "all.json", images=folder)


def table_writer(delimiter, quoting, spoil):
    """A writer of tables in text form; ``spoil`` damages the bytes of one line."""

    def write(folder, images, random, damage=None):
        lines = [delimiter.join(["path", "caption", "split"]).encode() + b"\n"]
        spoilt = False
        for index, name, text, split in long_rows(images, random):
            line = io.StringIO()
            csv.writer(line, delimiter=delimiter, quoting=quoting, lineterminator="\n").writerow([name, text, split])
            content = line.getvalue().encode()
            if index == damage and not spoilt:
                content, spoilt = spoil(content), True
            lines.append(content)
        (folder / "all.csv").write_bytes(b"".join(lines))
        return CsvSettings(annotations=folder / "all.csv", images=folder)

    return write


def write_json(folder, images, random, damage=None):
    rows = [
        {"image": name, "caption": texts if len(texts) != 1 else texts[0], "split": split}
        for name, split, texts in images
    ]
    if damage is not None:
        rows[damage] = "cut off"
    random.shuffle(rows)
    (folder / "all.json").write_text(json.dumps(rows))
    return JsonSettings(annotations=folder / "all.json", images=folder)


def write_json_lines(folder, images, random, damage=None):
    rows = [
        (index, json.dumps({"caption": text, "image": name, "split": split}, ensure_ascii=False))
        for index, name, text, split in long_rows(images, random)
    ]
    if damage is not None:
        first = next(number for number, (index, _) in enumerate(rows) if index == damage)
        rows[first] = (damage, rows[first][1][:-3])
    (folder / "all.jsonl").write_text("\n".join(row for _, row in rows), encoding="utf-8")
    return JsonSettings(annotations=folder / "all.jsonl", images=folder)


def write_folder(folder, images, random, damage=None):
    for index, (name, split, texts) in enumerate(images):
        path = folder / split / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
        # With a byte order mark, so that a caption may begin with that character.
        content = "\n".join(texts).encode("utf-8-sig")
        path.with_suffix(".txt").write_bytes(NOT_TEXT if index == damage else content)
    return FolderSettings(images=folder)


def write_parquet_lists(folder, images, random, damage=None):
    rows = list(images)
    if damage is not None:
        rows[damage] = (rows[damage][0], rows[damage][1], None)
    random.shuffle(rows)
    table = pa.table({
        "image": pa.array([{"bytes": name.encode(), "path": None} for name, *_ in rows]),
        "image_id": pa.array([name for name, *_ in rows], pa.string()),
        "split": [split for _, split, _ in rows],
        "caption": pa.array([texts for *_, texts in rows], pa.list_(pa.string())),
    })  # fmt: skip
    pq.write_table(table, folder / "all.parquet")
    return HuggingFaceSettings(images=folder)


def write_parquet_rows(folder, images, random, damage=None):
    rows = long_rows(images, random)
    if damage is not None:
        first = next(number for number, (index, *_) in enumerate(rows) if index == damage)
        rows[first] = (*rows[first][:2], None, rows[first][3])
    table = pa.table({
        "id": pa.array(range(len(rows))),  # of the row: not the image's
        "path": pa.array([name for _, name, *_ in rows], pa.string()),
        "caption": pa.array([text for *_, text, _ in rows], pa.string()),
        "split": pa.array([split for *_, split in rows], pa.string()),
    })  # fmt: skip
    pq.write_table(table, folder / "all.parquet", row_group_size=3)
    return HuggingFaceSettings(images=folder, columns=ColumnsConfig(image="path"))


def tar_writer(extension):
    """A writer of tars with the captions in members of an extension."""

    def write(folder, images, random, damage=None):
        samples = list(enumerate(images))
        random.shuffle(samples)
        with tarfile.open(folder / "all.tar", "w", format=tarfile.PAX_FORMAT) as tar:
            for index, (name, split, texts) in samples:
                lines = "\n".join(texts).encode("utf-8-sig")
                about = {"captions": texts, "split": split} if extension == "json" else {"split": split}
                add(tar, name, b"x")
                if extension == "txt":
                    add(tar, name.replace(".jpg", ".txt"), NOT_TEXT if index == damage else lines)
                content = json.dumps(about).encode()
                add(tar, name.replace(".jpg", ".json"), content[:-1] if index == damage else content)
        return WebDatasetSettings(images=folder)

    return write


WRITERS = {
    "karpathy": write_karpathy,
    "coco": write_coco,
    "csv, row without a delimiter": table_writer(",", csv.QUOTE_MINIMAL, lambda line: line.replace(b",", b" ")),
    "csv, open quotation mark": table_writer(",", csv.QUOTE_ALL, lambda line: line.replace(b'","', b'",""', 1)),
    "csv, not UTF-8": table_writer(";", csv.QUOTE_MINIMAL, lambda line: line.replace(b";", b";\xff", 1)),
    "tabs": table_writer("\t", csv.QUOTE_ALL, lambda line: line.replace(b"\t", b" ")),
    "bars": table_writer("|", csv.QUOTE_ALL, lambda line: line.replace(b'.jpg"|', b'.jpg"', 1)),
    "json": write_json,
    "json lines": write_json_lines,
    "folder": write_folder,
    "parquet, lists": write_parquet_lists,
    "parquet, rows": write_parquet_rows,
    "tar, txt": tar_writer("txt"),
    "tar, json": tar_writer("json"),
}
ONE_A_LINE = ("folder", "tar, txt")
"""Formats in which a caption is a line."""
ROW_A_CAPTION = (
    "csv, row without a delimiter",
    "csv, open quotation mark",
    "csv, not UTF-8",
    "tabs",
    "bars",
    "json lines",
    "parquet, rows",
)
"""Formats in which a row is a caption: an image without captions has none."""

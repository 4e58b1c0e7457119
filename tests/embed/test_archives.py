"""Images inside tars and parquet files, and at URIs, are embedded like files."""

import io
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from xmrank.config import EmbedConfig
from xmrank.datasets.reader_settings import FolderSettings, HuggingFaceSettings, WebDatasetSettings
from xmrank.embed.stage import embed
from xmrank.embed.store import EmbeddingStore
from xmrank.runtime.errors import DataError

COUNT = 6


def pictures():
    """The bytes of JPEG files of noise, one after another."""
    generator = np.random.default_rng(0)
    for number in range(COUNT):
        file = io.BytesIO()
        Image.fromarray(generator.integers(0, 255, (24, 20 + number, 3), np.uint8)).save(file, "JPEG")
        yield file.getvalue()


def as_files(folder):
    folder.mkdir()
    for number, content in enumerate(pictures()):
        (folder / f"{number}.jpg").write_bytes(content)
        (folder / f"{number}.txt").write_text(f"picture {number}")
    return FolderSettings(images=folder)


def as_tar(folder):
    folder.mkdir()
    with tarfile.open(folder / "a.tar", "w") as tar:
        for number, content in enumerate(pictures()):
            for name, part in ((f"{number}.jpg", content), (f"{number}.txt", f"picture {number}".encode())):
                entry = tarfile.TarInfo(name)
                entry.size = len(part)
                tar.addfile(entry, io.BytesIO(part))
    return WebDatasetSettings(images=folder)


def as_parquet(folder, contents=None):
    folder.mkdir(exist_ok=True)
    images = [{"bytes": content} for content in contents or pictures()]
    texts = [f"picture {number}" for number in range(COUNT)]
    pq.write_table(pa.table({"image": images, "text": texts}), folder / "a.parquet", row_group_size=4)
    return HuggingFaceSettings(images=folder)


def completed(settings, folder):
    """Shards of four through an untrained xmrank-tiny."""
    sizes = {"batch_size": 2, "shard_size": 4, "workers": 1}
    return EmbedConfig(dataset=settings, output=folder, pretrained="none", init_seed=0, **sizes)


def at_uri(settings):
    return replace(settings, images=Path(f"file://{settings.images}"))


@pytest.mark.parametrize("made", [as_tar, as_parquet])
@pytest.mark.parametrize("moved", [lambda settings: settings, at_uri])
def test_the_embeddings_are_those_of_the_files(tmp_path, encoded, made, moved):
    embed(completed(as_files(tmp_path / "files"), tmp_path / "one"))
    config = completed(moved(made(tmp_path / "other")), tmp_path / "two")
    manifest = embed(config)
    one, two = EmbeddingStore.open(tmp_path / "one"), EmbeddingStore.open(tmp_path / "two")
    assert np.array_equal(one.image, two.image) and np.array_equal(one.text, two.text)
    for column in ("bytes", "sha256"):
        assert one.images[column].to_pylist() == two.images[column].to_pylist()
    assert str(two.images_root) == str(config.dataset.images).replace("file:/", "file:///")
    encoded.clear()
    assert embed(config) == manifest and encoded == []  # a second call finds nothing changed


def test_rows_that_are_no_images_are_left_out(tmp_path, encoded):
    contents = list(pictures())
    contents[1], contents[4] = None, b"<html>"
    config = completed(as_parquet(tmp_path / "data", contents), tmp_path / "store")
    manifest = embed(replace(config, max_broken=0.5))
    assert manifest.counts == {"images": 4, "captions": 4, "broken_images": 2, "equal_across_splits": 0}
    assert [entry["reason"] for entry in manifest.left_out] == [
        "no such file, or an empty one",
        "not an image of a known format",
    ]


def test_what_the_reader_left_out_is_in_the_manifest(tmp_path, encoded):
    config = completed(as_files(tmp_path / "files"), tmp_path / "store")
    (tmp_path / "files" / "2.txt").unlink()
    manifest = embed(replace(config, max_broken=0.5))
    assert manifest.counts["images"] == 5
    assert manifest.left_out == [{"image_id": "2.jpg", "reason": "its text 2.txt does not exist", "captions": 0}]


def test_a_changed_parquet_file_needs_overwrite(tmp_path, encoded):
    config = completed(as_parquet(tmp_path / "data"), tmp_path / "store")
    embed(config)
    as_parquet(tmp_path / "data", [content + b"more" for content in pictures()])
    with pytest.raises(DataError, match="was made from other dataset"):
        embed(config)


def test_copies_share_a_split_that_is_drawn(tmp_path, encoded, capsys):
    config = completed(as_files(tmp_path / "files"), tmp_path / "store")
    one = (tmp_path / "files" / "0.jpg").read_bytes()
    for number in range(6, 30):
        (tmp_path / "files" / f"{number}.jpg").write_bytes(one)
        (tmp_path / "files" / f"{number}.txt").write_text(f"picture {number}")
    manifest = embed(replace(config, dataset=replace(config.dataset, held_out=0.3)))
    store = EmbeddingStore.open(tmp_path / "store")
    others = {f"{number}.jpg" for number in range(1, 6)}
    copies = [row["split"] for row in store.images.to_pylist() if row["image_id"] not in others]
    assert len(copies) == 25 and len(set(copies)) == 1
    # Captions have the split of their image, and no image trains and tests.
    splits = dict(zip(store.images["image_id"].to_pylist(), store.images["split"].to_pylist(), strict=True))
    assert all(row["split"] == splits[row["image_id"]] for row in store.captions.to_pylist())
    assert manifest.counts["equal_across_splits"] == 0
    assert "warning: 25 images have the same bytes as another image of their split" in capsys.readouterr().out

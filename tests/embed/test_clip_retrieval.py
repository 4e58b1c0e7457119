"""Import of what clip-retrieval wrote."""

import os

import numpy as np
import pandas as pd
import pytest

from xmrank.config import EmbedConfig
from xmrank.datasets.reader_settings import ClipRetrievalSettings
from xmrank.embed.stage import embed
from xmrank.embed.store import EmbeddingStore
from xmrank.runtime.errors import ConfigError, DataError

PATHS = ["x/a.jpg", "x/b.jpg", "x/a.jpg", "x/c.jpg", "x/b.jpg"]
"""Three images with two, two and one caption; the second part begins with row 3."""


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def embeddings():
    """An embedding a path, the same for the same one, and one a row."""
    generator = np.random.default_rng(0)
    of = dict(zip("abc", unit(generator.normal(size=(3, 4))), strict=True))
    return np.array([of[path[2]] for path in PATHS], np.float16), unit(generator.normal(size=(5, 4))).astype(np.float16)


def write_part(folder, number, image, text, **columns):
    """The three files of one number, with zeros in front as clip-retrieval writes them."""
    for name in ("img_emb", "text_emb", "metadata"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    np.save(folder / "img_emb" / f"img_emb_{number}.npy", image)
    np.save(folder / "text_emb" / f"text_emb_{number}.npy", text)
    pd.DataFrame(columns).to_parquet(folder / "metadata" / f"metadata_{number}.parquet")


@pytest.fixture
def folder(tmp_path):
    """Two parts, of three and of two rows."""
    image, text = embeddings()
    for number, rows in (("00", slice(0, 3)), ("01", slice(3, 5))):
        captions = [f" Caption {row} " for row in range(5)][rows]
        splits = [{"a": "train", "b": "test", "c": "val"}[path[2]] for path in PATHS][rows]
        part = {"image_path": PATHS[rows], "caption": captions, "fold": splits, "width": [64] * len(captions)}
        write_part(tmp_path / "clip", number, image[rows], text[rows], **part)
    return tmp_path


def run_import(folder, **parameters):
    named = {"import_clip_retrieval", "split_field", "held_out"} & parameters.keys()
    settings = {"import_clip_retrieval": folder / "clip"} | {name: parameters.pop(name) for name in named}
    return embed(EmbedConfig(output=folder / "store", dataset=ClipRetrievalSettings(**settings), **parameters))


def refusal(folder, error=DataError, **parameters):
    with pytest.raises(error) as caught:
        run_import(folder, **parameters)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(f"{folder}/", "")


def test_rows_with_one_path_are_captions_of_one_image(folder):
    manifest = run_import(folder, split_field="fold")
    store, (image, text) = EmbeddingStore.open(folder / "store"), embeddings()
    assert manifest.counts == {"images": 3, "captions": 5} and manifest.left_out == []
    assert store.images.to_pylist() == [
        {"row": 0, "image_id": "x/a.jpg", "split": "train"},
        {"row": 1, "image_id": "x/b.jpg", "split": "test"},
        {"row": 2, "image_id": "x/c.jpg", "split": "val"},
    ]
    assert store.image_of_caption.tolist() == [0, 1, 0, 2, 1]
    assert store.captions["caption_id"].to_pylist() == ["x/a.jpg#0", "x/b.jpg#0", "x/a.jpg#1", "x/c.jpg#0", "x/b.jpg#1"]
    assert store.captions["text"].to_pylist() == [f"Caption {row}" for row in range(5)]
    assert store.captions["split"].to_pylist() == ["train", "test", "train", "val", "test"]
    assert np.array_equal(store.image, image[[0, 1, 3]]) and np.array_equal(store.text, text)
    assert store.image.dtype == np.float16


def test_splits_that_nobody_names_are_drawn(folder):
    run_import(folder)
    assert set(EmbeddingStore.open(folder / "store").images["split"].to_pylist()) <= {"train", "val", "test"}
    run_import(folder, held_out=0.0, overwrite=True)
    assert EmbeddingStore.open(folder / "store").splits() == ["train"]


def test_a_second_import_is_skipped_and_other_files_are_refused(folder):
    first = run_import(folder)
    assert run_import(folder) == first
    assert "split_field" in refusal(folder, split_field="fold")
    np.save(folder / "clip" / "text_emb" / "text_emb_01.npy", embeddings()[1][:2])
    assert "store: was made from other texts: " in refusal(folder)


def test_numbers_are_taken_as_numbers(folder):
    image, text = embeddings()
    for number in range(12):
        columns = {"image_path": [f"{number}.jpg"], "caption": [f"Caption {number}"]}
        write_part(folder / "other", number, image[number % 5][None], text[number % 5][None], **columns)
    run_import(folder, import_clip_retrieval=folder / "other")
    images = EmbeddingStore.open(folder / "store").images["image_id"].to_pylist()
    assert images == [f"{number}.jpg" for number in range(12)]


def change(folder, number, **columns):
    path = folder / "clip" / "metadata" / f"metadata_{number}.parquet"
    table = pd.read_parquet(path)
    for name, values in columns.items():
        table = table.drop(columns=name) if values is None else table.assign(**{name: values})
    table.to_parquet(path)


def test_rows_without_a_caption_are_left_out_and_listed(folder):
    change(folder, "01", caption=["  ", "Caption 4"])
    manifest = run_import(folder, max_broken=0.2)
    assert manifest.counts == {"images": 2, "captions": 4}
    assert manifest.left_out == [{"image_id": "x/c.jpg", "reason": "row 3: its caption is empty", "captions": 1}]
    assert np.array_equal(EmbeddingStore.open(folder / "store").text, embeddings()[1][[0, 1, 2, 4]])
    assert refusal(folder) == "clip: row 3 of the metadata: the caption is empty (1 in all; --max-broken 0.01)"


def test_one_path_for_different_images_is_refused(folder):
    image = embeddings()[0][3:]
    np.save(folder / "clip" / "img_emb" / "img_emb_01.npy", -image)
    assert refusal(folder) == ('clip: image_path "x/b.jpg" names different images: the embeddings of its rows differ')


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (
            "img_emb/img_emb_01.npy",
            None,
            "clip: no img_emb/img_emb_1.npy, though other files",
        ),
        (
            "metadata/metadata_00.parquet",
            None,
            "clip: no metadata/metadata_0.parquet, though other files",
        ),
        ("metadata/metadata_00.parquet", b"PAR1", "metadata_00.parquet: not readable as parquet: "),
        ("text_emb/text_emb_00.npy", b"1 2 3", "text_emb_00.npy: not an array in .npy form"),
        ("text_emb/text_emb_00.npy", np.ones((2, 4)), "text_emb_00.npy: 2 rows, but metadata_00.parquet has 3"),
        ("text_emb/text_emb_01.npy", np.ones((2, 3)), "text_emb_01.npy: shape [2, 3], expected [items, 4]"),
        ("img_emb/img_emb_00.npy", np.ones(3), "img_emb_00.npy: shape [3], expected [items, dimensions]"),
        ("text_emb/text_emb_01.npy", np.full((2, 4), np.nan), "text_emb_01.npy: row 0 holds NaN or infinity"),
    ],
)
def test_a_bad_file_is_one_line(folder, file, content, message):
    path = folder / "clip" / file
    if content is None:
        path.unlink()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, content)
    assert message in refusal(folder)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"caption": None}, "metadata_01.parquet: no column caption"),
        ({"image_path": ["x/c.jpg", pd.NA]}, "clip: row 4 of the metadata: nothing under image_path"),
        ({"fold": [None, "test"]}, "clip: row 3 of the metadata: nothing under fold"),
    ],
)
def test_bad_metadata_is_one_line(folder, columns, message):
    change(folder, "01", **columns)
    assert refusal(folder, split_field="fold") == message


def test_a_split_field_that_is_not_there_is_named(folder):
    message = refusal(folder, split_field="part", error=ConfigError)
    assert message == (
        "--split-field part: no such column in metadata_00.parquet; its columns: image_path, caption, fold, width"
    )


def test_dimensions_of_the_sides_must_agree(folder):
    for number, rows in (("00", 3), ("01", 2)):
        np.save(folder / "clip" / "text_emb" / f"text_emb_{number}.npy", np.ones((rows, 3)))
    assert refusal(folder) == "text_emb_00.npy: 3 dimensions, but img_emb_00.npy has 4"


def test_a_folder_of_something_else_is_refused(folder):
    assert refusal(folder, import_clip_retrieval=folder / "no") == "no: no such folder (--import-clip-retrieval)"
    (folder / "empty").mkdir()
    assert "empty: expected img_emb/img_emb_*.npy, text_emb/" in refusal(folder, import_clip_retrieval=folder / "empty")


def test_a_pipe_as_metadata_is_not_waited_for(folder):
    path = folder / "clip/metadata/metadata_01.parquet"
    path.unlink()
    os.mkfifo(path)
    assert refusal(folder) == "clip/metadata/metadata_01.parquet: not a regular file (--import-clip-retrieval)"

"""Splits by the names of folders and files, and by the hash of ids."""

import pytest

from xmrank.datasets.splits import draw_splits, split_of_file, split_of_folder


@pytest.mark.parametrize(
    ("location", "split"),
    [
        ("train/a.jpg", "train"),
        ("Validation/a/b.jpg", "val"),
        ("val2017/a.jpg", "val"),
        ("test_1/a.jpg", "test"),
        ("train.jpg", None),  # a picture of a train
        ("dogs/train/a.jpg", None),
        ("trains/a.jpg", None),
    ],
)
def test_the_outermost_folder_names_the_split(location, split):
    assert split_of_folder(location) == split


@pytest.mark.parametrize(
    ("location", "split"),
    [
        ("data/train-00000-of-00002.parquet", "train"),
        ("data/validation-00000-of-00001.parquet", "val"),
        ("data/restval-00000-of-00001.parquet", "train"),
        ("default/test/0000.parquet", "test"),
        ("captions_val2017.json", "val"),
        ("my-training-set.csv", "train"),
        ("00000.tar", None),
        ("contrain.csv", None),
    ],
)
def test_a_files_folders_and_name_say_its_split(location, split):
    assert split_of_file(location) == split


def test_draws_depend_on_the_id_alone():
    ids = [f"image{i}" for i in range(5000)]
    drawn = dict(zip(ids, draw_splits(ids, 0.2), strict=True))
    assert [drawn[i] for i in ids[::-7]] == draw_splits(ids[::-7], 0.2)
    assert sum(split == "val" for split in drawn.values()) == pytest.approx(1000, abs=100)  # 28 is a deviation
    assert sum(split == "test" for split in drawn.values()) == pytest.approx(1000, abs=100)
    assert set(draw_splits(ids, 0.0)) == {"train"}

"""What a data set holds, in one line."""

from dataclasses import asdict

import pyarrow as pa
import pytest

from xmrank.datasets.account import DataAccount, account_of, count_copies, keep_copies_together

IMAGES = pa.table({
    "image_id": list("abcdef"),
    "split": ["train", "val", "train", "fold a", "val", "train"],
    "sha256": ["1", "1", "2", "3", "4", "2"],
})  # fmt: skip
CAPTIONS = pa.table({"image_id": list("aaabbcde")})


def test_the_line_says_what_is_there_and_what_is_not():
    account = DataAccount.from_tables(IMAGES, CAPTIONS, {"has no caption": 1, "caption is empty": 3}, {"column url": 1})
    # f has no caption; a = b are in two splits, c = f in one.
    assert account.describe() == (
        "6 images, 8 captions; captions an image: 0 to 3, mean 1.33; splits: train 3, val 2, fold a 1; images with the "
        "bytes of another: 2 within a split, 2 across splits; left out: caption is empty (3), has no caption; "
        "not used: column url"
    )
    without = DataAccount.from_tables(IMAGES.drop_columns("sha256"), CAPTIONS)
    assert without.describe().endswith("splits: train 3, val 2, fold a 1; left out: nothing")


def test_of_many_kinds_the_most_frequent_are_named():
    account = DataAccount.from_tables(IMAGES, CAPTIONS, unused={f"files .{kind}": kind for kind in range(1, 10)})
    assert account.describe().endswith("files .9 (9), files .8 (8), files .7 (7), files .6 (6), files .5 (5), "
                                       "files .4 (4), 3 other kinds")  # fmt: skip


def test_images_without_a_hash_are_equal_to_none():
    images = IMAGES.set_column(2, "sha256", pa.array(["1", None, None, None, "1", "1"]))
    assert count_copies(images) == {"within": 2, "across": 3}


def test_copies_are_put_into_the_split_of_the_first():
    assert keep_copies_together(IMAGES)["split"].to_pylist() == ["train", "train", "train", "fold a", "val", "train"]


def test_an_account_comes_back_from_a_manifest_unless_it_is_damaged():
    values = asdict(DataAccount.from_tables(IMAGES, CAPTIONS, {"has no caption": 1}))
    account = account_of({"account": values})
    assert account is not None and asdict(account) == values
    for name, value in (
        ("images", "6"),
        ("splits", None),
        ("splits", {"a": "b"}),
        ("copies", {}),
        ("copies", {"x": 1}),
    ):
        assert account_of({"account": {**values, name: value}}) is None
    assert account_of({}) is None and account_of({"account": {**values, "more": 1}}) is None


@pytest.mark.parametrize("value", [None, 3, [], "x"])
def test_what_is_no_account_is_none(value):
    assert account_of({"account": value}) is None

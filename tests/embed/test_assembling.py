"""Equal images of different splits, found by their hashes."""

import pyarrow as pa

from xmrank.embed.assembling import find_equal_across_splits


def test_images_without_a_hash_are_not_equal():
    table = pa.table(
        {
            "image_id": ["a", "b", "c", "d"],
            "split": ["train", "test", "train", "test"],
            "sha256": pa.array([None, None, "00", "00"], pa.string()),
        }
    )
    assert find_equal_across_splits(table) == [{"c": "train", "d": "test"}]

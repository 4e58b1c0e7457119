"""What is written is what is read, whatever the captions, ids, splits and the order of rows; damage is counted."""

import tempfile
from collections import Counter
from pathlib import Path, PurePosixPath
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pair_writers import ONE_A_LINE, ROW_A_CAPTION, WRITERS

from xmrank.datasets.caption_texts import list_in_text
from xmrank.datasets.readers import read_dataset

EXAMPLES = 25
SPLITS = {"train": "train", "Training": "train", "dev": "val", "val2017": "val", "TEST": "test", "restval": "train"}
TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
# A text that is a list is one to every reader of tables.
CAPTION = TEXT.filter(lambda text: text.strip() and list_in_text(text) is None)
LINE = CAPTION.map(lambda text: text.replace("\n", " ")).filter(str.strip)
NAME = st.text(st.characters(codec="utf-8", exclude_characters="/\\:\0\r\n"), max_size=12)


@st.composite
def image_sets(draw, caption, least):
    """Images as (file name, split, captions), each with up to 12 captions, and a seed for the order of the rows."""
    images = []
    for number, name in enumerate(draw(st.lists(NAME, min_size=1, max_size=5))):
        texts = draw(st.lists(caption, min_size=least, max_size=12))
        # No hidden file, and none that ends with a space.
        images.append((f"n{number}{name}x.jpg", draw(st.sampled_from(sorted(SPLITS))), texts))
    return images, draw(st.integers(0, 1000))


def read_pairs(name, images, seed, damage=None):
    """Image's name → (split, captions in order), and what was left out."""
    with tempfile.TemporaryDirectory() as folder:
        written = WRITERS[name](Path(folder), images, Random(seed), damage)
        dataset = read_dataset(written, max_broken=1.0)
    pairs, owner = {}, {}
    for image in dataset.images.to_pylist():
        # The file's own name, or, for what is stored in another file, its key or id.
        key = image["image_id"] if "::" in image["location"] else PurePosixPath(image["location"]).name
        owner[image["image_id"]] = key.removesuffix(".jpg")
        pairs[owner[image["image_id"]]] = (image["split"], [])
    for caption in dataset.captions.to_pylist():
        pairs[owner[caption["image_id"]]][1].append(caption["text"])
    return {key: (split, sorted(texts)) for key, (split, texts) in pairs.items()}, dataset.left_out


def expected_pairs(images):
    """What a reader should make of the images: one without captions is none."""
    return {
        name.removesuffix(".jpg"): (SPLITS[split], sorted(text.strip() for text in texts))
        for name, split, texts in images
        if texts
    }


@pytest.mark.parametrize("name", WRITERS)
def test_pairs_are_read_as_they_were_written(name):
    @settings(max_examples=EXAMPLES, deadline=None)
    @given(image_sets(LINE if name in ONE_A_LINE else CAPTION, least=0))
    def check(drawn):
        images, seed = drawn
        expected = expected_pairs(images)
        if not expected:
            return
        pairs, left_out = read_pairs(name, images, seed)
        assert pairs == expected
        # Where an image without captions has a row, that it is left out is listed.
        lost = 0 if name in ROW_A_CAPTION else len(images) - len(expected)
        assert len(left_out) == lost

    check()


@pytest.mark.parametrize("name", WRITERS)
def test_a_damaged_row_is_counted_and_becomes_nothing_else(name):
    @settings(max_examples=EXAMPLES, deadline=None)
    @given(image_sets(LINE if name in ONE_A_LINE else CAPTION, least=1), st.integers(0, 4))
    def check(drawn, damage):
        images, seed = drawn
        damage %= len(images)
        whole = expected_pairs([*images, ("other.jpg", "train", ["A dog."])])
        pairs, left_out = read_pairs(name, [*images, ("other.jpg", "train", ["A dog."])], seed, damage)
        # Its image too, if it has no other caption.
        assert 1 <= len(left_out) <= 2
        key = images[damage][0].removesuffix(".jpg")
        split, texts = pairs.pop(key, (whole[key][0], []))
        assert split == whole[key][0]
        # Of the damaged image, captions may be missing, and none may be new.
        assert not Counter(texts) - Counter(whole[key][1]) and len(texts) < len(whole[key][1])
        assert pairs == {name: pair for name, pair in whole.items() if name != key}

    check()

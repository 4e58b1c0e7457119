"""The web-like pictures and their alt texts: the same for the same seed, varied, and one text in ten mismatched."""

import colorsys
import io
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from xmrank.datasets.scenes import alt_texts
from xmrank.datasets.scenes.alt_texts import write_alt_texts
from xmrank.datasets.scenes.layout import LABEL_NAMES
from xmrank.datasets.scenes.training_pairs import DISTRIBUTIONS
from xmrank.datasets.scenes.web_drawing import draw_picture, write_picture
from xmrank.datasets.scenes.web_layout import PALETTE, WebObject, WebPicture, compose_picture
from xmrank.datasets.scenes.words import DIGIT_WORDS, SYNONYMS

PICTURES = [compose_picture(0, "train", number) for number in range(300)]
STAR, SQUARE = LABEL_NAMES.index("star"), LABEL_NAMES.index("square")


def web_object(label: int = SQUARE, colour: str = "green", x: int = 40, y: int = 50, diameter: int = 40) -> WebObject:
    return WebObject(label, colour, (40, 160, 60), "solid", x, y, diameter, angle=0.0, glyph=0.5, printed=False)


def picture_of(*objects: WebObject) -> WebPicture:
    return WebPicture("key", 100, 120, "white", (250, 250, 250), "plain", clutter=0, objects=objects)


def nouns_in(text: str) -> set[int]:
    """The classes of which a text without numbers of its own speaks."""
    shapes = {word: LABEL_NAMES.index(name) for name in LABEL_NAMES[10:] for word in SYNONYMS[name]}
    meaning = shapes | {word: digit for digit, word in enumerate(DIGIT_WORDS) if word != "one"}
    # One star has a number in its name, and one cross has two words. A file name has hyphens for spaces.
    plain = text.replace("-", " ").replace("five pointed", "").replace("plus sign", "cross")
    plain = re.sub("[a-z]+ (things|objects)", "", plain)
    words = re.findall("[a-z]+", plain)
    return {meaning[word] for word in words if word in meaning}


def test_a_picture_depends_on_seed_split_and_number_alone():
    assert compose_picture(0, "train", 5) == PICTURES[5]
    assert len({compose_picture(seed, split, 5) for seed in (0, 1) for split in ("train", "val")}) == 4


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_the_same_number_gives_the_same_bytes_and_texts(distribution):
    files = io.BytesIO(), io.BytesIO(), io.BytesIO()
    write_pair = DISTRIBUTIONS[distribution]
    texts = [write_pair(0, "train", number, file) for number, file in zip((3, 3, 4), files, strict=True)]
    one, again, other = (file.getvalue() for file in files)
    assert one == again != other
    assert texts[0] == texts[1] != texts[2]
    assert [len(written) for written in texts] == [5, 5, 5]


def test_the_texts_of_a_seed_stay_what_they_are():
    """They are part of what the bundled encoder was trained on."""
    assert write_alt_texts(compose_picture(1000003, "train", 0)) == (
        "against flat a red with top centre you a see the orange 1 with orange figure one",
        "orange digit 1",
        "orange one",
        "large orange no. one 8987 px",
        "click both 1 and on flat scarlet",
    )


def test_pictures_use_all_that_there_is():
    objects = [item for picture in PICTURES for item in picture.objects]
    assert {item.label for item in objects} == set(range(20))
    assert {item.colour for item in objects} == {picture.background for picture in PICTURES} == set(PALETTE)
    assert {item.fill for item in objects} == {"solid", "gradient", "outlined", "striped", "dotted", "checkered"}
    assert {len(picture.objects) for picture in PICTURES} == {1, 2, 3, 4, 5}
    assert {item.printed for item in objects} == {True, False}


def test_objects_are_inside_and_apart():
    for picture in PICTURES:
        shorter = min(picture.width, picture.height)
        assert 0.74 < picture.width / picture.height < 1.35
        for index, item in enumerate(picture.objects):
            assert 0.16 < item.diameter / shorter < 0.61
            assert item.diameter // 2 <= item.x <= picture.width - item.diameter // 2
            for other in picture.objects[:index]:
                assert np.hypot(item.x - other.x, item.y - other.y) > 0.45 * (item.diameter + other.diameter)


def test_a_colour_is_what_its_name_says():
    for item in (item for picture in PICTURES for item in picture.objects):
        hue, saturation, value = colorsys.rgb_to_hsv(*(channel / 255 for channel in item.rgb))
        (low, high), saturations, values = PALETTE[item.colour]
        # Bytes round a little; a hue means nothing without saturation, and 0 follows 1.
        assert saturation < 0.35 or any(low - 0.02 <= turn <= high + 0.02 for turn in (hue, hue + 1))
        assert saturations[0] - 0.04 <= saturation <= saturations[1] + 0.35 * (value < 0.15) + 0.04
        assert values[0] - 0.01 <= value <= values[1] + 0.01


def test_a_solid_object_is_drawn_at_its_position_in_about_its_colour():
    pixels = np.asarray(draw_picture(picture_of(web_object())), int)
    assert pixels.shape == (120, 100, 3)
    red, green, blue = pixels[50, 40]
    assert green > 1.5 * red
    assert green > 1.5 * blue
    assert pixels[110, 90].min() > 150  # the white background


def test_written_pictures_are_jpeg_files_of_their_size():
    file = io.BytesIO()
    write_picture(PICTURES[0], file)
    with Image.open(file) as image:
        assert (image.format, image.size) == ("JPEG", (PICTURES[0].width, PICTURES[0].height))


def test_one_text_in_ten_is_about_another_picture():
    """A star alone: a text that names another class is mismatched. One of 20 other pictures has a star in front."""
    star = picture_of(web_object(STAR))
    texts = [text for number in range(400) for text in write_alt_texts(replace(star, key=f"key {number}"))]
    wrong = sum(bool(nouns_in(text) - {STAR}) for text in texts)
    # Close to 0.1: few of the mismatched ones name no class, or the star alone.
    assert 0.07 < wrong / len(texts) < 0.12


def test_other_texts_speak_of_a_part_of_the_picture(monkeypatch):
    monkeypatch.setattr(alt_texts, "MISMATCHED", 0.0)
    pair = picture_of(web_object(STAR, x=20, y=20), web_object(SQUARE, "blue", x=80, y=100))
    texts = [text for number in range(200) for text in write_alt_texts(replace(pair, key=f"key {number}"))]
    named = [nouns_in(text) & {STAR, SQUARE} for text in texts]
    assert {len(classes) for classes in named} == {0, 1, 2}
    # The star is further up than it is left.
    assert any("star above" in text for text in texts)
    assert not any("star left of" in text or "star below" in text for text in texts)
    assert any(re.search(r"top left: (\w+ )?star", text) for text in texts)
    assert not any(re.search(r"bottom right: (\w+ )?star", text) for text in texts)
    assert sum("img_" in text or ".jpg" in text for text in texts) > 5
    assert len(set(texts)) > 0.8 * len(texts)

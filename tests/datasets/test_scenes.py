"""The generated data set: the same bytes whatever the circumstances, and captions that are true."""

import hashlib
import signal
import subprocess
import sys
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from xmrank.datasets.dataset import CAPTIONS, IMAGES
from xmrank.datasets.scenes import generate as scenes
from xmrank.datasets.scenes.drawing import CELL, _glyphs
from xmrank.datasets.scenes.generate import IMAGE_SIZE, LABEL_NAMES, compose_scene, describe, draw_scene, generate
from xmrank.datasets.scenes.layout import BACKGROUNDS, COLOURS, DIAMETERS, PATTERNS, SHAPES, Scene, SceneObject
from xmrank.datasets.scenes.scene_captions import RELATIONS, Claim, Mention
from xmrank.datasets.scenes.words import SYNONYMS
from xmrank.runtime.errors import ConfigError

SIZES = {"train": 7, "val": 2, "test": 3}
SCENES = [compose_scene(0, "test", number) for number in range(300)]


def tree(root: Path) -> dict[str, str]:
    """Every file below a folder and the hash of its bytes."""
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("undisturbed")
    generate(root, **SIZES)
    return root


def thing(row: int, column: int, label: int = 13, colour: str = "red", size: str = "medium") -> SceneObject:
    return SceneObject(label, colour, size, "solid", row, column, diameter=22, shift=(0, 0), angle=0.0, glyph=0.5)


def scene_of(*things: SceneObject) -> Scene:
    return Scene("key", "black", "plain", things)


def test_files_and_tables(undisturbed):
    images, captions = pq.read_table(undisturbed / "images.parquet"), pq.read_table(undisturbed / "captions.parquet")
    assert images.schema.equals(IMAGES)
    assert captions.schema.equals(CAPTIONS)
    assert images["image_id"].to_pylist()[:2] == ["train-000000", "train-000001"]
    assert images["split"].to_pylist() == ["train"] * 7 + ["val"] * 2 + ["test"] * 3
    assert captions["image_id"].to_pylist() == [image for image in images["image_id"].to_pylist() for _ in range(5)]
    assert len(set(captions["caption_id"].to_pylist())) == 12 * 5
    for location in images["location"].to_pylist():
        with Image.open(undisturbed / location) as image:
            assert (image.format, image.size, image.mode) == ("JPEG", (IMAGE_SIZE, IMAGE_SIZE), "RGB")
    assert set(tree(undisturbed)) == {
        *images["location"].to_pylist(), "images.parquet", "captions.parquet", "scenes.json"
    }  # fmt: skip


def test_number_of_workers_changes_no_byte(undisturbed, tmp_path, monkeypatch):
    monkeypatch.setattr(scenes, "_CHUNK", 3)
    generate(tmp_path / "new", **SIZES, workers=2)
    assert tree(tmp_path / "new") == tree(undisturbed)


def test_sizes_change_no_image(undisturbed, tmp_path):
    generate(tmp_path, train=9, val=0, test=2)
    smaller = {name: digest for name, digest in tree(undisturbed).items() if name.startswith("images/")}
    larger = tree(tmp_path)
    assert all(larger[name] == digest for name, digest in smaller.items() if name in larger)
    assert {name for name in larger if name.startswith("images/train")} > {n for n in smaller if "train" in n}


def test_seed_and_split_change_the_scenes():
    assert compose_scene(0, "train", 5) == compose_scene(0, "train", 5)
    assert len({compose_scene(seed, split, 5) for seed in (0, 1) for split in ("train", "val", "test")}) == 6


def test_interrupted_run_ends_in_the_same_bytes(undisturbed, tmp_path, monkeypatch):
    def interrupt(done: int) -> None:
        if done:
            raise KeyboardInterrupt

    monkeypatch.setattr(scenes, "_CHUNK", 3)
    with pytest.raises(KeyboardInterrupt):
        generate(tmp_path, **SIZES, progress=interrupt)
    assert len(list(tmp_path.rglob("*.jpg"))) == 3
    whole = tmp_path / "images/train/000001.jpg"
    whole.write_bytes(whole.read_bytes()[:500])
    (tmp_path / "images/train/.000003.jpg.part").write_bytes(b"half an image")
    generate(tmp_path, **SIZES)
    assert tree(tmp_path) == tree(undisturbed)


def test_killed_run_ends_in_the_same_bytes(tmp_path):
    code = """
import sys
from pathlib import Path
from xmrank.datasets.scenes.generate import generate
generate(Path(sys.argv[1]), train=300, val=0, test=300, progress=lambda images: print(images, flush=True))
"""
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "a")], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"0\n"
    assert process.stdout.readline() == b"250\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "a/images.parquet").exists()
    generate(tmp_path / "a", train=300, val=0, test=300)
    generate(tmp_path / "b", train=300, val=0, test=300)
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


def test_second_run_draws_nothing(undisturbed, monkeypatch):
    monkeypatch.setattr(scenes, "write_scene", lambda scene, file: pytest.fail("drew an image that was there"))
    counted: list[int] = []
    generate(undisturbed, **SIZES, progress=counted.append)
    assert counted == [12]


def test_folder_of_another_seed_is_refused(undisturbed):
    with pytest.raises(ConfigError, match=r'"seed": 0.*expected.*"seed": 1'):
        generate(undisturbed, **SIZES, seed=1)


@pytest.mark.parametrize("wrong", [{"train": -1}, {"train": 0, "val": 0, "test": 0}, {"workers": 0}])
def test_sizes_out_of_range_are_refused(tmp_path, wrong):
    with pytest.raises(ConfigError, match="scenes: sizes"):
        generate(tmp_path, **wrong)


def test_labels_are_the_classes_of_the_things():
    assert len(LABEL_NAMES) == 20
    assert LABEL_NAMES[7] == "7"
    assert LABEL_NAMES[13] == "star"
    assert scene_of(thing(0, 0, 13), thing(1, 1, 7), thing(2, 2, 13)).labels == [7, 13]
    assert all(set(scene.labels) == {thing.label for thing in scene.things} for scene in SCENES)


def test_scenes_use_all_that_there_is():
    things = [thing for scene in SCENES for thing in scene.things]
    assert {len(scene.things) for scene in SCENES} == {2, 3, 4}
    assert {thing.label for thing in things} == set(range(20))
    assert {thing.colour for thing in things} == set(COLOURS)
    assert {thing.size for thing in things} == set(DIAMETERS)
    assert {thing.texture for thing in things} == {"solid", "striped", "dotted", "checkered"}
    assert {scene.background for scene in SCENES} == set(BACKGROUNDS)
    assert {scene.pattern for scene in SCENES} == set(PATTERNS)
    assert {(thing.row, thing.column) for thing in things} == {(row, column) for row in range(3) for column in range(3)}


def test_things_stand_in_cells_of_their_own():
    for scene in SCENES:
        assert len({(thing.row, thing.column) for thing in scene.things}) == len(scene.things)


@pytest.mark.parametrize("number", range(10))
def test_a_thing_is_drawn_in_its_cell_and_nowhere_else(number):
    scene = SCENES[number]
    empty = np.asarray(draw_scene(replace(scene, things=())), int)
    changed = np.abs(np.asarray(draw_scene(scene), int) - empty).max(axis=2) > 30
    cells = changed.reshape(3, CELL, 3, CELL).sum(axis=(1, 3))
    occupied = {(thing.row, thing.column) for thing in scene.things}
    assert {(row, column) for row in range(3) for column in range(3) if cells[row, column] > 12} == occupied
    assert all(cells[row, column] == 0 for row in range(3) for column in range(3) if (row, column) not in occupied)


def test_a_solid_thing_has_its_colour():
    pixels = np.asarray(draw_scene(scene_of(thing(0, 2, LABEL_NAMES.index("square"), "green"))))
    assert tuple(pixels[CELL // 2, 2 * CELL + CELL // 2]) == COLOURS["green"]


def test_digits_are_the_handwritten_ones_of_scikit_learn():
    assert sum(len(examples) for examples in _glyphs()) == 1797
    assert all(examples.shape[1:] == (8, 8) for examples in _glyphs())


@pytest.mark.parametrize(
    ("relation", "place", "other"),
    [
        ("left", (0, 0), (0, 2)),
        ("right", (2, 1), (1, 0)),  # a diagonal: right of it, and below it
        ("below", (2, 1), (1, 0)),
        ("above", (0, 1), (2, 2)),
        ("beside", (1, 1), (1, 2)),
        ("beside", (1, 1), (0, 1)),
    ],
)
def test_relation_holds(relation, place, other):
    assert RELATIONS[relation](thing(*place), thing(*other))


@pytest.mark.parametrize(
    ("relation", "place", "other"),
    [
        ("left", (0, 2), (0, 0)),
        ("left", (0, 0), (2, 1)),  # two rows up, one column left: above it, not left of it
        ("above", (1, 0), (1, 2)),
        ("beside", (0, 0), (1, 1)),
        ("beside", (0, 0), (0, 2)),
    ],
)
def test_relation_does_not_hold(relation, place, other):
    assert not RELATIONS[relation](thing(*place), thing(*other))


STAR = Mention(is_digit=False, label=13)
RED_SEVEN = Mention(is_digit=True, label=7, colour="red")


@pytest.mark.parametrize(
    ("claim", "truth"),
    [
        (Claim((STAR,)), True),
        (Claim((RED_SEVEN,)), False),  # the seven is blue
        (Claim((replace(STAR, place=(0, 0)),)), True),
        (Claim((replace(STAR, place=(0, 1)),)), False),
        (Claim((STAR, Mention(True, 7)), relation="left"), True),
        (Claim((Mention(True, 7), STAR), relation="left"), False),
        (Claim((STAR, STAR)), False),  # there is one star only
        (Claim((STAR,), count=2), True),
        (Claim((STAR,), count=3), False),
        (Claim((STAR,), background="cream"), False),
        (Claim((STAR,), background="black", pattern="plain"), True),
        (Claim((STAR,), background="black", pattern="tiled"), False),
        (Claim((Mention(False, None, size="large"),)), False),
    ],
)
def test_claim(claim, truth):
    assert claim.holds(scene_of(thing(0, 0, 13, "red"), thing(0, 2, 7, "blue"))) is truth


@pytest.mark.parametrize("scene", SCENES[:100], ids=count())
def test_five_different_true_captions_of_a_part(scene):
    captions = describe(scene)
    assert len({caption.text for caption in captions}) == 5
    for caption in captions:
        assert caption.claim.holds(scene), caption
        assert 1 <= len(caption.claim.mentions) <= 2


def words_for(names) -> dict[str, str]:
    return {synonym: name for name in names for synonym in SYNONYMS[name]}


@pytest.mark.parametrize(
    ("names", "true_of"),
    [
        (COLOURS, lambda scene: {thing.colour for thing in scene.things}),
        (SHAPES, lambda scene: {LABEL_NAMES[thing.label] for thing in scene.things}),
        (("small", "large"), lambda scene: {thing.size for thing in scene.things}),
        (PATTERNS, lambda scene: {scene.pattern}),
        (("striped", "dotted", "checkered"), lambda scene: {thing.texture for thing in scene.things}),
    ],
)
def test_every_word_of_a_caption_is_true_of_the_scene(names, true_of):
    """Reads the sentence itself, so that a claim and its wording cannot drift apart."""
    meaning = words_for(names)
    seen = set()
    for scene in SCENES:
        for caption in describe(scene):
            text = caption.text.lower().replace("dark blue", "navy").strip(".")
            said = {meaning[word] for word in text.replace(",", "").split() if word in meaning}
            assert said <= true_of(scene), (caption, scene)
            seen |= said
    assert seen == set(names)


def test_sentences_vary():
    texts = [caption.text for scene in SCENES for caption in describe(scene)]
    assert len(set(texts)) > 0.9 * len(texts)
    assert len({" ".join(text.split()[:2]) for text in texts}) > 100

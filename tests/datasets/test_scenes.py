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
from xmrank.datasets.scenes.drawing import CELL, _load_glyphs
from xmrank.datasets.scenes.generate import (
    IMAGE_SIZE,
    LABEL_NAMES,
    compose_scene,
    describe_scene,
    draw_scene,
    generate_scenes,
)
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
    generate_scenes(root, **SIZES)
    return root


def item(row: int, column: int, label: int = 13, colour: str = "red", size: str = "medium") -> SceneObject:
    return SceneObject(label, colour, size, "solid", row, column, diameter=22, shift=(0, 0), angle=0.0, glyph=0.5)


def scene_of(*objects: SceneObject) -> Scene:
    return Scene("key", "black", "plain", objects)


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
    generate_scenes(tmp_path / "new", **SIZES, workers=2)
    assert tree(tmp_path / "new") == tree(undisturbed)


def test_sizes_change_no_image(undisturbed, tmp_path):
    generate_scenes(tmp_path, train=9, val=0, test=2)
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
        generate_scenes(tmp_path, **SIZES, progress=interrupt)
    assert len(list(tmp_path.rglob("*.jpg"))) == 3
    whole = tmp_path / "images/train/000001.jpg"
    whole.write_bytes(whole.read_bytes()[:500])
    (tmp_path / "images/train/.000003.jpg.part").write_bytes(b"half an image")
    generate_scenes(tmp_path, **SIZES)
    assert tree(tmp_path) == tree(undisturbed)


def test_killed_run_ends_in_the_same_bytes(tmp_path):
    code = """
import sys
from pathlib import Path
from xmrank.datasets.scenes.generate import generate_scenes
generate_scenes(Path(sys.argv[1]), train=300, val=0, test=300, progress=lambda images: print(images, flush=True))
"""
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "a")], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"0\n"
    assert process.stdout.readline() == b"250\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "a/images.parquet").exists()
    generate_scenes(tmp_path / "a", train=300, val=0, test=300)
    generate_scenes(tmp_path / "b", train=300, val=0, test=300)
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


def test_second_run_draws_nothing(undisturbed, monkeypatch):
    monkeypatch.setattr(scenes, "write_scene", lambda scene, file: pytest.fail("drew an image that was there"))
    counted: list[int] = []
    generate_scenes(undisturbed, **SIZES, progress=counted.append)
    assert counted == [12]


def test_folder_of_another_seed_is_refused(undisturbed):
    with pytest.raises(ConfigError, match=r'"seed": 0.*expected.*"seed": 1'):
        generate_scenes(undisturbed, **SIZES, seed=1)


@pytest.mark.parametrize("wrong", [{"train": -1}, {"train": 0, "val": 0, "test": 0}, {"workers": 0}])
def test_sizes_out_of_range_are_refused(tmp_path, wrong):
    with pytest.raises(ConfigError, match="scenes: sizes"):
        generate_scenes(tmp_path, **wrong)


def test_labels_are_the_classes_of_the_objects():
    assert len(LABEL_NAMES) == 20
    assert LABEL_NAMES[7] == "7"
    assert LABEL_NAMES[13] == "star"
    assert scene_of(item(0, 0, 13), item(1, 1, 7), item(2, 2, 13)).labels == [7, 13]
    assert all(set(scene.labels) == {item.label for item in scene.objects} for scene in SCENES)


def test_scenes_use_all_that_there_is():
    objects = [item for scene in SCENES for item in scene.objects]
    assert {len(scene.objects) for scene in SCENES} == {2, 3, 4}
    assert {item.label for item in objects} == set(range(20))
    assert {item.colour for item in objects} == set(COLOURS)
    assert {item.size for item in objects} == set(DIAMETERS)
    assert {item.texture for item in objects} == {"solid", "striped", "dotted", "checkered"}
    assert {scene.background for scene in SCENES} == set(BACKGROUNDS)
    assert {scene.pattern for scene in SCENES} == set(PATTERNS)
    assert {(item.row, item.column) for item in objects} == {(row, column) for row in range(3) for column in range(3)}


def test_objects_have_cells_of_their_own():
    for scene in SCENES:
        assert len({(item.row, item.column) for item in scene.objects}) == len(scene.objects)


@pytest.mark.parametrize("number", range(10))
def test_an_object_is_drawn_in_its_cell_and_nowhere_else(number):
    scene = SCENES[number]
    empty = np.asarray(draw_scene(replace(scene, objects=())), int)
    changed = np.abs(np.asarray(draw_scene(scene), int) - empty).max(axis=2) > 30
    cells = changed.reshape(3, CELL, 3, CELL).sum(axis=(1, 3))
    occupied = {(item.row, item.column) for item in scene.objects}
    assert {(row, column) for row in range(3) for column in range(3) if cells[row, column] > 12} == occupied
    assert all(cells[row, column] == 0 for row in range(3) for column in range(3) if (row, column) not in occupied)


def test_a_solid_object_has_its_colour():
    pixels = np.asarray(draw_scene(scene_of(item(0, 2, LABEL_NAMES.index("square"), "green"))))
    assert tuple(pixels[CELL // 2, 2 * CELL + CELL // 2]) == COLOURS["green"]


def test_digits_are_the_handwritten_ones_of_scikit_learn():
    assert sum(len(examples) for examples in _load_glyphs()) == 1797
    assert all(examples.shape[1:] == (8, 8) for examples in _load_glyphs())


@pytest.mark.parametrize(
    ("relation", "cell", "other"),
    [
        ("left", (0, 0), (0, 2)),
        ("right", (2, 1), (1, 0)),  # a diagonal: right of it, and below it
        ("below", (2, 1), (1, 0)),
        ("above", (0, 1), (2, 2)),
        ("beside", (1, 1), (1, 2)),
        ("beside", (1, 1), (0, 1)),
    ],
)
def test_relation_holds(relation, cell, other):
    assert RELATIONS[relation](item(*cell), item(*other))


@pytest.mark.parametrize(
    ("relation", "cell", "other"),
    [
        ("left", (0, 2), (0, 0)),
        ("left", (0, 0), (2, 1)),  # two rows up, one column left: above it, not left of it
        ("above", (1, 0), (1, 2)),
        ("beside", (0, 0), (1, 1)),
        ("beside", (0, 0), (0, 2)),
    ],
)
def test_relation_does_not_hold(relation, cell, other):
    assert not RELATIONS[relation](item(*cell), item(*other))


STAR = Mention(is_digit=False, label=13)
RED_SEVEN = Mention(is_digit=True, label=7, colour="red")


@pytest.mark.parametrize(
    ("claim", "truth"),
    [
        (Claim((STAR,)), True),
        (Claim((RED_SEVEN,)), False),  # the seven is blue
        (Claim((replace(STAR, cell=(0, 0)),)), True),
        (Claim((replace(STAR, cell=(0, 1)),)), False),
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
    assert claim.holds_for(scene_of(item(0, 0, 13, "red"), item(0, 2, 7, "blue"))) is truth


@pytest.mark.parametrize("scene", SCENES[:100], ids=count())
def test_five_different_true_captions_of_a_part(scene):
    captions = describe_scene(scene)
    assert len({caption.text for caption in captions}) == 5
    for caption in captions:
        assert caption.claim.holds_for(scene), caption
        assert 1 <= len(caption.claim.mentions) <= 2


def words_for(names) -> dict[str, str]:
    return {synonym: name for name in names for synonym in SYNONYMS[name]}


@pytest.mark.parametrize(
    ("names", "true_of"),
    [
        (COLOURS, lambda scene: {item.colour for item in scene.objects}),
        (SHAPES, lambda scene: {LABEL_NAMES[item.label] for item in scene.objects}),
        (("small", "large"), lambda scene: {item.size for item in scene.objects}),
        (PATTERNS, lambda scene: {scene.pattern}),
        (("striped", "dotted", "checkered"), lambda scene: {item.texture for item in scene.objects}),
    ],
)
def test_every_word_of_a_caption_is_true_of_the_scene(names, true_of):
    """Reads the sentence itself, so that a claim and its wording cannot drift apart."""
    meaning = words_for(names)
    seen = set()
    for scene in SCENES:
        for caption in describe_scene(scene):
            text = caption.text.lower().replace("dark blue", "navy").strip(".")
            said = {meaning[word] for word in text.replace(",", "").split() if word in meaning}
            assert said <= true_of(scene), (caption, scene)
            seen |= said
    assert seen == set(names)


def test_sentences_vary():
    texts = [caption.text for scene in SCENES for caption in describe_scene(scene)]
    assert len(set(texts)) > 0.9 * len(texts)
    assert len({" ".join(text.split()[:2]) for text in texts}) > 100

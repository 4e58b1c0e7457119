"""Every reader has its own settings; the command line takes those of the chosen one and refuses all others."""

import typing
from pathlib import Path

import pytest

from xmrank.config import EmbedConfig
from xmrank.config.parsing import parse_config
from xmrank.datasets.reader_settings import (
    ArraySettings,
    ClipRetrievalSettings,
    ColumnsConfig,
    CsvSettings,
    FolderSettings,
    ReaderSettings,
    ScenesConfig,
    ScenesSettings,
)
from xmrank.datasets.readers import READERS
from xmrank.runtime.errors import ConfigError


def parse_dataset(*words):
    return parse_config(EmbedConfig, list(words), name="embed", presets=Path("nowhere")).dataset


def refusal(*words):
    with pytest.raises(ConfigError) as caught:
        parse_dataset(*words)
    return str(caught.value)


def test_every_reader_has_settings_of_its_name():
    assert [settings.name for settings in typing.get_args(ReaderSettings)] == list(READERS)


def test_scenes_are_the_default():
    assert parse_dataset() == ScenesSettings()
    assert parse_dataset("--scenes.train", "7") == ScenesSettings(scenes=ScenesConfig(train=7))


def test_the_flags_of_a_reader_have_no_prefix():
    words = ["--dataset", "csv", "--annotations", "a.csv", "--images", "pictures", "--split-field", "fold"]
    words += ["--columns.image", "file", "--columns.caption", "english", "german"]
    columns = ColumnsConfig(image="file", caption=("english", "german"))
    expected = CsvSettings(annotations=Path("a.csv"), images=Path("pictures"), split_field="fold", columns=columns)
    assert parse_dataset(*words) == expected


def test_a_setting_that_the_reader_does_not_have_is_refused():
    folder = ("--dataset", "folder", "--images", "x")
    assert parse_dataset(*folder) == FolderSettings(images=Path("x"))
    for flag, value in (("annotations", "a"), ("split-field", "s"), ("columns.image", "i"), ("scenes.seed", "1")):
        message = refusal(*folder, f"--{flag}", value)
        assert message == f"--{flag}: dataset folder has no such setting; it has held-out, images"
    assert refusal("--images", "x").startswith("--images: dataset scenes has no such setting; it has scenes.train")


@pytest.mark.parametrize("name", ["karpathy", "coco", "csv"])
def test_annotations_and_images_are_required(name):
    assert refusal("--dataset", name) == "--annotations, --images: required"


@pytest.mark.parametrize("name", ["folder", "huggingface", "webdataset"])
def test_images_are_required(name):
    assert refusal("--dataset", name) == "--images: required"


def test_an_import_needs_no_name():
    files = ["--import-images", "i", "--import-texts", "t", "--import-ids", "j", "--split-field", "fold"]
    paths = {"import_images": Path("i"), "import_texts": Path("t"), "import_ids": Path("j")}
    assert parse_dataset(*files) == parse_dataset("--dataset", "arrays", *files)
    assert parse_dataset(*files) == ArraySettings(split_field="fold", **paths)
    export = ClipRetrievalSettings(import_clip_retrieval=Path("clip"), held_out=0.2)
    assert parse_dataset("--import-clip-retrieval", "clip", "--held-out", "0.2") == export


def test_one_import_at_a_time():
    message = refusal("--import-clip-retrieval", "clip", "--import-images", "i")
    assert message.startswith("--import-images: dataset clip-retrieval has no such setting")
    message = refusal("--dataset", "folder", "--images", "x", "--import-images", "i")
    assert message.startswith("--import-images: dataset folder has no such setting")


VECTORS = ("--import-images", "i", "--import-texts", "t")


def test_regions_take_the_part_of_ids():
    assert parse_dataset(*VECTORS, "--import-regions", "r").imports_tokens
    for flags in ([], ["--import-ids", "j", "--import-regions", "r"]):
        assert refusal(*VECTORS, *flags) == "--import-ids: required, or --import-regions in its stead; not both"
    message = refusal(*VECTORS, "--import-regions", "r", "--import-image-tokens", "k")
    assert message == "--import-regions: has image tokens and splits; leave out others"
    message = refusal(*VECTORS, "--import-ids", "j", "--import-text-token-offsets", "o")
    assert message == "--import-text-token-offsets: only with --import-text-tokens"


@pytest.mark.parametrize("held_out", [-0.1, 0.5])
def test_what_is_held_out_leaves_more_than_it_takes(held_out):
    with pytest.raises(ConfigError, match=f"--held-out {held_out}: expected a fraction of at least 0, below 0.5"):
        FolderSettings(images=Path("x"), held_out=held_out)

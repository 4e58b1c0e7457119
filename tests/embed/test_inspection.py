"""What is in a data set, shown without a model."""

import csv
from dataclasses import replace

import pytest
from PIL import Image

from xmrank.config import EmbedConfig, ExperimentConfig
from xmrank.config.parsing import parse_config
from xmrank.datasets.reader_settings import CsvSettings
from xmrank.embed import inspection
from xmrank.embed.inspection import inspect_dataset
from xmrank.embed.stage import embed_or_inspect
from xmrank.runtime.errors import ConfigError


@pytest.fixture
def config(tmp_path):
    """Twelve images with two captions each: 3 is a copy of 2, 5 is no picture, 7 does not exist; 8 lost a caption."""
    rows = []
    for number in range(12):
        grey = 2 if number == 3 else number
        Image.new("L", (8, 8), 20 * grey).save(tmp_path / f"{number}.png")
        for caption in range(2):
            text = "" if (number, caption) == (8, 1) else f"Picture {number}, <b>words</b> {caption}"
            rows.append([f"{number}.png", text, "https://example.org"])
    (tmp_path / "5.png").write_bytes(b"<html>")
    (tmp_path / "7.png").unlink()
    with (tmp_path / "pairs.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["path", "caption", "url"], *rows])
    settings = CsvSettings(annotations=tmp_path / "pairs.csv", images=tmp_path)
    return EmbedConfig(dataset=settings, output=tmp_path / "store", inspect=True, max_broken=0.2)


def test_a_data_set_is_accounted_for_and_shown(config, tmp_path, capsys):
    page = embed_or_inspect(config)
    printed = capsys.readouterr().out
    assert page == tmp_path / "store-inspect.html" and not (tmp_path / "store").exists()
    assert "12 images, 23 captions; captions an image: 1 to 2, mean 1.92; splits: " in printed
    assert (
        "2 within a split, 0 across splits; left out: caption is empty, no such file; not used: column url" in printed
    )
    assert "1 images have no file" in printed and "the data name no splits" in printed
    html = page.read_text()
    # Ten of the twelve, of which two at most have no picture.
    assert html.count("<article>") == 10 and 8 <= html.count("data:image/jpeg;base64,") <= 10
    assert printed.count("\n  ") >= 10 and "words</b> 1'" in printed
    assert "&lt;b&gt;words&lt;/b&gt; 0" in html and "<b>words" not in html
    assert "caption 1 is empty in pairs.csv, line 19" in html


def test_data_that_embed_would_refuse_are_shown_with_the_reason(config, capsys):
    inspect_dataset(replace(config, max_broken=0.0))
    reason = 'pairs.csv: image "8.png": caption 1 is empty in pairs.csv, line 19 (the image stays) (--max-broken 0.0)'
    assert f"embed: embed refuses these data: {reason}" in capsys.readouterr().out


def test_the_search_for_copies_ends_in_time_and_says_so(config, capsys, monkeypatch):
    monkeypatch.setattr(inspection, "HASHING_S", -1.0)
    inspect_dataset(config)
    printed = capsys.readouterr().out
    assert "0 within a split" in printed and "there may be more" in printed


def test_imports_and_experiments_have_nothing_to_inspect(tmp_path):
    words = ["--import-images", "i", "--import-texts", "t", "--import-ids", "j", "--inspect"]
    with pytest.raises(ConfigError, match="--inspect: shows images and captions; an import has embeddings only"):
        parse_config(EmbedConfig, words, name="embed", presets=tmp_path)
    with pytest.raises(ConfigError, match=r"--embed\.inspect: an experiment embeds"):
        ExperimentConfig(embed=EmbedConfig(inspect=True))

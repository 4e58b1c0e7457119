"""The card of a pushed stage: its figures, its licence, and commands that work."""

import re
import shlex

import pytest
import yaml
from report.synthetic import World, make_run

from xmrank.config import RankConfig
from xmrank.config.hub import PullConfig, PushConfig
from xmrank.config.jobs import JOBS
from xmrank.config.parsing import parse_config
from xmrank.hub.card import make_card
from xmrank.hub.figures import Figures, read_figures
from xmrank.hub.requests import DATASET, MODEL
from xmrank.runtime.errors import DataError
from xmrank.runtime.manifest import Manifest, parse_manifest

SMALL = World(images=12, seeds=(0, 1), losses=("listnet",), epochs=2, refined=True)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("run"), SMALL)


def card_of(directory, kind=MODEL, **flags):
    config = PushConfig(directory, "me/demo", **flags)
    manifest = parse_manifest(directory)
    return make_card(config, directory, manifest, kind, read_figures(config, directory, manifest))


def metadata_of(card):
    return yaml.safe_load(card.split("---\n")[1])


def test_the_card_of_rankers_has_the_figures_of_the_evaluation_beside_them(run):
    card = card_of(run.rankers)
    assert "**Re-ranking beats the first stage" in card
    rows = [line for line in card.splitlines() if line.startswith("| ListNet |")]
    assert len(rows) == 4 and all(re.match(r"\| ListNet \| \S* ?\**\d+\.\d", row) for row in rows)
    assert "| Data set | scenes |" in card and "| Encoder | xmrank-tiny" in card


def test_an_evaluation_of_other_rankers_is_not_taken_and_a_named_one_is_refused(run, tmp_path):
    other = make_run(tmp_path, World(images=12, seeds=(0,), losses=("listnet",), epochs=2))
    (tmp_path / "evaluation").rename(tmp_path / "moved")
    (tmp_path / "evaluation").symlink_to(run.evaluation)
    assert "## Figures" not in card_of(other.rankers)
    with pytest.raises(DataError, match="was made from other"):
        card_of(other.rankers, evaluation=run.evaluation)
    assert "## Figures" in card_of(other.rankers, evaluation=tmp_path / "moved")


def test_the_licence_is_a_field_and_a_missing_one_is_said(run):
    card = card_of(run.rankers, licence="cc-by-4.0")
    assert metadata_of(card)["license"] == "cc-by-4.0" and "## Licence\n\ncc-by-4.0\n" in card
    card = card_of(run.rankers)
    assert "license" not in metadata_of(card) and "Not stated: without the owner's word" in card
    assert metadata_of(card)["library_name"] == "xmrank"


def test_the_card_of_a_store_describes_it(run):
    card = card_of(run.embeddings, DATASET)
    assert (
        "| Data set | scenes |" in card and "| Encoder | name xmrank-tiny, pretrained bundled, dimensions 256 |" in card
    )
    assert "| Captions | 60 |" in card and parse_manifest(run.embeddings).fingerprint in card


@pytest.mark.parametrize("stage", ["train", "embed", "mine", "evaluate", "report"])
def test_the_commands_on_a_card_are_commands(tmp_path, stage):
    manifest = Manifest(stage, {"directions": ["i2t"]}, {}, {})
    kind = MODEL if stage == "train" else DATASET
    card = make_card(PushConfig(tmp_path, "me/demo"), tmp_path, manifest, kind, Figures())
    blocks = dict(re.findall(r"```(\w+)\n(.*?)```", card, re.DOTALL))
    pull, *others = [shlex.split(line) for line in blocks["sh"].splitlines()]
    assert pull[:2] == ["xmrank", "pull"] and PullConfig(*pull[2:])
    for _, job, *flags in others:
        config = parse_config(JOBS[job].load_config(), flags, name=job)
        assert job != "rank" or isinstance(config, RankConfig)
    compile(blocks["python"], "card", "exec")


def test_what_a_run_names_cannot_break_the_card(tmp_path):
    manifest = Manifest("mine", {"strategy": "a | b\n# heading"}, {}, {})
    card = make_card(PushConfig(tmp_path, "me/demo"), tmp_path, manifest, DATASET, Figures())
    assert "| Strategy | a \\| b \\# heading |" in card

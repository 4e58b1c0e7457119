"""--print-config: the settings of a job as a file that --preset reads; and the flags that every job has."""

import sys

import pytest
import yaml

from xmrank.cli import main
from xmrank.config import EmbedConfig, ExperimentConfig, TrainConfig
from xmrank.config.common import as_values
from xmrank.config.common_flags import CommonFlags, take_common_flags
from xmrank.config.jobs import JOBS
from xmrank.config.parsing import parse_config
from xmrank.config.presets import PRESETS, list_presets
from xmrank.config.printing import format_config
from xmrank.runtime.errors import ConfigError

OF_PRESETS = [(job, preset) for job, made in JOBS.items() for preset in list_presets(PRESETS, job, made.load_config())]


def read_back(config, job, path):
    """The configuration that the printed file gives."""
    path.write_text(format_config(config, job))
    return parse_config(type(config), ["--preset", str(path)], name=job)


@pytest.mark.parametrize(("job", "preset"), OF_PRESETS)
def test_a_printed_preset_is_the_same_configuration(job, preset, tmp_path):
    config = parse_config(JOBS[job].load_config(), ["--preset", preset], name=job)
    # Without the parameters of losses that are not trained, as in fingerprints.
    assert as_values(read_back(config, job, tmp_path / "printed.yaml")) == as_values(config)


@pytest.mark.parametrize(
    ("job", "config"),
    [
        ("train", TrainConfig(losses=("listnet",), gradient_clip=0.5, stack="off", precision="bf16")),
        ("train", TrainConfig(learning_rate=1e-05, seeds=(7,), schedule="one_cycle")),
        ("experiment", ExperimentConfig(train=TrainConfig(losses=("ranknet",)), overwrite=True)),
        ("embed", EmbedConfig(pretrained="none", init_seed=3, max_broken=0.0)),
    ],
)
def test_values_of_every_type_come_back(job, config, tmp_path):
    assert read_back(config, job, tmp_path / "printed.yaml") == config


def test_a_printed_file_names_its_job_and_the_parameters_of_the_losses_alone():
    text = format_config(TrainConfig(losses=("listnet",)), "train")
    assert text.splitlines()[0] == "# xmrank train --preset FILE.yaml"
    values = yaml.safe_load(text)
    assert list(values) == ["train"] and list(values["train"]["loss"]) == ["listnet"]
    # An experiment's settings are the whole file.
    assert list(yaml.safe_load(format_config(ExperimentConfig(), "experiment")))[:4] == [
        "output",
        "register",
        "overwrite",
        "embed",
    ]


def test_flags_that_a_search_does_not_replace_are_named():
    words = ["--best", "best.json", "--epochs", "3", "--ranker.width", "32"]
    second = format_config(parse_config(TrainConfig, words, name="train"), "train").splitlines()[1]
    assert second == ("# Give these flags again, since --best replaces what a preset says: --epochs, --ranker.width")
    # Without --best there is nothing that replaces them.
    config = parse_config(ExperimentConfig, ["--train.epochs", "3"], name="experiment")
    assert format_config(config, "experiment").splitlines()[1].startswith("output:")


def test_uris_are_printed_as_they_are_written_and_without_credentials():
    words = ["--dataset", "csv", "--annotations", "s3://bucket/a.csv", "--images", "https://me:SECRET@host/images"]
    text = format_config(parse_config(EmbedConfig, words, name="embed"), "embed")
    assert "annotations: s3://bucket/a.csv" in text and "SECRET" not in text


def call(monkeypatch, capsys, *arguments):
    """The exit status of the console command, what it prints, and its lines on standard error."""
    monkeypatch.setattr(sys, "argv", ["xmrank", *arguments])
    try:
        main()
    except SystemExit as stop:
        captured = capsys.readouterr()
        return stop.code, captured.out, captured.err.splitlines()
    captured = capsys.readouterr()
    return 0, captured.out, captured.err.splitlines()


def test_a_job_that_prints_its_settings_does_nothing_else(monkeypatch, capsys):
    monkeypatch.setattr("xmrank.config.jobs.Job.load_stage", lambda job: pytest.fail("began"))
    code, text, errors = call(monkeypatch, capsys, "mine", "--hard-negatives", "7", "--print-config")
    assert (code, errors) == (0, []) and yaml.safe_load(text)["mine"]["hard_negatives"] == 7
    # What is wrong is refused all the same.
    code, text, errors = call(monkeypatch, capsys, "mine", "--hard-negatives", "0", "--print-config")
    assert (code, text, errors) == (2, "", ["mine: --hard-negatives 0: expected at least 1"])


def test_common_flags_are_taken_out_of_the_arguments():
    assert take_common_flags(["--seed", "1"]) == (["--seed", "1"], CommonFlags())
    words = ["--log-level", "info", "--seed", "1", "--preset=a", "--print-config"]
    assert take_common_flags(words) == (["--seed", "1"], CommonFlags("a", "info", print_config=True))
    assert take_common_flags(["--device=cpu"]) == ([], CommonFlags(device="cpu"))
    words = ["--log-level=info", "--preset", "a", "--log-level", "debug", "--preset=b"]
    assert take_common_flags(words) == ([], CommonFlags("b", "debug"))


@pytest.mark.parametrize("arguments", [["--log-level"], ["--log-level", "loud"], ["--log-level="]])
def test_an_unknown_level_is_named(arguments):
    with pytest.raises(ConfigError, match=r"^--log-level .*: expected one of debug, info, warning, error$"):
        take_common_flags(arguments)


def test_a_switch_takes_no_value_and_a_preset_needs_one():
    with pytest.raises(ConfigError, match=r"^--print-config=yes: --print-config takes no value$"):
        take_common_flags(["--print-config=yes"])
    for words in (["--preset"], ["--preset="]):
        with pytest.raises(ConfigError, match=r"^--preset needs the name of a preset or the path of a YAML file$"):
            take_common_flags(words)


def test_a_device_is_chosen_where_one_is_used(monkeypatch, capsys):
    with pytest.raises(ConfigError, match=r"^--device tpu: expected one of auto, cpu, cuda$"):
        take_common_flags(["--device", "tpu"])
    code, _, errors = call(monkeypatch, capsys, "report", "--device", "cpu")
    assert (code, errors) == (
        2,
        ["report: --device cpu: report computes on no device that could be chosen; leave it out"],
    )
    assert "--device" not in call(monkeypatch, capsys, "report", "--help")[1]
    assert "--device {auto,cpu,cuda}: " in call(monkeypatch, capsys, "train", "--help")[1]

"""The command line: presets, flags over them, and one line for everything a user can mend."""

import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar

import pytest

from xmrank.cli import find_cause, parse, run
from xmrank.config import EmbedConfig, ExperimentConfig, MineConfig, SupervisedConfig, TrainConfig, TuneConfig
from xmrank.config.choices import FLAT
from xmrank.config.common import as_values
from xmrank.runtime.errors import ConfigError, DataError

ROOT = Path(__file__).parent.parent
PRESETS = ROOT / "jobs" / "configs"
OTHER_JOBS = {"tune": (TuneConfig, "space"), "supervised": (SupervisedConfig, "methods")}
"""Jobs that are no stage of an experiment, and the setting that each of their presets must have."""


def parsed(config_type, *arguments, name="mine"):
    return parse(config_type, [str(argument) for argument in arguments], name=name, presets=PRESETS)


def refused(config_type, *arguments, name="mine"):
    """The message of the ConfigError, which must be one line."""
    with pytest.raises(ConfigError) as caught:
        parsed(config_type, *arguments, name=name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def preset(tmp_path):
    """Writes a preset file and returns its path."""

    def write(text):
        path = tmp_path / "mine.yaml"
        path.write_text(text)
        return path

    return write


def test_without_arguments_the_defaults_hold():
    assert parsed(MineConfig) == MineConfig()


def test_a_preset_is_overridden_by_flags():
    config = parsed(MineConfig, "--preset", "table1", "--random-candidates", 30)
    assert (config.random_candidates, config.hard_negatives) == (30, 20)  # the preset says 200 and 20


def test_a_flag_before_the_preset_wins_too():
    assert parsed(MineConfig, "--hard-negatives", 7, "--preset=table1").hard_negatives == 7


def test_a_job_takes_its_own_section_of_a_preset():
    config = parsed(TrainConfig, "--preset", "paper", name="train")
    assert (config.epochs, config.seeds, config.ranker.width) == (100, (0, 1, 2, 3, 4), 64)
    assert config.output == TrainConfig().output  # the file's output is that of the experiment


def test_an_experiment_takes_the_whole_preset():
    flags = ("--train.epochs", 3, "--mine.no-overwrite", "--embed.scenes.train", 50, "--train.ranker.zero-init-output")
    config = parsed(ExperimentConfig, "--preset", "paper", *flags, name="experiment")
    assert config.output == Path("runs/paper")
    assert (config.mine.hard_negatives, config.train.epochs, config.train.batch_size) == (50, 3, 32)
    assert config.embed.dataset.scenes.train == 50
    assert config.train.ranker.zero_init_output


@pytest.mark.parametrize("name", sorted(path.stem for path in PRESETS.glob("*.yaml")))
def test_every_preset_suits_the_experiment_or_is_for_the_job_that_it_names(name):
    first = (PRESETS / f"{name}.yaml").read_text().splitlines()[0]
    assert first.startswith("# python jobs/")
    job = first.removeprefix("# python jobs/").split(".py")[0]
    if job in OTHER_JOBS:
        config_type, setting = OTHER_JOBS[job]
        assert getattr(parsed(config_type, "--preset", name, name=job), setting)
        with pytest.raises(ConfigError, match=f"^--preset {name}: is for {job}.py, which is no stage of an experiment"):
            parsed(ExperimentConfig, "--preset", name, name="experiment")
    else:
        parsed(ExperimentConfig, "--preset", name, name="experiment")


def test_lists_switches_and_nothing_in_yaml(preset):
    path = preset("""
    train:
      losses: [listnet, ranknet]
      seeds: [3]
      gradient_clip: null
      overwrite: true
      learning_rate: 1e-2
      weight-decay: 0.5
      ranker: {features: [concat, cosine], residual: null, zero_init_output: false, input_dropout: 0.25}
    """)
    config = parsed(TrainConfig, "--preset", path, "--ranker.features", "product", "--no-overwrite", name="train")
    assert (config.losses, config.seeds) == (("listnet", "ranknet"), (3,))
    assert (config.gradient_clip, config.learning_rate, config.weight_decay) == (None, 0.01, 0.5)
    assert not config.overwrite
    assert config.ranker.features == ("product",)
    assert (config.ranker.residual, config.ranker.zero_init_output, config.ranker.input_dropout) == (None, False, 0.25)


def test_switches_of_a_preset_are_set(preset):
    assert parsed(MineConfig, "--preset", preset("mine: {overwrite: true}")).overwrite
    config = parsed(TrainConfig, "--preset", preset("train: {ranker: {zero_init_output: true}}"), name="train")
    assert config.ranker.zero_init_output


@pytest.mark.parametrize("text", ["mine:\n", "train: {epochs: 3}"])
def test_a_preset_without_settings_for_a_job_leaves_its_defaults(preset, text):
    assert parsed(MineConfig, "--preset", preset(text)) == MineConfig()


def test_an_unknown_preset_lists_the_known():
    message = refused(MineConfig, "--preset", "papre")
    known = ", ".join(sorted(path.stem for path in PRESETS.glob("*.yaml")))
    assert message == f"--preset papre: no such preset; expected a YAML file or one of: {known}"
    assert "--preset needs the name" in refused(MineConfig, "--preset")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("mine: {hard_negs: 3}", "--hard-negs"),
        ("mine: {hard_negatives: many}", "--hard-negatives"),
        ("mine: {hard_negatives: 0}", "--hard-negatives 0: expected at least 1"),
        ("mien: {hard_negatives: 3}", "no job mien; expected a section of: "),
        ("mine: 5", "mine is 5, expected a mapping"),
        ("mine: [1", "is not YAML"),
        ("- mine", "must hold a mapping"),
        ("", "must hold a mapping"),
    ],
)
def test_a_wrong_preset_is_one_line(preset, text, named):
    assert named in refused(MineConfig, "--preset", preset(text))


def test_an_unknown_section_of_an_experiment_is_one_line(preset):
    message = refused(ExperimentConfig, "--preset", preset("mien: {hard_negatives: 3}"), name="experiment")
    assert "--mien.hard-negatives" in message and "mine.yaml" in message


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--hard-negative-count", "3"], "--hard-negative-count"),
        (["--hard-negatives", "many"], "--hard-negatives"),
        (["--hard-negatives"], "--hard-negatives"),
        (["--positives", "two"], "'one', 'all'"),
        (["stray"], "stray"),
        (["--hard-negatives", "300"], "--hard-negatives 300 exceeds --random-candidates 200"),
        (["--seed", "-1"], "--seed -1: expected at least 0"),
        (["--workers", "-1"], "--workers -1: expected at least 0"),
    ],
)
def test_a_wrong_flag_is_one_line_that_names_it(arguments, named):
    assert named in refused(MineConfig, *arguments)


@pytest.mark.parametrize(
    ("config_type", "arguments", "named"),
    [
        (EmbedConfig, ["--max-broken", "2"], "--max-broken 2.0: expected a fraction between 0 and 1"),
        (EmbedConfig, ["--import-images", "i.npy"], ": --import-texts PATH Caption embeddings: .npy"),
        (
            EmbedConfig,
            ["--import-clip-retrieval", "x", "--held-out", "0.5"],
            "--held-out 0.5: expected a fraction of at ",
        ),
        (EmbedConfig, ["--batch-size", "-1"], "--batch-size -1: expected at least 0"),
        (EmbedConfig, ["--scenes.val", "-1"], "--scenes.val -1: expected at least 0"),
        (TrainConfig, ["--seeds", "1", "1"], "--seeds 1 1: expected one or more, each once"),
        (TrainConfig, ["--seeds", "-1"], "--seeds -1: expected at least 0"),
        (TrainConfig, ["--ranker.width", "30"], "--ranker.width 30: expected a multiple of heads 4"),
        (TrainConfig, ["--workers", "3", "--workers-per-trial", "2"], "--workers 3: expected a multiple"),
    ],
)
def test_flags_that_contradict_each_other_are_named(config_type, arguments, named):
    assert named in refused(config_type, *arguments)


@dataclass(frozen=True)
class Boosted:
    """Trees."""

    name: ClassVar[str] = "boosted"
    trees: int = 100
    """Number of trees."""
    columns: tuple[str, ...] = ("a",)
    """Columns."""

    def __post_init__(self) -> None:
        if self.trees < 1:
            raise ValueError(f"trees {self.trees}: expected at least 1")


@dataclass(frozen=True)
class Straight:
    """A line."""

    name: ClassVar[str] = "straight"
    free_bias: bool = True
    """Whether the line has an offset."""
    columns: tuple[str, ...] = ("b",)
    """Columns."""


@dataclass(frozen=True)
class Naming:
    id: str = "id"
    """Name of the column of ids."""


@dataclass(frozen=True)
class Sheet:
    name: ClassVar[str] = "sheet"
    table_file: Path | None = None
    """The file."""
    naming: Naming = field(default_factory=Naming)
    """Names."""

    def __post_init__(self) -> None:
        if self.table_file is None:
            raise ConfigError("--table-file: expected a file")


@dataclass(frozen=True)
class Made:
    name: ClassVar[str] = "made"
    size: int = 10
    """Rows."""


@dataclass(frozen=True)
class FitConfig:
    """Fit a model."""

    model: Boosted | Straight = field(default_factory=Boosted)
    """The model."""
    source: Annotated[Made | Sheet, FLAT] = field(default_factory=Made)
    """The data."""
    rate: float = 0.1
    """Step size."""


@dataclass(frozen=True)
class StudyConfig:
    """Fit and plot."""

    fit: FitConfig = field(default_factory=FitConfig)
    """The fit."""
    output: Path = Path("out")
    """Directory."""


def test_a_name_chooses_a_dataclass_whose_settings_are_flags():
    assert parsed(FitConfig) == FitConfig()
    assert parsed(FitConfig, "--model", "straight") == FitConfig(model=Straight())
    config = FitConfig(model=Straight(free_bias=False), rate=0.5)
    assert parsed(FitConfig, "--model.no-free-bias", "--rate", 0.5, "--model", "straight") == config
    assert parsed(FitConfig, "--model", "boosted", "--model=straight", "--model.no-free_bias", "--rate=0.5") == config


def test_a_choice_inside_a_nested_configuration_has_its_prefix():
    config = parsed(StudyConfig, "--fit.model", "straight", "--fit.model.columns", "x", "y", name="experiment")
    assert config == StudyConfig(fit=FitConfig(model=Straight(columns=("x", "y"))))


def test_settings_of_a_flat_choice_have_no_prefix_of_their_own():
    assert parsed(FitConfig, "--size", 3) == FitConfig(source=Made(size=3))
    sheet = Sheet(Path("t.csv"), Naming("key"))
    flags = ("--source", "sheet", "--table-file", "t.csv", "--naming.id", "key")
    assert parsed(FitConfig, *flags) == FitConfig(source=sheet)
    nested = [flag.replace("--", "--fit.") for flag in flags]
    assert parsed(StudyConfig, *nested, name="experiment") == StudyConfig(fit=FitConfig(source=sheet))


def test_checks_of_a_chosen_dataclass_run_on_the_values_that_were_given():
    assert refused(FitConfig, "--source", "sheet") == "--table-file: expected a file"
    assert refused(FitConfig, "--model.trees", 0) == "--model.trees 0: expected at least 1"
    assert refused(StudyConfig, "--fit.model.trees", 0, name="experiment") == "--fit.model.trees 0: expected at least 1"


@pytest.mark.parametrize(
    "text",
    [
        "mine: {model: straight, source: sheet, table_file: t.csv, naming: {id: key}}",
        "mine: {model: {name: straight}, source: {name: sheet, table_file: t.csv, naming: {id: key}}}",
    ],
)
def test_a_preset_chooses_by_a_name_or_by_a_mapping_with_a_name(preset, text):
    expected = FitConfig(model=Straight(), source=Sheet(Path("t.csv"), Naming("key")))
    assert parsed(FitConfig, "--preset", preset(text)) == expected
    study = text.replace("mine", "fit")
    assert parsed(StudyConfig, "--preset", preset(study), name="experiment") == StudyConfig(fit=expected)


def test_another_choice_than_the_presets_keeps_the_settings_that_it_has_too(preset):
    path = preset("mine: {model: {name: boosted, trees: 5, columns: [c]}, source: {name: sheet, table_file: t.csv}}")
    config = parsed(FitConfig, "--preset", path, "--model", "straight", "--source", "made")
    assert config == FitConfig(model=Straight(columns=("c",)), source=Made())
    config = parsed(FitConfig, "--preset", path, "--model", "boosted")
    assert (config.model, config.source) == (Boosted(5, ("c",)), Sheet(Path("t.csv")))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "bent"], "--model bent: expected one of boosted, straight"),
        (["--model"], "--model: expected one of boosted, straight"),
        (["--model", "straight", "extra"], "--model straight extra: expected one of boosted, straight"),
        (
            ["--model", "straight", "--model.trees", "3"],
            "--model.trees: model straight has no such setting; it has free-bias, columns",
        ),
        (["--model.no-free-bias"], "--model.no-free-bias: model boosted has no such setting; it has trees, columns"),
        (["--model.tree", "3"], "--model.tree: model boosted has no such setting; it has trees, columns"),
        (["--naming.id=key"], "--naming.id: source made has no such setting; it has size"),
        (
            ["--size", "3", "--source", "sheet"],
            "--size: source sheet has no such setting; it has table-file, naming.id",
        ),
    ],
)
def test_a_setting_that_the_choice_does_not_have_is_refused(arguments, message):
    assert refused(FitConfig, *arguments) == message


def test_a_presets_setting_that_its_own_choice_does_not_have_is_refused(preset):
    message = refused(FitConfig, "--preset", preset("mine: {model: {name: straight, trees: 3}}"))
    assert message == "--model.trees: model straight has no such setting; it has free-bias, columns"


def test_the_values_of_a_configuration_name_its_choices():
    values = as_values(StudyConfig(fit=FitConfig(model=Straight())))
    assert values["fit"]["model"] == {"name": "straight", "free_bias": True, "columns": ("b",)}
    assert values["fit"]["source"] == {"name": "made", "size": 10}


def test_help_lists_the_settings_of_the_choice_and_says_how_to_see_others(capsys):
    def show(*arguments):
        with pytest.raises(SystemExit):
            parsed(FitConfig, *arguments, "--help")
        return " ".join(capsys.readouterr().out.split())

    text = show()
    assert "--model.trees" in text and "--model.free-bias" not in text
    assert "--model {boosted,straight}: now boosted" in text and "--model NAME --help" in text
    other = show("--model", "straight")
    assert "--model.free-bias" in other and "--model.trees" not in other


def test_help_explains_every_flag(capsys):
    with pytest.raises(SystemExit) as stop:
        parsed(MineConfig, "--help")
    assert stop.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "--hard-negatives" in text and "the most similar to the query, enter the list" in text


@dataclass(frozen=True)
class Nested:
    depth: int = 1


@dataclass(frozen=True)
class Toy:
    nested: Nested = field(default_factory=Nested)


def status(monkeypatch, capsys, job, *arguments):
    """The exit status of a job, and its lines on standard error."""
    monkeypatch.setattr(sys, "argv", ["jobs/mine.py", *arguments])
    try:
        run(job, Toy)
    except SystemExit as stop:
        return stop.code, capsys.readouterr().err.splitlines()
    return 0, capsys.readouterr().err.splitlines()


def failing(error):
    def job(config):
        raise error

    return job


def test_a_job_gets_its_configuration(monkeypatch, capsys):
    seen = []
    assert status(monkeypatch, capsys, seen.append, "--nested.depth", "4") == (0, [])
    assert seen == [Toy(Nested(4))]


def test_a_wrong_flag_ends_with_status_2(monkeypatch, capsys):
    code, lines = status(monkeypatch, capsys, print, "--nested.depht", "4")
    assert code == 2
    assert len(lines) == 1 and lines[0].startswith("mine: ") and "--nested.depht" in lines[0]


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ConfigError("--model x: no such model"), 2, "mine: --model x: no such model"),
        (DataError("captions.json: caption 3 is empty"), 1, "mine: captions.json: caption 3 is empty"),
        (OSError(28, "No space left on device"), 1, "mine: writing: No space left on device"),
        (OSError(28, "No space left on device", "/runs/a.npy"), 1, "mine: /runs/a.npy: No space left on device"),
        (PermissionError(13, "Permission denied", "/runs"), 1, "mine: /runs: Permission denied"),
    ],
)
def test_what_the_user_can_mend_is_one_line(monkeypatch, capsys, error, code, line):
    assert status(monkeypatch, capsys, failing(error)) == (code, [line])


def test_a_fault_of_ours_shows_where_it_is(monkeypatch, capsys):
    code, lines = status(monkeypatch, capsys, failing(KeyError("width")))
    assert code == 1
    assert lines[0].startswith("Traceback") and lines[-1] == "mine: failed: KeyError: 'width'"


def test_interrupting_ends_quietly(monkeypatch, capsys):
    assert status(monkeypatch, capsys, failing(KeyboardInterrupt())) == (130, [])


def test_the_cause_is_found_inside_what_wraps_it():
    cause = DataError("row 3 holds NaN")

    def wrapped(cause, **attributes):
        """As Ray's errors are: what happened is an attribute."""
        error = RuntimeError("something failed")
        vars(error).update(cause=cause, **attributes)
        return error

    assert find_cause(cause) is cause
    assert find_cause(wrapped(wrapped(cause))) is cause
    assert find_cause(wrapped(None, worker_failures={0: wrapped(cause)})) is cause
    assert find_cause(chained(RuntimeError("the run failed"), wrapped(cause))) is cause


def chained(error, cause):
    """The error as it is after ``raise error from cause``."""
    error.__cause__ = cause
    return error


def test_an_error_that_was_dealt_with_is_no_cause():
    def look_up():
        try:
            raise FileNotFoundError(2, "No such file or directory", "cache")
        except FileNotFoundError:
            raise KeyError("width") from None

    with pytest.raises(KeyError) as caught:
        look_up()
    assert find_cause(caught.value) is caught.value


def test_every_job_explains_itself_when_run_as_a_script():
    jobs = sorted((ROOT / "jobs").glob("*.py"))
    assert {"embed", "mine", "train", "evaluate", "report", "experiment"} <= {job.stem for job in jobs}
    done = subprocess.run([sys.executable, "jobs/mine.py", "--help"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "--hard-negatives" in done.stdout
    wrong = subprocess.run([sys.executable, "jobs/mine.py", "--nope"], cwd=ROOT, capture_output=True, text=True)
    assert wrong.returncode == 2 and wrong.stderr.startswith("mine: ") and wrong.stderr.count("\n") == 1

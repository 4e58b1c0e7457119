"""The command line: presets, flags over them, choices by name, and one line for every error of the user."""

import inspect
import os
import signal
import subprocess
import sys
import textwrap
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar

import pytest

import xmrank
from xmrank.cli import find_cause, main, run
from xmrank.config import EmbedConfig, ExperimentConfig, MineConfig, SupervisedConfig, TrainConfig, TuneConfig
from xmrank.config.choices import FLAT
from xmrank.config.common import as_values
from xmrank.config.jobs import JOBS
from xmrank.config.parsing import parse_config
from xmrank.config.presets import PRESETS
from xmrank.runtime.directory import StageDirectory
from xmrank.runtime.endings import Terminated
from xmrank.runtime.errors import ConfigError, DataError

ROOT = Path(__file__).parent.parent
OTHER_JOBS = {"tune": (TuneConfig, "space"), "supervised": (SupervisedConfig, "methods")}
"""Jobs that are no stage of an experiment, and the setting that each of their presets must have."""


def parsed(config_type, *arguments, name="mine"):
    return parse_config(config_type, [str(argument) for argument in arguments], name=name)


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
    job = first.removeprefix("# xmrank ").split()[0]
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
    config = parsed(TrainConfig, "--preset", preset("train: {ranker: {input_norm: true}}"), name="train")
    assert config.ranker.input_norm


def test_a_section_without_settings_leaves_the_defaults(preset):
    assert parsed(MineConfig, "--preset", preset("mine:\n")) == MineConfig()


@pytest.mark.parametrize(
    ("text", "sections"),
    [("train: {epochs: 3}\nreport: {title: a}", "train, report"), ("output: runs/a", "none for any job")],
)
def test_a_preset_without_a_section_for_the_job_is_refused(preset, text, sections):
    path = preset(text)
    assert refused(MineConfig, "--preset", path) == f"--preset {path}: has no section mine; it has: {sections}"


@pytest.mark.parametrize(
    ("job", "known"),
    [
        ("mine", "paper,strong,strongest,table1,"),
        ("train", "demo,paper,strong,strongest,table1,"),
        ("embed", "demo,strongest,"),
        ("supervised", "lcm_paper,lcm_quick,supervised_wikipedia,"),
    ],
)
def test_every_help_names_the_presets_of_the_job(capsys, job, known):
    with pytest.raises(SystemExit):
        parsed(JOBS[job].load_config(), "--help", name=job)
    assert f"--preset {{{known}FILE.yaml}}: settings" in " ".join(capsys.readouterr().out.split())


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
        (EmbedConfig, ["--import-images", "i.npy"], "--import-texts: required"),
        (
            EmbedConfig,
            ["--dataset", "csv", "--annotations", "a.csv", "--image", "b"],
            "--images: required; --image: no such flag",
        ),
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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epoch", "3"], "--epoch: no such flag; close to it: --epochs"),
        (["--lerning-rate=3"], "--lerning-rate: no such flag; close to it: --learning-rate"),
        (["--zzzz", "1"], "--zzzz: no such flag"),
        (["faster"], "faster: expected a flag"),
        (["--epochs", "three"], "--epochs three: expected a whole number"),
        (["--learning_rate", "x"], "--learning-rate x: expected a number"),
        (["--seeds", "0", "a"], "--seeds 0 a: expected whole numbers"),
        (["--patience", "x"], "--patience x: expected a whole number, or None"),
    ],
)
def test_a_mistyped_flag_or_value_comes_with_a_remedy(arguments, message):
    assert refused(TrainConfig, *arguments) == message


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
    assert "--hard-negatives" in text and "Number of negatives per list, the most similar ones" in text


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


def test_a_log_level_is_no_setting_of_the_job_and_a_wrong_one_ends_it(monkeypatch, capsys):
    seen = []
    assert status(monkeypatch, capsys, seen.append, "--log-level", "error", "--nested.depth", "4") == (0, [])
    assert seen == [Toy(Nested(4))]
    expected = "mine: --log-level loud: expected one of debug, info, warning, error"
    assert status(monkeypatch, capsys, seen.append, "--log-level=loud") == (2, [expected])


def test_a_wrong_price_ends_a_job_before_it_begins(monkeypatch, capsys):
    monkeypatch.setenv("XMRANK_COST_PER_HOUR", "cheap")
    code, (line,) = status(monkeypatch, capsys, lambda _: pytest.fail("began"))
    assert code == 2 and line.startswith("mine: XMRANK_COST_PER_HOUR=cheap: expected the price")


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
def test_an_error_that_the_user_can_correct_is_one_line(monkeypatch, capsys, error, code, line):
    assert status(monkeypatch, capsys, failing(error)) == (code, [line])


def test_a_bug_shows_its_traceback(monkeypatch, capsys):
    code, lines = status(monkeypatch, capsys, failing(KeyError("width")))
    assert code == 1
    assert lines[0].startswith("Traceback") and lines[-1] == "mine: failed: KeyError: 'width'"


def test_processes_that_are_lost_too_often_are_one_line(monkeypatch, capsys):
    from ray.exceptions import RayActorError, WorkerCrashedError
    from ray.train import WorkerGroupError
    from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

    line = "mine: lost processes or nodes of the cluster too often ({}); the same command continues"
    crashed = WorkerCrashedError()
    crashes = line.format(f"WorkerCrashedError: {crashed}")
    assert status(monkeypatch, capsys, failing(crashed)) == (1, [crashes])
    dead = WorkerHealthCheckFailedError("A worker health check failed.", RayActorError(error_msg="its node is gone"))
    others = RuntimeError("Connection closed by peer")
    failed = WorkerGroupError("workers failed", {0: others, 1: dead})
    assert status(monkeypatch, capsys, failing(failed)) == (1, [line.format("RayActorError: its node is gone")])


@pytest.mark.parametrize(
    "error",
    [
        DataError("http://me:SECRET@host/x: no such file"),
        OSError(5, "Input/output error", "http://host/x?sig=SECRET"),
        KeyError("s3://key:SECRET@bucket"),
    ],
)
def test_credentials_are_not_printed(monkeypatch, capsys, error):
    _, lines = status(monkeypatch, capsys, failing(error))
    assert "***" in lines[-1] and "SECRET" not in "".join(lines)


def test_interrupting_is_one_line(monkeypatch, capsys):
    assert status(monkeypatch, capsys, failing(KeyboardInterrupt())) == (130, ["mine: interrupted"])
    assert status(monkeypatch, capsys, failing(Terminated())) == (143, ["mine: terminated"])

    def wait_as_ray_does(config):
        """Ray replaces what a handler has raised."""
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except KeyboardInterrupt:
            raise KeyboardInterrupt from None

    assert status(monkeypatch, capsys, wait_as_ray_does) == (143, ["mine: terminated"])


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


def test_an_error_that_was_handled_is_no_cause():
    def look_up():
        try:
            raise FileNotFoundError(2, "No such file or directory", "cache")
        except FileNotFoundError:
            raise KeyError("width") from None

    with pytest.raises(KeyError) as caught:
        look_up()
    assert find_cause(caught.value) is caught.value


@pytest.mark.parametrize("name", JOBS)
def test_every_job_has_a_script_and_a_stage_that_takes_its_configuration(name):
    script = (ROOT / "jobs" / f"{name}.py").read_text()
    assert script.endswith(f'from xmrank.cli import run_job\n\nif __name__ == "__main__":\n    run_job("{name}")\n')
    parameter, *others = inspect.signature(JOBS[name].load_stage()).parameters.values()
    assert parameter.annotation is JOBS[name].load_config()
    assert all(other.default is not other.empty for other in others)


def test_every_script_is_a_job():
    assert {path.stem for path in (ROOT / "jobs").glob("*.py")} == set(JOBS)


def python(*arguments, cwd=ROOT):
    """Run Python in a process of its own."""
    return subprocess.run([sys.executable, *arguments], cwd=cwd, capture_output=True, text=True)


def test_help_and_wrong_flags_answer_before_torch_and_ray_are_imported():
    """All jobs in one process: what one of them imports would stay imported."""
    code = """
        import contextlib, io, sys
        from xmrank.cli import main
        from xmrank.config.jobs import JOBS
        for job in JOBS:
            for flag, status in ("--help", (0, None)), ("--nope", (2,)), ("--print-config", (2,)):
                sys.argv = ["xmrank", job, flag]
                try:
                    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                        main()
                except SystemExit as stop:
                    assert stop.code in status, (job, flag, stop.code)
        print(*sorted({"torch", "ray", "mlflow", "faiss", "pandas", "pyarrow"} & set(sys.modules)))
    """
    done = python("-c", textwrap.dedent(code))
    assert done.returncode == 0, done.stderr
    assert done.stdout == "\n"


def test_a_job_answers_as_a_script_and_as_a_command(tmp_path):
    script, command = python("jobs/mine.py", "--help"), python("-m", "xmrank", "mine", "--help", cwd=tmp_path)
    assert (script.returncode, command.returncode) == (0, 0)
    assert "usage: mine.py" in script.stdout and "usage: xmrank mine" in command.stdout
    assert script.stdout.partition("\n")[2] == command.stdout.partition("\n")[2]
    wrong = python("jobs/mine.py", "--nope")
    assert wrong.returncode == 2 and wrong.stderr.startswith("mine: ") and wrong.stderr.count("\n") == 1


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_a_message_is_one_line_in_every_encoding(monkeypatch, encoding):
    monkeypatch.setenv("PYTHONIOENCODING", encoding)
    assert python("jobs/train.py", "--ranker.width", "30").stderr == (
        "train: --ranker.width 30: expected a multiple of heads 4\n"
    )
    assert python("jobs/embed.py", "--dataset", "csv").stderr == "embed: --annotations, --images: required\n"


def test_the_command_line_is_that_of_the_package():
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"xmrank": "xmrank.cli:main"}


def call_main(monkeypatch, capsys, *arguments):
    """The exit status of the console command, its lines on standard output and on standard error."""
    monkeypatch.setattr(sys, "argv", ["xmrank", *arguments])
    code = 0
    try:
        main()
    except SystemExit as stop:
        code = stop.code
    captured = capsys.readouterr()
    return code, captured.out.splitlines(), captured.err.splitlines()


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",)])
def test_the_console_command_lists_the_jobs_in_a_line_each(monkeypatch, capsys, arguments):
    code, lines, _ = call_main(monkeypatch, capsys, *arguments)
    assert code == 0
    listed = [line.split()[0] for line in lines if line.startswith("  ")]
    assert listed == [*JOBS, "sync", "verify", "push", "pull"]
    assert all(len(line) <= 100 for line in lines)
    assert lines[-1] == "Flags of every job: --preset, --log-level, --device, --print-config, --dry-run"


def test_an_unknown_job_is_one_line(monkeypatch, capsys):
    code, lines, errors = call_main(monkeypatch, capsys, "mien", "--help")
    assert (code, lines) == (2, [])
    assert errors == [f"xmrank: no job mien; expected one of: {', '.join(JOBS)}"]


def test_the_console_command_verifies_directories(monkeypatch, capsys, tmp_path):
    stage = StageDirectory.open(tmp_path / "lists", "mine", config={}, inputs={})
    (stage.directory / "a.txt").write_text("hello")
    stage.finish(counts={})
    line = f"{tmp_path / 'lists'}: mine, 1 files, 5 bytes: ok"
    assert call_main(monkeypatch, capsys, "verify", str(tmp_path)) == (0, [line], [])
    (stage.directory / "a.txt").write_text("hellp")
    code, lines, errors = call_main(monkeypatch, capsys, "verify", str(tmp_path))
    assert (code, len(lines), errors) == (1, 1, [])
    none = f"verify: {tmp_path / 'none'}: no directory of a stage here or below"
    assert call_main(monkeypatch, capsys, "verify", str(tmp_path / "none")) == (1, [], [none])
    assert call_main(monkeypatch, capsys, "verify")[0] == 2


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("push",), 2, "push: DIR, OWNER/NAME: required"),
        (("push", "runs", "demo"), 2, "push: demo: expected OWNER/NAME of a repository on the hub"),
        (("push", "runs", "me/demo", "--secret"), 2, "push: --secret: no such flag"),
        (("pull", "me/demo"), 2, "pull: DIR: required"),
        (("pull", "me/demo", "s3://bucket/x"), 2, "pull: s3://bucket/x: expected a folder of this machine"),
        (("push", "none", "me/demo"), 1, "push: {home}/none: not a finished stage (no manifest.json)"),
    ],
)
def test_mistakes_with_push_and_pull_are_one_line(monkeypatch, capsys, home, words, code, message):
    assert call_main(monkeypatch, capsys, *words) == (code, [], [message.format(home=home)])


def test_the_console_command_has_a_version(monkeypatch, capsys):
    assert call_main(monkeypatch, capsys, "--version") == (0, [f"xmrank {xmrank.__version__}"], [])


def test_the_console_command_has_the_presets_in_any_folder(monkeypatch, capsys, tmp_path):
    seen = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("xmrank.config.jobs.Job.load_stage", lambda job: seen.append)
    assert call_main(monkeypatch, capsys, "mine", "--preset", "table1") == (0, [], [])
    assert seen == [MineConfig(random_candidates=200, hard_negatives=20)]
    code, _, errors = call_main(monkeypatch, capsys, "train-encoder", "--epochs", "0")
    assert (code, errors) == (2, ["train_encoder: --epochs 0: expected at least 1"])

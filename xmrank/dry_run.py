"""``--dry-run``: what a job would read, do and write, on which device, and what the last such run took.

Only small files are read: plans, manifests, records of what is done. Nothing is written, and nothing is started.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xmrank.config.common import semantic
from xmrank.config.jobs import JOBS
from xmrank.config.presets import EXPERIMENT
from xmrank.input_checks import is_on_this_machine, list_inputs
from xmrank.losses import LOSS_MODULES
from xmrank.runtime.device import AUTO, CPU, CUDA, list_gpus, requested_device
from xmrank.runtime.directory import StageDirectory
from xmrank.runtime.errors import DataError
from xmrank.runtime.manifest import MANIFEST, PLAN, parse_manifest
from xmrank.runtime.measurements import describe_counts, find_last
from xmrank.runtime.paths import is_given_cluster, resolve, resolve_uri
from xmrank.runtime.pieces import read_pieces
from xmrank.runtime.quantities import format_bytes
from xmrank.runtime.redaction import redact_uri

FOLDERS = {"tune": "search", "supervised": "results"}
"""Jobs whose stage writes into a folder of their output."""
WITHOUT_OUTPUT = ("register",)
STAGE_INPUTS = ("embeddings", "lists", "rankers", "evaluation", "results", "search", "baselines", "reuse")
"""Settings that name the output of a stage."""
FINISHED = "finished"


@dataclass
class DryRun:
    """The lines of a dry run.

    Attributes:
        made: directories that stages before make, or go on with, in the same run.
        refused: whether the run would end before any work.
    """

    lines: list[str] = field(default_factory=list)
    made: set[Path] = field(default_factory=set)
    refused: bool = False

    def add_stage(self, job: str, config: Any) -> None:
        """Add what one job would do."""
        self.lines.append(f"{job}: {describe_work(job, config)}")
        known: dict[str, str] = {}
        for name, path in list_inputs(job, config):
            self._add("reads", self._describe_input(name, path, known))
        if job in WITHOUT_OUTPUT or getattr(config, "inspect", False):
            return
        directory = resolve(config.output) / FOLDERS.get(job, "")
        state = self._describe_output(job, config, directory, known)
        self._add("writes", f"{directory}: {state}")
        if JOBS[job].uses_device:
            self._add("device", describe_device(job, config))
        last = find_last(job, directory)
        self._add("took", f"{last.describe()}, the last time" if last else "not known: no such run was measured yet")
        if not state.startswith(FINISHED):
            self.made.add(directory)

    def _add(self, word: str, text: str) -> None:
        """Add a line below the job's."""
        self.lines.append(f"  {word:<7} {redact_uri(text)}")

    def _refuse(self, reason: object) -> str:
        """Note that the run would be refused; returns the text for it."""
        self.refused = True
        return f"REFUSED: {reason}"

    def _describe_input(self, name: str, path: Path, known: dict[str, str]) -> str:
        """What there is of an input; its fingerprint goes into ``known``."""
        if name not in STAGE_INPUTS:
            return self._describe_file(path)
        directory = resolve(path)
        if directory in self.made:
            return f"{directory}: made before, in this run"
        try:
            manifest = parse_manifest(directory) if (directory / MANIFEST).is_file() else None
        except DataError as error:
            return self._refuse(error)
        if manifest is None:
            state = "is not finished" if (directory / PLAN).is_file() else "is not there"
            return self._refuse(f"{directory} {state}")
        known[name] = manifest.fingerprint
        return f"{directory}: {manifest.stage}, {describe_counts(manifest.counts) or 'finished'}"

    def _describe_file(self, path: Path) -> str:
        """Whether a file or folder is there; stores elsewhere and patterns of names are not looked at."""
        if not is_on_this_machine(path):
            return f"{resolve_uri(path)}: not looked at"
        local = resolve(path)
        if not local.exists():
            return self._refuse(f"{local} is not there")
        return f"{local}: {format_bytes(local.stat().st_size) if local.is_file() else 'a folder'}"

    def _describe_output(self, job: str, config: Any, directory: Path, known: Mapping[str, str]) -> str:
        """What a job would find at its output."""
        stage = StageDirectory(directory, job, {}, {})
        plan, own = stage.read_plan(), None
        try:
            if plan:
                # What is not known without the job's own work is taken as it is there.
                own = SEMANTIC[job](config) if job in SEMANTIC else None
                stage.config = plan["config"] if own is None else json.loads(json.dumps(own))
                stage.inputs = {**plan["inputs"], **{name: known[name] for name in known if name in plan["inputs"]}}
            stage.refuse_unusable(overwrite=config.overwrite)
        except DataError as error:
            return self._refuse(error)
        if not plan:
            return "new"
        if config.overwrite:
            return "is emptied first (--overwrite)"
        if self.made & {resolve(path) for _, path in list_inputs(job, config)}:
            return "there; whether it is still right depends on the stages before"
        certain = "" if own is not None else ", if its settings are these"
        if (directory / MANIFEST).exists():
            return f"{FINISHED}, so that nothing would be done{certain}"
        return f"continues{certain}: {count_done(job, config, directory)}"


def print_dry_run(job: str, config: Any) -> int:
    """Print what a job would do; returns the exit status, 1 where the job would refuse to begin.

    Raises:
        ConfigError: settings that contradict each other.
    """
    run = DryRun()
    for name, part in list_stages(job, config):
        run.add_stage(name, part)
    print("\n".join([*run.lines, "dry run: nothing was started or written"]))
    return int(run.refused)


def list_stages(job: str, config: Any) -> Iterator[tuple[str, Any]]:
    """The job and its configuration; of an experiment each of its stages."""
    if job != EXPERIMENT:
        yield job, config
        return
    from xmrank.experiment.stage import with_stage_directories  # imports all stages

    parts = with_stage_directories(config)
    for name in ("embed", "mine", "train", "evaluate", "report"):
        yield name, getattr(parts, name)


def describe_device(job: str, config: Any) -> str:
    """The device that a job would use, as far as it is known without a cluster."""
    if job == "mine" and (config.strategy == "random-hard" or config.index not in ("flat", "ivf")):
        return f"{CPU}: these lists are mined on it"
    wanted = requested_device()
    if wanted == CPU:
        return f"{CPU} (--device {CPU})"
    if is_given_cluster():
        return f"the cluster's GPUs{'' if wanted == CUDA else ', or its CPUs where it has none'} (--device {wanted})"
    gpus = list_gpus()
    if not gpus:
        return f"{CPU}: no GPU can be seen on this machine (--device {AUTO})"
    return f"{CUDA}: {len(gpus)} × {gpus[0]} (--device {wanted})"


def count_done(job: str, config: Any, directory: Path) -> str:
    """How much of an interrupted run is done."""
    if job == "train":
        from xmrank.train.trials import all_trials

        trials = all_trials(config)
        return f"{sum(trial.is_done(directory) for trial in trials)} of {len(trials)} rankers are done"
    pieces = len(read_pieces(directory))
    return f"{pieces} piece{'' if pieces == 1 else 's'} of it {'is' if pieces == 1 else 'are'} done"


def describe_work(job: str, config: Any) -> str:
    """What a job does, in numbers where they are known without its inputs."""
    if job in WORK:
        return WORK[job](config)
    sentence = " ".join((type(config).__doc__ or "").split()).partition(". ")[0].removesuffix(".")
    return sentence[:1].lower() + sentence[1:]


def count_of(number: int, name: str, plural: str = "") -> str:
    """A number and what it counts, in words."""
    return f"{number:,} {name if number == 1 else plural or name + 's'}"


def describe_training(config: Any) -> str:
    """The rankers of a training."""
    parts = [count_of(len(config.losses), "loss", "losses"), count_of(len(config.directions), "direction")]
    parts.append(count_of(len(config.seeds), "seed"))
    rankers = count_of(math.prod(map(len, (config.losses, config.directions, config.seeds))), "ranker")
    return f"train {rankers} ({' × '.join(parts)}): {config.ranker.name}, at most {count_of(config.epochs, 'epoch')}"


def describe_embedding(config: Any) -> str:
    """The data set and the encoder."""
    data = config.dataset
    if data.name != "scenes":
        return f"embed the data set {data.name} with {config.model}"
    images = data.scenes.train + data.scenes.val + data.scenes.test
    return f"embed {images:,} generated images with {config.model}"


def describe_search(config: Any) -> str:
    """The points of a search; how many groups of them there are is known for rankers alone."""
    from xmrank.tune.space import read_entries

    entries = read_entries(config)
    if config.target != "rankers":
        return f"search {config.target} ({config.search} over {count_of(len(entries), 'setting')})"
    points = 0
    for loss in config.train.losses:
        # A parameter of a loss is searched for that one alone.
        owners = {entry.name: entry.name.partition(".")[0] for entry in entries}
        own = [entry for entry in entries if owners[entry.name] not in {*LOSS_MODULES} - {loss}]
        grid = math.prod(len(entry.list_bounds()) for entry in own)
        points += (grid if config.search == "grid" or not own else config.samples) * len(config.train.directions)
    best = len(config.train.losses) * len(config.train.directions) * len(config.repeats)
    return f"search rankers ({config.search}, {count_of(points, 'point')}), then train {count_of(best, 'ranker')}"


WORK: dict[str, Callable[[Any], str]] = {
    "embed": describe_embedding,
    "train": describe_training,
    "tune": describe_search,
}
"""What jobs do whose numbers are known."""


def settings_of_training(config: Any) -> dict[str, Any]:
    """The semantic configuration of a training, with the best settings of a search."""
    from xmrank.train.trial_settings import read_best, semantic_with

    return semantic_with(config, read_best(config))


def settings_of_embedding(config: Any) -> dict[str, Any] | None:
    """The semantic configuration of an embedding; None for imports, whose files would have to be read, and for other
    models than the bundled one: to look them up takes seconds, or a network."""
    from xmrank.embed.model_source import TINY
    from xmrank.embed.stage import encoder_settings

    is_known = config.model == TINY and not getattr(config.dataset, "implied", False)
    return encoder_settings(config) if is_known else None


def settings_of_report(config: Any) -> dict[str, Any]:
    """The semantic configuration of a report."""
    from xmrank.report.stage import describe_content

    return describe_content(config)


SEMANTIC: dict[str, Callable[[Any], dict[str, Any] | None]] = {
    "embed": settings_of_embedding,
    "mine": semantic,
    "train": settings_of_training,
    "evaluate": semantic,
    "report": settings_of_report,
    "qrels": semantic,
    "sentences": semantic,
    "train_encoder": semantic,
}
"""The settings that a plan holds, of jobs that need not read their inputs for them."""

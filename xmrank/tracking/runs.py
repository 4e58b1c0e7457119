"""MLflow runs on two levels, sweep and trial: made by the driver, logged to by run id from any process.

MLflow takes more than a second to import: functions that call it do so, and a stage that is done calls none of them.
"""

import contextlib
import getpass
import os
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xmrank import __version__
from xmrank.runtime.errors import DataError
from xmrank.runtime.paths import home as find_home
from xmrank.runtime.redaction import redact_uri
from xmrank.runtime.storage import local_copy

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

PARENT_TAG = "mlflow.parentRunId"
NAME_TAG = "mlflow.runName"
REFERENCE_TAG = "run_reference"
"""Holds the reference of a run that was made while no server answered: its id was not known then."""
RUNNING, FINISHED, FAILED, KILLED = "RUNNING", "FINISHED", "FAILED", "KILLED"
"""MLflow's names of how a run is."""
LATER = "later-"
"""How such references begin."""
EXPERIMENT = "xmrank"
DATABASE = "mlflow.db"
"""The file of the default tracking, in the home folder."""
PARAM_LIMIT = 6000
"""MLflow refuses longer parameter values."""
FIRST_CALL = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}
"""MLflow retries for minutes, but a wrong address should fail at once."""
LATER_CALLS = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "5"}
"""What does not arrive is sent again from a journal."""
NO_SUCH_RUN = {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}
"""MLflow's codes for a run id that is not there; a server that is away has others."""
# MLflow prints the address of each run that ends, credentials included. Whoever uses MLflow here, a worker of Ray too,
# imports this module first.
os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"


class TrackingError(DataError):
    """The tracking server or file cannot be used."""


def connect(home: Path) -> str:
    """The tracking URI: MLFLOW_TRACKING_URI, else one sqlite file in ``home``, its schema brought up to date.

    Call it once on the driver before workers log: the first use of a new file migrates it, which takes seconds.

    Raises:
        TrackingError: the server does not answer, or the file cannot be opened.
    """
    uri = find_uri(home)
    try:
        if not os.environ.get("MLFLOW_TRACKING_URI"):
            make_database(home)
        with default_environment(FIRST_CALL):
            experiment_id(open_client(uri), home)
    except Exception as error:  # SQLAlchemy, requests and MLflow each raise their own
        raise TrackingError(f"{uri}: cannot track runs there: {describe_error(error)}") from None
    return uri


def find_uri(home: Path) -> str:
    """The tracking URI: MLFLOW_TRACKING_URI, else that of the sqlite file in ``home``."""
    if uri := os.environ.get("MLFLOW_TRACKING_URI"):
        return uri
    # Imported here, because a server needs none of it.
    from sqlalchemy.engine import URL

    path = str(home / DATABASE)
    # SQLAlchemy quotes what it unquotes itself: %, ? and # among others.
    quoted = URL.create("sqlite", database=path).render_as_string() != f"sqlite:///{path}"
    # With sqlite alone, MLflow would also make the folder of the quoted path.
    return URL.create("sqlite+pysqlite" if quoted else "sqlite", database=path).render_as_string()


def make_database(home: Path) -> None:
    """Make the folder and the file of the default tracking, unless they are there.

    Raises:
        OSError, sqlite3.Error: they cannot be made or opened; MLflow would try again for minutes.
    """
    home.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(sqlite3.connect(home / DATABASE)) as database:
        database.execute("PRAGMA schema_version")


CONNECTED: set[tuple[str, ...]] = set()
"""Where this process has connected to: later stages of an experiment need no answer any more."""


def connect_tracking() -> str:
    """Connect to the server or file that this process logs to; returns its URI.

    Raises:
        TrackingError: the tracking server or file cannot be used.
    """
    home = find_home()
    uri = find_uri(home)
    key = (uri, str(home), os.environ.get("MLFLOW_EXPERIMENT_NAME", ""))
    if key not in CONNECTED:
        connect(home)
        CONNECTED.add(key)
    return uri


@contextlib.contextmanager
def default_environment(values: Mapping[str, str]) -> Iterator[None]:
    """Environment variables for the block, where the user has not set them."""
    own = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(own)
    try:
        yield
    finally:
        for name in own:
            del os.environ[name]


def describe_error(error: BaseException) -> str:
    """What is wrong, in one line: the system's own message if a library's error wraps one."""
    inner: BaseException | None = error
    while inner:
        if isinstance(inner, OSError) and inner.strerror:
            return inner.strerror
        first, inner = inner, inner.__cause__ or inner.__context__
    # An error of a connection quotes those that it wraps; the innermost says it in a few words.
    text = str(first if "Caused by" in str(error) else error)
    return textwrap.shorten(text, 300, placeholder=" …")


def open_client(uri: str) -> "MlflowClient":
    """MLflow's client of a server or file."""
    from mlflow.tracking import MlflowClient

    return MlflowClient(uri)


def experiment_id(client: "MlflowClient", home: Path) -> str:
    """The experiment of MLFLOW_EXPERIMENT_NAME, else ``xmrank``; made when it is not there."""
    from mlflow.exceptions import MlflowException

    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
    experiment = client.get_experiment_by_name(name)
    if experiment is not None:
        return str(experiment.experiment_id)
    # A server keeps artefacts where it was told to; a local file has no folder of its own for them.
    local = not os.environ.get("MLFLOW_TRACKING_URI")
    try:
        folder = (home / "mlartifacts").as_uri() if local else None
        return str(client.create_experiment(name, artifact_location=folder))
    except MlflowException:  # another process was first
        return str(client.get_experiment_by_name(name).experiment_id)


def begin_run(
    uri: str,
    home: Path,
    name: str,
    *,
    parent: str | None = None,
    resume: str | None = None,
    tags: Mapping[str, str] | None = None,
    params: Mapping[str, Any] | None = None,
    inputs: Mapping[str, str] | None = None,
    start: int | None = None,
) -> str:
    """Begin a run, or continue one.

    Args:
        uri: what ``connect`` returned.
        home: as for ``connect``.
        name: shown in the UI.
        parent: run id of the sweep that this trial belongs to.
        resume: run id or reference of an interrupted run; continued when it exists. A new run is found by it later.
        tags, params: logged at the start.
        inputs: name → fingerprint of the data that the run uses; all are of the data set in the tag ``dataset``.
        start: when it began, in ms; None: now.

    Returns:
        The run id.
    """
    from mlflow.entities import Dataset, DatasetInput, InputTag, Param

    client = open_client(uri)
    # A run that was deleted, or is on another server, is begun anew.
    run = find_run(client, home, resume) if resume else None
    if run:
        client.update_run(run.info.run_id, RUNNING)
    else:
        own = {NAME_TAG: name} | ({PARENT_TAG: parent} if parent else {}) | ({REFERENCE_TAG: resume} if resume else {})
        run = client.create_run(
            experiment_id(client, home), start_time=start, tags={**own, **(tags or {})}, run_name=name
        )
    run_id = str(run.info.run_id)
    # Also of a run that was there: a call that was killed between two requests may have begun it.
    if params and not run.data.params:
        # One batch: a call for each parameter would take seconds on a server.
        values = [Param(k, redact_uri(str(v))[:PARAM_LIMIT]) for k, v in flatten_settings(params).items()]
        client.log_batch(run_id, params=values)
    dataset = (tags or {}).get("dataset")
    if inputs and not (run.inputs and run.inputs.dataset_inputs):
        data = [
            DatasetInput(Dataset(dataset or k, digest[:36], "xmrank", k), [InputTag("mlflow.data.context", k)])
            for k, digest in inputs.items()
        ]
        client.log_inputs(run_id, datasets=data)
    return run_id


def find_run(client: "MlflowClient", home: Path, reference: str) -> "Run | None":
    """The run of an id, or the one that was made later under a reference; None where there is none.

    Raises:
        MlflowException: the server does not answer.
    """
    from mlflow.entities import ViewType
    from mlflow.exceptions import MlflowException

    if not reference.startswith(LATER):
        try:
            run = client.get_run(reference)
            if run.info.lifecycle_stage == "active":
                return run
        except MlflowException as error:
            if error.error_code not in NO_SUCH_RUN:
                raise
    condition = f"tags.`{REFERENCE_TAG}` = '{reference}'"
    found = client.search_runs([experiment_id(client, home)], condition, ViewType.ACTIVE_ONLY, max_results=1)
    return found[0] if found else None


def read_status(uri: str, run_id: str) -> str | None:
    """RUNNING, FINISHED or FAILED; None where there is no such run, or it was deleted."""
    from mlflow.exceptions import MlflowException

    try:
        info = open_client(uri).get_run(run_id).info
    except MlflowException:
        return None
    return str(info.status) if info.lifecycle_stage == "active" else None


def log_metrics(uri: str, run_id: str, metrics: Mapping[str, float], *, step: int = 0) -> None:
    """Log many metrics at once; names as MLflow allows them (no ``@``)."""
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    open_client(uri).log_batch(run_id, metrics=[Metric(k, float(v), now, step) for k, v in metrics.items()])


def set_tags(uri: str, run_id: str, tags: Mapping[str, str]) -> None:
    """Set tags of a run."""
    from mlflow.entities import RunTag

    open_client(uri).log_batch(run_id, tags=[RunTag(k, str(v)) for k, v in tags.items()])


def log_artifacts(uri: str, run_id: str, *paths: Path) -> None:
    """Copy files to a run's artefacts."""
    client = open_client(uri)
    for path in paths:
        client.log_artifact(run_id, str(local_copy(path)))


def end_run(uri: str, run_id: str, *, failed: bool = False) -> None:
    """End a run as finished or failed; a failed one as killed while a signal that ends the process is handled."""
    open_client(uri).set_terminated(run_id, name_end(failed=failed))


def name_end(*, failed: bool) -> str:
    """FINISHED, FAILED, or KILLED while a signal that ends the process is handled."""
    if not failed:
        return FINISHED
    is_killed = isinstance(sys.exc_info()[1], KeyboardInterrupt)
    return KILLED if is_killed else FAILED


def flatten_settings(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as ``ranker.width`` and the like."""
    result: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            result |= flatten_settings(value, f"{prefix}{key}.")
        else:
            result[f"{prefix}{key}"] = value
    return result


def origin_tags() -> dict[str, str]:
    """Where a run comes from: command, user, version, git commit and whether it was changed, Ray submission.

    Names that begin with ``mlflow.`` are those of the columns Source, User and Version of its table.
    """
    tags = {"xmrank_version": __version__, "mlflow.source.name": name_command(), "mlflow.source.type": "LOCAL"}
    # Without an entry for the user, as in some containers, there is none to name.
    with contextlib.suppress(OSError, KeyError, ImportError):
        tags["mlflow.user"] = getpass.getuser()
    commit, changed = run_git("rev-parse", "HEAD"), run_git("status", "--porcelain", "--untracked-files=no")
    if commit:
        tags |= {"git_sha": commit, "git_dirty": str(bool(changed)).lower(), "mlflow.source.git.commit": commit}
    if submission := os.environ.get("RAY_JOB_SUBMISSION_ID"):
        tags |= {"ray_submission_id": submission, "mlflow.source.type": "JOB"}
    return tags


def name_command() -> str:
    """The command that runs, without its arguments, which may hold paths: ``train.py``, ``xmrank train``."""
    script, *arguments = sys.argv or [""]
    path = Path(script)
    # The console script, or python -m xmrank.
    if arguments and (path.name == "xmrank" or (path.name == "__main__.py" and path.parent.name == "xmrank")):
        return f"xmrank {arguments[0]}"
    return path.name or "python"


def run_git(*arguments: str) -> str | None:
    """What git says in the folder of this code; None outside of a repository or without git."""
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None

"""Models in MLflow: logged as code beside plain files, registered once, with an alias; nothing is ever pickled."""

import logging
import re
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import mlflow.pyfunc
from mlflow.entities import LoggedModelOutput, LoggedModelStatus
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.tracking import MlflowClient

from xmrank.tracking.runs import TrackingError, default_environment, describe_error, experiment_id, find_run

CODE = Path(__file__).with_name("model_code.py")
FINGERPRINT = "fingerprint"
SETTLED = "settled"
"""Tag of a version about whose alias was decided: a rerun does not take the alias back."""


def set_environment(uri: str) -> AbstractContextManager[None]:
    """What MLflow reads from the environment: where ``models:/…`` leads, and no bar for a copy of two files."""
    return default_environment({"MLFLOW_TRACKING_URI": uri, "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"})


@dataclass(frozen=True)
class ModelPackage:
    """A model as it is logged.

    Attributes:
        folders: name → folder of plain files, which together are the model.
        loader: what makes a function of an input and parameters out of the folders, by name, and the settings, as
            ``module:function``. The package of the module is kept with the model.
        settings: JSON values for the loader; whoever loads the model may give others.
        signature: the names and types of inputs, output and parameters.
        example: an input of few rows; it is kept with the model, and tried before that is kept.
        requirements: pip requirements; given, because MLflow takes long to find them out.
    """

    folders: Mapping[str, Path]
    loader: str
    settings: Mapping[str, Any]
    signature: ModelSignature
    example: Any
    requirements: Sequence[str]

    @property
    def code(self) -> Path:
        """The folder of the loader's package."""
        module = self.loader.partition(":")[0]
        return Path(str(import_module(module.partition(".")[0]).__file__)).parent


@dataclass(frozen=True)
class RegisteredModel:
    """A version of a registered model.

    Attributes:
        new: whether it was registered now; else an earlier call did.
        holder: the version that the alias names; None: no version has it.
    """

    name: str
    version: str
    new: bool
    holder: str | None


def register_model(
    uri: str,
    home: Path,
    name: str,
    package: ModelPackage,
    *,
    fingerprint: str,
    tags: Mapping[str, str],
    description: str = "",
    alias: str,
    deserves: Callable[[Mapping[str, str] | None], bool],
    force: bool = False,
    run: str | None = None,
) -> RegisteredModel:
    """Log a model and register it under a name, unless the same was; then give it the alias if it deserves it.

    Args:
        uri, home: as for ``begin``.
        name: of the registered model.
        package: the model.
        fingerprint: of its content; a version with the same one is not made twice.
        tags: of the version.
        description: of the version, in Markdown.
        alias: moves here only when ``deserves`` says so of the tags of the version that has it (None: none has).
        force: decide about the alias although an earlier call did.
        run: id of the run that made the model; one that is not there is left out.

    Raises:
        TrackingError: the server has no registry, or refuses.
    """
    try:
        with set_environment(uri):
            client = MlflowClient(uri)
            if not client.search_registered_models(f"name='{name}'"):
                client.create_registered_model(name)
            versions = client.search_model_versions(f"name='{name}'")
            # The same content is one version, however often it is registered.
            known = next((v for v in versions if v.tags.get(FINGERPRINT) == fingerprint), None)
            version = known or add_version(
                client,
                name,
                find_or_log(client, home, package, fingerprint, tags, run),
                {FINGERPRINT: fingerprint, **tags},
                description,
            )
            settled = SETTLED in version.tags and not force
            holder = assign_alias(client, name, str(version.version), alias, deserves, settled=settled)
        return RegisteredModel(name, str(version.version), known is None, holder)
    except Exception as error:  # MLflow, SQLAlchemy and requests each raise their own
        raise TrackingError(f"{uri}: the model {name} cannot be registered there: {describe_error(error)}") from error


def add_version(client: MlflowClient, name: str, model: Any, tags: Mapping[str, str], description: str) -> Any:
    """A logged model as a new version of a registered one."""
    return client.create_model_version(
        name,
        f"models:/{model.model_id}",
        run_id=model.source_run_id,
        model_id=model.model_id,
        tags=dict(tags),
        description=description,
    )


def assign_alias(
    client: MlflowClient,
    name: str,
    version: str,
    alias: str,
    deserves: Callable[[Mapping[str, str] | None], bool],
    *,
    settled: bool,
) -> str | None:
    """Decide about the alias, once for each version unless forced; returns the version that holds it."""
    aliases = client.get_registered_model(name).aliases
    holder = str(aliases[alias]) if alias in aliases else None
    # An alias that was taken away is given again.
    if settled and holder is not None:
        return holder
    if holder != version and deserves(tags_of(client, name, holder) if holder else None):
        client.set_registered_model_alias(name, alias, version)
        holder = version
    # Noted last: a killed call decides again, a finished one never.
    client.set_model_version_tag(name, version, SETTLED, "true")
    return holder


def tags_of(client: MlflowClient, name: str, version: str) -> dict[str, str]:
    """The tags of a version."""
    return dict(client.get_model_version(name, version).tags)


def find_or_log(
    client: MlflowClient, home: Path, package: ModelPackage, fingerprint: str, tags: Mapping[str, str], run: str | None
) -> Any:
    """The logged model of this content: what a call that was killed before it could register it left, or a new one."""
    experiment = experiment_id(client, home)
    candidates = client.search_logged_models([experiment], filter_string=f"tags.{FINGERPRINT} = '{fingerprint}'")
    ready = [model for model in candidates if model.status == LoggedModelStatus.READY]
    return ready[0] if ready else log_model(client, home, experiment, package, {FINGERPRINT: fingerprint, **tags}, run)


def log_model(
    client: MlflowClient, home: Path, experiment: str, package: ModelPackage, tags: Mapping[str, str], run: str | None
) -> Any:
    """Log a model; it belongs to the run where there is one."""
    made_by = find_run(client, home, run) if run else None
    run = str(made_by.info.run_id) if made_by else None
    params = made_by.data.params if made_by else {}
    model = client.create_logged_model(experiment, "ranker", run, dict(tags), params, "ranker")
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model"
            save_model(path, package, Model(model_uuid=model.model_id, run_id=run, model_id=model.model_id))
            client.log_model_artifacts(model.model_id, str(path))
        if run:
            client.log_outputs(run, [LoggedModelOutput(model.model_id, 0)])
    # Also when interrupted: a model left pending would look as if it were still being written.
    except BaseException:
        client.finalize_logged_model(model.model_id, LoggedModelStatus.FAILED)
        raise
    return client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)


def save_model(path: Path, package: ModelPackage, model: Model) -> None:
    """Write a model as MLflow keeps it; the example is tried on the way."""
    logging.getLogger("mlflow.pyfunc").setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mlflow.pyfunc.save_model(
            path,
            mlflow_model=model,
            python_model=str(CODE),
            # So that the model loads where the package is not installed.
            code_paths=[str(package.code)],
            artifacts={name: str(folder) for name, folder in package.folders.items()},
            model_config={"loader": package.loader, **package.settings},
            signature=package.signature,
            input_example=package.example,
            pip_requirements=list(package.requirements),
        )


def download_folder(uri: str, model: str, name: str, target: Path) -> Path:
    """Fetch one of the folders that are a registered model.

    Args:
        uri: what ``connect`` returned.
        model: ``models:/name@alias`` or ``models:/name/version``.
        name: the last part of the folder's path when it was logged.
        target: where it goes.

    Returns:
        The folder, below ``target``.

    Raises:
        TrackingError: no such model, version or alias, or its files are gone; it names what there is.
    """
    try:
        with set_environment(uri):
            return Path(
                mlflow.artifacts.download_artifacts(f"{model}/artifacts/{name}", dst_path=str(target), tracking_uri=uri)
            )
    except (MlflowException, OSError) as error:
        known = ", ".join(list_aliases(uri)) or "none"
        raise TrackingError(
            f"{model}: no such model in {uri}: {describe_error(error)} (registered there: {known})"
        ) from None


def read_version_tags(uri: str, model: str) -> dict[str, str]:
    """The tags of a registered version, ``models:/name@alias`` or ``models:/name/version``; empty for other URIs.

    Args:
        uri: what ``connect`` returned.
        model: the version.
    """
    client, found = MlflowClient(uri), re.fullmatch(r"models:/([^/@]+)(?:@([^/@]+)|/(\d+))", model)
    if not found:
        return {}
    name, alias, version = found.groups()
    if alias:
        version = client.get_model_version_by_alias(name, alias).version
    return tags_of(client, name, str(version))


def list_aliases(uri: str) -> list[str]:
    """The registered models with their aliases, as URIs."""
    models = MlflowClient(uri).search_registered_models(max_results=20)
    return [f"models:/{model.name}@{alias}" for model in models for alias in sorted(model.aliases)]

"""What rankers and training states say of themselves, in JSON: read without torch, which takes seconds to import."""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from xmrank.runtime.errors import DataError
from xmrank.runtime.files import refuse_special_file, sha256_file, sha256_json
from xmrank.runtime.storage import local_copy
from xmrank.train.trials import RANKER, RANKER_JSON

META = "meta"
STACK = "stack"
WEIGHTS_HASH = "weights_sha256"
"""In a ranker's JSON: the hash of the file of its weights."""
ABOUT_HASH = "about_sha256"
"""In a ranker's JSON: the hash of all else that it says."""
REMEDY = "copy the ranker again, or make it anew: xmrank train with --overwrite"
UNREADABLE = (SafetensorError, KeyError, TypeError, ValueError, RuntimeError)
"""What torch, safetensors and JSON raise for a file that is damaged or of something else."""


def read_about(directory: Path) -> dict[str, Any]:
    """What the JSON of a trained ranker says.

    Raises:
        DataError: no ranker there, or not its JSON as it was written.
    """
    path = directory / RANKER_JSON
    if not path.is_file():
        raise DataError(f"{directory}: no trained ranker here (no {RANKER_JSON})")
    try:
        about = dict(json.loads(path.read_text()))
        # A changed digit of a setting would make another ranker of the same weights.
        unchanged = about[ABOUT_HASH] == hash_about(about)
    except (*UNREADABLE, RecursionError) as error:
        raise DataError(f"{path}: not the JSON of a ranker: {shorten_message(error)}") from None
    if not unchanged:
        raise DataError(f"{path}: damaged: its contents are not those of its {ABOUT_HASH}; {REMEDY}")
    return about


def verify_weights(directory: Path, about: dict[str, Any]) -> None:
    """Raise DataError when a ranker's weights are not those that its JSON was written for."""
    path = directory / RANKER
    if not path.is_file():
        raise DataError(f"{directory}: no trained ranker here (no {RANKER})")
    if sha256_file(path) != about.get(WEIGHTS_HASH):
        raise DataError(f"{path}: damaged: its contents are not those of {RANKER_JSON}; {REMEDY}")


def hash_about(about: dict[str, Any]) -> str:
    """The sha256 over what a ranker's JSON says, without that hash itself."""
    # As JSON gives it back: tuples are lists there, and keys are texts.
    return sha256_json(json.loads(json.dumps({name: about[name] for name in about if name != ABOUT_HASH})))


def read_stack(path: Path) -> list[str]:
    """The names of the trials whose states were saved as one with this state; empty for a trial alone.

    Raises:
        DataError: a damaged file.
    """
    return [str(name) for name in read_header(path, STACK)]


def read_meta(path: Path) -> dict[str, Any]:
    """The ``meta`` of a saved state, without its tensors.

    Raises:
        DataError: a damaged file.
    """
    return dict(read_header(path, META))


def read_header(path: Path, name: str) -> Any:
    """A JSON value in the header of a saved state.

    Raises:
        DataError: a damaged file.
    """
    refuse_special_file(path)
    try:
        # Reads the header only: the progress watcher does this every second.
        with safe_open(local_copy(path), "np") as file:
            return json.loads(file.metadata()[name])
    # safetensors has errors of the system's types, without the system's number or the file's name.
    except (*UNREADABLE, OSError) as error:
        raise make_state_error(path, error) from None


def make_state_error(path: Path, error: Exception) -> DataError:
    """The error of a file that a training cannot continue from."""
    return DataError(
        f"{path}: cannot continue from it: {shorten_message(error)} (remove the file to start the trial again)"
    )


def shorten_message(error: Exception) -> str:
    """An error's message in one line, cut at 300 characters."""
    return " ".join(str(error).split())[:300]

"""Requests to the hub, and its errors in one line."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from xmrank import __version__
from xmrank.config.hub import RepositoryName
from xmrank.runtime.errors import DataError, XmrankError
from xmrank.runtime.manifest import MANIFEST, Manifest, parse_manifest

if TYPE_CHECKING:
    from huggingface_hub import HfApi

MODEL, DATASET = "model", "dataset"
TIMEOUT_S = 30


class HubError(DataError):
    """The hub refuses a request, or is not reached."""


@contextlib.contextmanager
def hub_errors(repository: str, doing: str) -> Iterator[None]:
    """Turn the errors of the hub's client into one line.

    Args:
        repository: OWNER/NAME, for the message.
        doing: what was tried: "push" or "pull".

    Raises:
        HubError: names the repository and, where there is one, the remedy.
    """
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        yield
    except XmrankError:
        raise
    except HFValidationError as error:
        raise HubError(f"{repository}: not a name of the hub: {one_line(error)}") from None
    except HfHubHTTPError as error:
        raise HubError(f"{repository}: {explain_status(error, doing)}") from None
    except (httpx2.HTTPError, ConnectionError) as error:
        raise HubError(
            f"{repository}: {read_endpoint()} is not reached: {one_line(error)}; the same command continues"
        ) from None
    except OSError as error:
        # Of the own disk: the command line names the file.
        if error.errno is not None:
            raise
        raise HubError(f"{repository}: {one_line(error.__cause__ or error)}; the same command continues") from None
    except (RuntimeError, ValueError) as error:
        # An upload that failed wraps the cause; so does an answer that is no JSON.
        cause = error.__cause__ or error
        raise HubError(f"{repository}: cannot {doing}: {one_line(cause)}; the same command continues") from None


def explain_status(error: Exception, doing: str) -> str:
    """An answer of the hub in words.

    Args:
        error: one of the client's, with the response.
        doing: "push" or "pull".
    """
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    status = int(error.response.status_code)  # type: ignore[attr-defined]
    if isinstance(error, GatedRepoError):
        return "the owner grants access one by one; request it on the repository's page"
    if isinstance(error, RevisionNotFoundError):
        return "no such revision"
    if status == 401 and (doing == "push" or not isinstance(error, RepositoryNotFoundError)):
        return "the hub does not accept the token; make one that may write: hf auth login, or HF_TOKEN"
    if isinstance(error, RepositoryNotFoundError):
        known = "" if find_token() else "; if it is private, log in first: hf auth login, or HF_TOKEN"
        return f"no such repository on {read_endpoint()}{known}"
    if status == 403:
        return f"this token has no right to {doing} here"
    return f"the hub answers {status}: {one_line(error)}; the same command continues"


def open_api() -> "HfApi":
    """The hub's client."""
    from huggingface_hub import HfApi

    return HfApi(library_name="xmrank", library_version=__version__)


def read_remote_manifest(target: RepositoryName, kind: str, revision: str | None = None) -> Manifest:
    """The manifest in a repository.

    Raises:
        DataError: it is not the manifest of a stage.
    """
    # Not in the client's cache, which would keep one that arrived damaged.
    with tempfile.TemporaryDirectory() as folder:
        open_api().hf_hub_download(target.name, MANIFEST, repo_type=kind, revision=revision, local_dir=folder)
        try:
            return parse_manifest(Path(folder))
        except DataError:
            raise HubError(f"{target.name}: its {MANIFEST} is not that of a stage of this version") from None


def find_token() -> str | None:
    """The user's token: from HF_TOKEN, or from ``hf auth login``."""
    from huggingface_hub import get_token

    return get_token()


def require_token(repository: str) -> None:
    """Raise HubError where the user has no token, before anything is read or hashed."""
    if not find_token():
        raise HubError(
            f"{repository}: no token: log in with hf auth login, or set HF_TOKEN; it needs the right to write"
        )


def read_endpoint() -> str:
    """The address of the hub."""
    from huggingface_hub import constants

    return str(constants.ENDPOINT)


def page_of(target: RepositoryName, kind: str) -> str:
    """The address of a repository's page."""
    return f"{read_endpoint()}/{'datasets/' if kind == DATASET else ''}{target.name}"


def uri_of(target: RepositoryName, kind: str) -> str:
    """The URI by which stages read a repository."""
    return f"hf://{'datasets/' if kind == DATASET else ''}{target.name}"


def hide_bars() -> None:
    """Show the client's progress bars on a terminal only."""
    from huggingface_hub.utils.tqdm import disable_progress_bars

    if not os.isatty(2):
        disable_progress_bars()


def one_line(error: BaseException) -> str:
    """An error's message in one line."""
    return " ".join(str(error).split()) or type(error).__name__

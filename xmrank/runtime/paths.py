"""Paths and URIs; relative paths start from XMRANK_HOME, or from the current directory."""

import os
from os import PathLike
from pathlib import Path

from xmrank.runtime.errors import ConfigError
from xmrank.runtime.remote_path import URI, RemotePath

HOME_VARIABLE = "XMRANK_HOME"
PathOrUri = Path | str
"""A local path, absolute, or a URI as text."""


def home() -> Path:
    """The folder that relative paths start from: XMRANK_HOME, otherwise the current directory.

    Raises:
        ConfigError: inside a submitted Ray job, where the current directory is a temporary copy, without XMRANK_HOME
            or with a relative one; or it names the home of an unknown user, or is a URI.
    """
    if URI.match(text := os.environ.get(HOME_VARIABLE, "")):
        raise ConfigError(f"{HOME_VARIABLE} {text}: expected a folder; outputs may be URIs, in --output")
    folder = expand_user(Path(text))
    # Path("") is the current directory.
    if in_ray_job() and not folder.is_absolute():
        raise ConfigError(
            "a relative path inside a Ray job would lead into the job's temporary copy of the code: set "
            f"{HOME_VARIABLE} to a folder that all nodes share, or give absolute paths"
        )
    return folder.absolute()


def expand_user(path: Path) -> Path:
    """The path with the home directory in place of ``~`` or ``~user``.

    Raises:
        ConfigError: no such user.
    """
    try:
        return path.expanduser()
    except RuntimeError:
        raise ConfigError(f"{path}: there is no home directory of {path.parts[0]}; ./{path} is a file") from None


def in_ray_job() -> bool:
    """Whether this process is the entrypoint of a job given to ``ray job submit`` with a working directory."""
    # Ray unpacks the working directory into a folder of this name and starts the entrypoint there.
    return "working_dir_files" in Path.cwd().parts


def is_given_cluster() -> bool:
    """Whether there is a Ray cluster to connect to: that of the submitted job, or the one in RAY_ADDRESS."""
    return in_ray_job() or bool(os.environ.get("RAY_ADDRESS"))


def resolve(path: Path | str) -> Path:
    """The absolute path: of this machine's files, or of an object store's for a URI.

    Raises:
        ConfigError: a URI that ``RemotePath.of`` refuses, a relative path that ``home`` refuses, or the home of an
            unknown user.
    """
    location = resolve_uri(path)
    return location if isinstance(location, Path) else locate_uri(location)


def locate_uri(uri: str) -> Path:
    """The path of a URI.

    Raises:
        ConfigError: as ``RemotePath.of``.
    """
    # Of this machine: file:///folder, as other tools write a path.
    return Path(uri.removeprefix("file://")) if uri.startswith("file:///") else RemotePath.of(uri)


def as_path(path: str | PathLike[str]) -> Path:
    """The path as it is, relative to the current directory, or a URI's in its store.

    Raises:
        ConfigError: as `resolve`, for a URI.
    """
    return resolve(str(path)) if URI.match(str(path)) else Path(path)


def resolve_uri(path: Path | str) -> PathOrUri:
    """The absolute local path, or the URI with the slashes that Path() folded.

    Raises:
        ConfigError: a relative path that ``home`` refuses, or the home of an unknown user.
    """
    text = str(path)
    if not (uri := URI.match(text)):
        local = expand_user(Path(path))
        return local if local.is_absolute() else home() / local
    # Path("s3://bucket/x") is s3:/bucket/x: the slashes after the scheme are put back, three for a local file.
    scheme = uri.group().rstrip(":/")
    rest = text[uri.end() :].lstrip("/")
    return f"{scheme}://{'/' if scheme == 'file' else ''}{rest}"


def below(root: PathOrUri, location: str) -> str:
    """A location relative to a root, as the text of a local path or of a URI."""
    return str(root / location) if isinstance(root, Path) else f"{root.rstrip('/')}/{location}"

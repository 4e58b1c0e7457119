"""Configuration of what goes to Hugging Face's hub and comes from there."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from xmrank.runtime.errors import ConfigError

LICENCE = re.compile(r"[a-z0-9][a-z0-9.+-]*")
REPOSITORY = re.compile(r"(?:hf://)?(?P<kind>datasets/|models/)?(?P<name>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")


@dataclass(frozen=True)
class RepositoryName:
    """A repository of the hub.

    Attributes:
        name: OWNER/NAME.
        kind: model or dataset; None where the name does not say it.
        revision: branch, tag or commit; None: the main branch.
    """

    name: str
    kind: str | None = None
    revision: str | None = None

    @classmethod
    def parse(cls, text: str) -> "RepositoryName":
        """The repository that a command line names.

        Raises:
            ConfigError: it is not OWNER/NAME, perhaps with hf://, models/ or datasets/ in front and @REVISION behind.
        """
        match = REPOSITORY.fullmatch(text)
        if not match:
            raise ConfigError(f"{text}: expected OWNER/NAME of a repository on the hub")
        kind = match["kind"] and match["kind"].removesuffix("s/")
        return cls(match["name"], kind, match["revision"])


@dataclass(frozen=True)
class PushConfig:
    """Push a finished stage to Hugging Face's hub, with a card. A training becomes a model repository, all other
    stages become a dataset repository. What is pushed: the files of the manifest, the manifest without paths, the
    card."""

    directory: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """Directory of a finished stage, such as rankers, embeddings or lists."""
    repository: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="OWNER/NAME")]
    """OWNER/NAME on the hub; it is made if it is not there."""
    licence: str | None = None
    """Licence for the card, by the hub's identifier: apache-2.0, cc-by-4.0, …; without it, the card names none."""
    public: bool = False
    """Make a new repository public; otherwise it is private. One that is there stays as it is."""
    evaluation: Path | None = None
    """Evaluation of these rankers, whose figures go on the card; by default the directory evaluation beside theirs,
    if it is of these rankers."""
    embeddings: Path | None = None
    """Embedding store of that evaluation; by default the directory embeddings beside that of the rankers."""
    dry_run: bool = False
    """Print the files and the card, and push nothing."""

    def __post_init__(self) -> None:
        target = RepositoryName.parse(self.repository)
        if target.revision:
            raise ConfigError(f"{self.repository}: push goes to the main branch; leave out @{target.revision}")
        if self.licence is not None and not LICENCE.fullmatch(self.licence):
            raise ConfigError(f"--licence {self.licence}: expected an identifier such as apache-2.0 or cc-by-4.0")


@dataclass(frozen=True)
class PullConfig:
    """Pull a finished stage from Hugging Face's hub. The directory gets its name when all files are there and are what
    the manifest says."""

    repository: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="OWNER/NAME")]
    """OWNER/NAME on the hub, or OWNER/NAME@REVISION; models/ or datasets/ in front where both have this name."""
    directory: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """Directory for the stage; must not be there, or hold this stage already."""

    def __post_init__(self) -> None:
        RepositoryName.parse(self.repository)


HUB_COMMANDS: dict[str, tuple[str, type[PushConfig] | type[PullConfig]]] = {
    "push": ("DIR OWNER/NAME", PushConfig),
    "pull": ("OWNER/NAME DIR", PullConfig),
}
"""What the console command does with the hub: its arguments, and the class of its configuration."""

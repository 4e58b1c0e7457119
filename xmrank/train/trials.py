"""A trial: one ranker to train, for one loss, one direction and one seed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xmrank.config.common import Direction
from xmrank.runtime.errors import DataError

if TYPE_CHECKING:
    from xmrank.config import TrainConfig

STATE = "state.safetensors"
NEXT_STATE = "next.safetensors"
"""A state that becomes the trial's state when those of its whole stack are written."""
RANKER = "ranker.safetensors"
RANKER_JSON = "ranker.json"
HISTORY = "history.json"


class TrialFailed(DataError):  # noqa: N818  (said of the trial, not of the program)
    """A trial cannot go on: its loss is not finite any more, or its saved state cannot be read."""


@dataclass(frozen=True)
class Trial:
    """One ranker to train."""

    loss: str
    direction: Direction
    seed: int

    @classmethod
    def from_about(cls, about: Mapping[str, Any]) -> Trial:
        """The trial whose ranker's JSON this is."""
        return cls(about["loss"], about["direction"], about["seed"])

    @property
    def name(self) -> str:
        """The trial's name, which is also the name of its folder."""
        return f"{self.loss}-{self.direction}-seed{self.seed}"

    def directory(self, output: Path) -> Path:
        """The trial's folder in the stage's output."""
        return output / "trials" / self.name

    def output_files(self, output: Path) -> list[Path]:
        """The files of a finished trial; its history is written last."""
        return [self.directory(output) / name for name in (RANKER, RANKER_JSON, HISTORY)]

    def is_done(self, output: Path) -> bool:
        """Whether the trial was trained to the end."""
        return (self.directory(output) / HISTORY).exists()

    def remove_leftovers(self, output: Path) -> None:
        """Remove other files of a finished trial: a process may have been killed while it wrote or removed one."""
        for path in self.directory(output).iterdir():
            if path not in self.output_files(output):
                path.unlink()


def all_trials(config: TrainConfig) -> list[Trial]:
    """Every loss × direction × seed.

    Seeds vary fastest: workers take trials in turn, so each gets equally many of every loss and direction.
    """
    return [Trial(loss, d, seed) for loss in config.losses for d in config.directions for seed in config.seeds]


def pending_trials(trials: Iterable[Trial], output: Path) -> list[Trial]:
    """The trials that are not done."""
    return [trial for trial in trials if not trial.is_done(output)]

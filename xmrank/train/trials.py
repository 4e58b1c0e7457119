"""A trial: one loss, one direction, one seed."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from xmrank.config import Direction, TrainConfig

STATE = "state.safetensors"
RANKER = "ranker.safetensors"
RANKER_JSON = "ranker.json"
HISTORY = "history.json"


@dataclass(frozen=True)
class Trial:
    """What is trained in one go."""

    loss: str
    direction: Direction
    seed: int

    @property
    def name(self) -> str:
        """Its name and the name of its folder."""
        return f"{self.loss}-{self.direction}-seed{self.seed}"

    def directory(self, output: Path) -> Path:
        """Its folder in the stage's output."""
        return output / "trials" / self.name

    def files(self, output: Path) -> list[Path]:
        """What it leaves when it is done; its history is written last."""
        return [self.directory(output) / name for name in (RANKER, RANKER_JSON, HISTORY)]

    def is_done(self, output: Path) -> bool:
        """Whether it was trained to the end."""
        return (self.directory(output) / HISTORY).exists()

    def tidy(self, output: Path) -> None:
        """Remove what a process that was killed within a write, or right after its last epoch, left beside them."""
        for path in self.directory(output).iterdir():
            if path not in self.files(output):
                path.unlink()


def all_trials(config: TrainConfig) -> list[Trial]:
    """Every loss × direction × seed; seeds vary fastest, so that workers that take turns get equal shares of each."""
    return [Trial(loss, d, seed) for loss in config.losses for d in config.directions for seed in config.seeds]


def pending(trials: Iterable[Trial], output: Path) -> list[Trial]:
    """The trials that are not done."""
    return [trial for trial in trials if not trial.is_done(output)]

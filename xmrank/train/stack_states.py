"""The states of a stack on disk: replaced all at once, so that a killed stack goes on as the same stack.

The new states are written beside the old ones. When all of them are there, they replace the old ones. Whoever continues
the training does the replacement if it was interrupted, and otherwise goes back to the old states.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from xmrank.runtime.errors import DataError
from xmrank.train.checkpoint import save_state
from xmrank.train.checkpoint_json import read_meta, read_stack
from xmrank.train.trials import HISTORY, NEXT_STATE, STATE, Trial


@dataclass(frozen=True)
class SavedState:
    """What a trial goes on from.

    Attributes:
        folder: of the trial.
        weights: the model's state dict.
        best: its state dict at the best validation so far.
        moments: the optimiser's state, by name.
        meta: the rest, as JSON values.
    """

    folder: Path
    weights: dict[str, Tensor]
    best: dict[str, Tensor]
    moments: dict[str, Tensor]
    meta: dict[str, Any]

    def save(self, name: str, stack: Sequence[str] = ()) -> None:
        """Write the state under a name in the trial's folder; ``stack`` names the folders of the whole stack."""
        save_state(self.folder / name, self.weights, self.best, self.moments, self.meta, stack)


def save_together(states: Sequence[SavedState]) -> None:
    """Write the states of the trials of a stack: after an interruption, either all of them count or none."""
    if len(states) == 1:
        states[0].save(STATE)
        return
    stack = [state.folder.name for state in states]
    for state in states:
        state.save(NEXT_STATE, stack)
    for state in states:
        (state.folder / NEXT_STATE).replace(state.folder / STATE)


def settle_states(trials: Iterable[Trial], output: Path) -> None:
    """Finish or undo the saves of stacks that an interruption cut off; call it before a training is continued.

    Args:
        trials: whose states may be unsettled; nobody else is training them.
        output: the stage's directory.
    """
    for trial in trials:
        folder = trial.directory(output)
        unsettled = folder / NEXT_STATE
        if not unsettled.exists():
            continue
        if is_complete(unsettled):
            unsettled.replace(folder / STATE)
        else:
            unsettled.unlink()


def is_complete(unsettled: Path) -> bool:
    """Whether every trial of a stack has written its state of the same step."""
    try:
        step = last_step(unsettled)
        folders = [unsettled.parent.with_name(name) for name in read_stack(unsettled)]
        return all(is_saved(folder, step) for folder in folders)
    except DataError:  # damaged: the old states count
        return False


def is_saved(folder: Path, step: int) -> bool:
    """Whether a trial has a state of a step, or is done."""
    paths = [path for path in (folder / NEXT_STATE, folder / STATE) if path.exists()]
    return (folder / HISTORY).exists() or any(last_step(path) == step for path in paths)


def last_step(path: Path) -> int:
    """The step that a state was saved after."""
    return int(read_meta(path)["epochs"][-1]["step"])

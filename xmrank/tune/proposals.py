"""Optuna's proposals for a group, kept on disk, so that a continued search proposes what an undisturbed one would."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState, create_trial

from xmrank.runtime.files import write_json
from xmrank.tune.space import Point, Space


@dataclass(frozen=True)
class Proposal:
    """A proposal of Optuna.

    Attributes:
        settings: what is proposed.
        value: what became of it; None: not known yet.
    """

    settings: Point
    value: float | None = None


class ProposalStudy:
    """The study of one group: proposes settings and is told what became of them.

    A proposal depends on the seed, its number and the results that are told before it. With one point at a time, that
    is the same after an interruption; with several, the order in which points end decides what is told before it.
    """

    def __init__(self, path: Path, space: Space, seed: int) -> None:
        """Read the proposals of an earlier call; those whose results it was not told are proposed first.

        Args:
            path: file of the proposals.
            space: what is searched.
            seed: of the proposals.
        """
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.path, self.seed, self.distributions = path, seed, make_distributions(space)
        rows = json.loads(path.read_text()) if path.exists() else []
        self.proposals = [Proposal(**row) for row in rows]
        self.study = optuna.create_study(direction="maximize")
        for proposal in self.proposals:
            if proposal.value is None:
                self.study.enqueue_trial(proposal.settings)
            else:
                told = {"params": proposal.settings, "distributions": self.distributions, "value": proposal.value}
                self.study.add_trial(create_trial(**told))

    def list_told(self) -> list[Proposal]:
        """The proposals whose results are known, in the order in which they were made."""
        return [proposal for proposal in self.proposals if proposal.value is not None]

    def propose(self) -> tuple[int, Point]:
        """The next proposal: its number and its settings."""
        # A sampler of its own for every proposal: the state of a single one would be lost with the process.
        self.study.sampler = optuna.samplers.TPESampler(seed=self.seed + len(self.study.get_trials(deepcopy=False)))
        trial = self.study.ask(self.distributions)
        if trial.number == len(self.proposals):
            self.proposals.append(Proposal(dict(trial.params)))
            self._write()
        return trial.number, dict(trial.params)

    def tell(self, number: int, value: float | None) -> None:
        """Tell what became of a proposal.

        Args:
            number: of the proposal.
            value: the higher the better; None: nothing, so that the next call proposes it again.
        """
        if value is None:
            self.study.tell(number, state=TrialState.FAIL)
            return
        self.study.tell(number, value)
        self.proposals[number] = dataclasses.replace(self.proposals[number], value=value)
        self._write()

    def _write(self) -> None:
        """Write all proposals."""
        write_json(self.path, [vars(proposal) for proposal in self.proposals])


def make_distributions(space: Space) -> dict[str, BaseDistribution]:
    """The space as Optuna's."""
    distributions: dict[str, Any] = {}
    for name, values in space.items():
        if isinstance(values, list):
            distributions[name] = CategoricalDistribution(values)
        else:
            distributions[name] = FloatDistribution(values.low, values.high, log=values.log)
    return distributions

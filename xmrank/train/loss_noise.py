"""The random numbers that some losses take: they follow from seed and step, so a resumed training draws the same."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from xmrank.config import TrainConfig
from xmrank.losses.neural import draw_gumbel

NOISE_STREAM = 0x0153
"""Separates the seeds of the losses' noise from other draws under the same seed."""
VALIDATION_STEP = -1
"""Stands for the step in the seeds of validation, whose noise is the same every time."""


def noise_seed(seed: int, step: int) -> int:
    """The seed of the noise of a trial's loss in one step; all processes of the trial draw the same noise."""
    return int(np.random.SeedSequence([seed, NOISE_STREAM, step + 1]).generate_state(1, np.uint32)[0])


def takes_noise(loss: str, config: TrainConfig) -> bool:
    """Whether a loss takes the keyword ``noise``."""
    return loss == "listmle" or (loss == "neural_ndcg" and config.loss.neural_ndcg.stochastic_samples > 0)


def draw_noise(loss: str, config: TrainConfig, seed: int, shape: tuple[int, int], device: torch.device) -> Tensor:
    """The noise of a loss that takes some, [lists, items] or [samples, lists, items].

    Args:
        loss: its name.
        config: has the number of samples.
        seed: of the draw.
        shape: lists and items, padding included. The lists are those of the whole step: then neither processes nor
            parts of a batch nor a stack change what a list gets.
        device: where to draw it.
    """
    generator = torch.Generator(device).manual_seed(seed)
    if loss == "neural_ndcg":
        return draw_gumbel((config.loss.neural_ndcg.stochastic_samples, *shape), device=device, generator=generator)
    return torch.rand(shape, device=device, generator=generator)


class StepNoise:
    """The noise of all rankers of a step, drawn when a loss first needs it.

    Args:
        config: has the parameters of the losses.
        seeds: of each ranker.
        lists: number of lists of the global batch; 1: all lists share one draw.
    """

    def __init__(self, config: TrainConfig, seeds: Sequence[int], lists: int) -> None:
        self.config, self.seeds, self.lists = config, seeds, lists
        self._drawn: dict[int, Tensor] = {}

    def select(self, loss: str, models: range, rows: np.ndarray | None, like: Tensor) -> dict[str, Tensor]:
        """The keyword ``noise`` of a loss; empty for a loss that takes none.

        Args:
            loss: its name.
            models: rankers of this loss.
            rows: positions of the scored lists in the global batch; None: every list gets the same noise.
            like: labels of the lists of these rankers, [models · lists, items].
        """
        if not takes_noise(loss, self.config):
            return {}
        parts = []
        for model in models:
            if model not in self._drawn:
                shape = self.lists, like.shape[1]
                self._drawn[model] = draw_noise(loss, self.config, self.seeds[model], shape, like.device)
            whole = self._drawn[model]
            if rows is None:
                parts.append(whole.expand(*whole.shape[:-2], len(like) // len(models), -1))
            else:
                parts.append(whole[..., torch.from_numpy(rows).to(like.device), :])
        return {"noise": torch.cat(parts, -2)}

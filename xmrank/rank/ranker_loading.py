"""A trained ranker in memory, for Python callers."""

import tempfile
from os import PathLike
from pathlib import Path

import torch

from xmrank.config.common import Direction
from xmrank.rank.trained_rankers import locate_ranker
from xmrank.rankers import Ranker
from xmrank.train.checkpoint import read_ranker


def load_ranker(
    source: str | PathLike[str], *, direction: Direction | None = None, device: torch.device | str = "cpu"
) -> Ranker:
    """Load a trained ranker, in evaluation mode.

    Args:
        source: a ranker's folder; the output of a training, which gives its best ranker of the direction; or a model
            of MLflow's registry, ``models:/NAME@ALIAS`` or ``models:/NAME/VERSION``.
        direction: i2t or t2i; only the output of a training needs it.
        device: where the ranker is put.

    Raises:
        ConfigError: the output of a training without a direction.
        DataError: no ranker there, a damaged one, or a registry that does not answer.

    >>> import tempfile
    >>> from xmrank.rankers import LinearParameters, build_ranker
    >>> from xmrank.train.checkpoint import save_ranker
    >>> folder = tempfile.TemporaryDirectory()
    >>> trained = build_ranker(LinearParameters(), dimensions=4)
    >>> save_ranker(Path(folder.name), trained, trained.state_dict(), {"direction": "t2i"})
    >>> ranker = load_ranker(folder.name)
    >>> ranker.name, ranker.dimensions, ranker.training
    ('linear', 4, False)
    >>> folder.cleanup()
    """
    # Weights are read into memory, so a downloaded copy need not stay.
    with tempfile.TemporaryDirectory() as downloads:
        directory = locate_ranker(str(source), direction, Path(downloads))
        return read_ranker(directory, device)[0]

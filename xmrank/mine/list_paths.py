"""Where the mining stage writes its files, for the stages that read them."""

import json
from pathlib import Path

import numpy as np

from xmrank.config.common import Direction
from xmrank.mine.roles import Role

STAGE = "mine"
SPLITS = "splits.json"


def lists_path(directory: Path, direction: Direction, role: Role) -> Path:
    """The file of the lists of a direction and role."""
    return directory / f"{direction}-{role}.parquet"


def images_of(directory: Path, role: Role) -> np.ndarray:
    """The image rows of a role, int64, ascending."""
    return np.array(json.loads((directory / SPLITS).read_text())[role]["images"], np.int64)

"""The files of the mining stage's output: one parquet file for each direction and role, and the images of the roles."""

import json
from pathlib import Path

import numpy as np

from xmrank.config import Direction
from xmrank.mine.roles import Role

STAGE = "mine"
SPLITS = "splits.json"


def lists_path(directory: Path, direction: Direction, role: Role) -> Path:
    """The file with the lists of a direction and role."""
    return directory / f"{direction}-{role}.parquet"


def read_role_images(directory: Path, role: Role) -> np.ndarray:
    """The image rows of a role, int64, ascending."""
    # Image rows are global: they index the store, not the split.
    content = json.loads((directory / SPLITS).read_text())
    return np.array(content[role]["images"], np.int64)

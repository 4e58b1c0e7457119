"""The split that is reported: its name and its images, as the mining stage wrote them beside the lists."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from xmrank.mine.list_paths import SPLITS


def reported_split(lists: Path) -> str:
    """The name of the split of the test lists.

    Args:
        lists: folder of the candidate lists.
    """
    return str(_read_test_entry(lists)["split"])


def reported_images(lists: Path) -> np.ndarray:
    """The image rows of the test lists, int64, ascending.

    Args:
        lists: folder of the candidate lists.
    """
    return np.array(_read_test_entry(lists)["images"], np.int64)


def _read_test_entry(lists: Path) -> dict[str, Any]:
    return dict(json.loads((lists / SPLITS).read_text())["test"])

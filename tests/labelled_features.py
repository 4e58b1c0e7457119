"""Feature files of a small labelled set."""

import numpy as np
from scipy.io import savemat

CLASSES = 3


def write_features(folder, *, seed=0, width=6):
    """Sixty training and twenty test pairs in the layout of the Wikipedia files' arrays, with 0/1 labels."""
    generator = np.random.default_rng(seed)
    arrays = {}
    for part, count in (("tr", 60), ("te", 20)):
        labels = np.eye(CLASSES)[np.arange(count) % CLASSES]
        arrays |= {f"L_{part}": labels}
        arrays |= {f"{side}_{part}": labels @ np.eye(CLASSES, width) for side in "IT"}
        for side in "IT":
            arrays[f"{side}_{part}"] = arrays[f"{side}_{part}"] + 0.3 * generator.normal(size=(count, width))
    folder.mkdir(parents=True, exist_ok=True)
    savemat(folder / "features.mat", arrays)

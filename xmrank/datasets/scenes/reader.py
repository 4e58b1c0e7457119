"""Reader of the generated data set: draws what is not there yet."""

import os

from xmrank.config import EmbedConfig
from xmrank.datasets.dataset import Dataset
from xmrank.datasets.scenes.generate import generate
from xmrank.runtime.paths import resolve
from xmrank.runtime.progress import Progress


def read_scenes(config: EmbedConfig) -> Dataset:
    """The scenes of the configured sizes and seed, generated below ``--scenes.folder`` when they are not there."""
    sizes = config.scenes
    root = resolve(sizes.folder) / f"scenes-seed{sizes.seed}"
    with Progress("scenes", sizes.train + sizes.val + sizes.test) as progress:
        images, captions = generate(
            root,
            train=sizes.train,
            val=sizes.val,
            test=sizes.test,
            seed=sizes.seed,
            workers=os.cpu_count() or 1,
            progress=progress.advance,
        )
    return Dataset("scenes", root, images, captions)

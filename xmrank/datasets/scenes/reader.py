"""Reader of the generated data set: draws the images that do not exist yet."""

import os

from xmrank.datasets.dataset import Dataset
from xmrank.datasets.reader_settings import ScenesSettings
from xmrank.datasets.scenes.generate import generate_scenes
from xmrank.runtime.paths import resolve, resolve_uri
from xmrank.runtime.progress import Progress


def read_scenes(settings: ScenesSettings, max_broken: float) -> Dataset:  # noqa: ARG001 - nothing is broken
    """The scenes of the configured sizes and seed, generated below ``--scenes.folder`` unless they exist."""
    sizes = settings.scenes
    root = resolve(sizes.folder) / f"scenes-seed{sizes.seed}"
    with Progress("scenes", sizes.train + sizes.val + sizes.test) as progress:
        images, captions = generate_scenes(
            root,
            train=sizes.train,
            val=sizes.val,
            test=sizes.test,
            seed=sizes.seed,
            workers=os.cpu_count() or 1,
            progress=progress.advance,
        )
    return Dataset(settings.name, resolve_uri(root), images, captions)

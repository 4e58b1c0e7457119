"""The distributions of images and captions on which an encoder can be trained."""

from collections.abc import Callable
from typing import BinaryIO

from xmrank.datasets.scenes.alt_texts import write_alt_texts
from xmrank.datasets.scenes.generate import compose_scene, describe_scene, write_scene
from xmrank.datasets.scenes.web_drawing import write_picture
from xmrank.datasets.scenes.web_layout import compose_picture


def write_scene_pair(seed: int, split: str, number: int, file: BinaryIO) -> tuple[str, ...]:
    """Write a scene as the data set has it; returns its five captions."""
    scene = compose_scene(seed, split, number)
    write_scene(scene, file)
    return tuple(caption.text for caption in describe_scene(scene))


def write_web_pair(seed: int, split: str, number: int, file: BinaryIO) -> tuple[str, ...]:
    """Write a picture of the web-like distribution; returns its five alt texts."""
    picture = compose_picture(seed, split, number)
    write_picture(picture, file)
    return write_alt_texts(picture)


DISTRIBUTIONS: dict[str, Callable[[int, str, int, BinaryIO], tuple[str, ...]]] = {
    "web": write_web_pair,
    "scenes": write_scene_pair,
}
"""Name → a function that writes image `number` of (seed, split) as a JPEG file and returns its captions."""

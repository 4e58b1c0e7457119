"""The generated data set `scenes`: images of handwritten digits and drawn shapes, five captions each, and labels.

Nothing is downloaded. Image i of a split depends on (seed, split, i) alone, so it is the same whatever the sizes of the
splits, the number of workers, or the order of work.
"""

import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import chain
from multiprocessing import get_context
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from xmrank.datasets.dataset import CAPTIONS, IMAGES
from xmrank.datasets.scenes.drawing import IMAGE_SIZE, draw_scene, write_scene
from xmrank.datasets.scenes.layout import LABEL_NAMES, Scene, SceneObject, compose_scene
from xmrank.datasets.scenes.scene_captions import Caption, Claim, Mention, describe_scene
from xmrank.runtime.errors import ConfigError
from xmrank.runtime.remote_path import RemotePath
from xmrank.runtime.storage import upload

__all__ = [
    "IMAGE_SIZE", "LABEL_NAMES", "Caption", "Claim", "Mention", "Scene", "SceneObject",
    "compose_scene", "describe_scene", "draw_scene", "generate_scenes", "scene_tables", "write_scene",
]  # fmt: skip

VERSION = 1
"""Raised whenever the same seed gives other images or captions than before."""

_CHUNK = 250
_Chunk = tuple[str, list[int]]


def generate_scenes(
    root: Path,
    *,
    train: int = 2000,
    val: int = 400,
    test: int = 400,
    seed: int = 0,
    workers: int = 1,
    progress: Callable[[int], object] | None = None,
) -> tuple[pa.Table, pa.Table]:
    """Write the data set: images/{split}/{number}.jpg, images.parquet, captions.parquet, scenes.json.

    A file is complete or does not exist, and images that exist are kept: after an interruption the same call finishes
    the work, with the same bytes as a call that was never interrupted.

    Args:
        root: the folder, created if necessary; locations in the images table are relative to it.
        train, val, test: images of each split, at least 0; together at least 1.
        seed: of all that is random.
        workers: processes that draw; 1 draws in this one.
        progress: called with the number of images that exist, then with the number just drawn, every 250.

    Returns:
        The images and captions tables, as ``scene_tables`` does.

    Raises:
        ConfigError: a size or number of workers out of range, or a root that holds scenes of another seed or version.
    """
    sizes = {"train": train, "val": val, "test": test}
    if min(sizes.values()) < 0 or sum(sizes.values()) == 0 or workers < 1:
        raise ConfigError(f"scenes: sizes must be at least 0 and not all 0, workers at least 1: got {sizes}, {workers}")
    # First: no image is drawn into a folder with scenes of another seed.
    _claim_folder(root, seed)
    missing = list(_find_missing(root, sizes))
    there = sum(sizes.values()) - sum(len(numbers) for _, numbers in missing)
    drawn = _map_chunks(partial(_draw_chunk, root, seed), missing, min(workers, len(missing)))
    # The first call reports the images of earlier runs, so that progress starts there.
    for count in chain([there], drawn):
        if progress is not None:
            progress(count)
    images, captions = scene_tables(sizes, seed)
    # Written again each time: another call may have had other sizes.
    _write_table(images, root / "images.parquet")
    _write_table(captions, root / "captions.parquet")
    return images, captions


def scene_tables(sizes: dict[str, int], seed: int) -> tuple[pa.Table, pa.Table]:
    """The tables of splits of these sizes, without drawing anything.

    Returns:
        images (image_id, location, split, labels: sorted class ids) and captions (caption_id, image_id, text, split),
        in the order of splits, numbers and captions.
    """
    images, captions = [], []
    for split, size in sizes.items():
        for number in range(size):
            scene = compose_scene(seed, split, number)
            image_id = f"{split}-{number:06d}"
            location = _image_path(split, number).as_posix()
            images.append({"image_id": image_id, "location": location, "split": split, "labels": scene.labels})
            captions += [
                {"caption_id": f"{image_id}#{i}", "image_id": image_id, "text": caption.text, "split": split}
                for i, caption in enumerate(describe_scene(scene))
            ]
    return pa.Table.from_pylist(images, IMAGES), pa.Table.from_pylist(captions, CAPTIONS)


def _image_path(split: str, number: int) -> Path:
    return Path("images", split, f"{number:06d}.jpg")


def _find_missing(root: Path, sizes: dict[str, int]) -> Iterator[_Chunk]:
    for split, size in sizes.items():
        numbers = [number for number in range(size) if not _is_complete(root / _image_path(split, number))]
        for start in range(0, len(numbers), _CHUNK):
            yield split, numbers[start : start + _CHUNK]


def _map_chunks(draw: Callable[[_Chunk], int], chunks: list[_Chunk], workers: int) -> Iterator[int]:
    if workers <= 1:
        yield from map(draw, chunks)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:  # fork would copy held locks
        yield from pool.map(draw, chunks)


def _draw_chunk(root: Path, seed: int, chunk: _Chunk) -> int:
    split, numbers = chunk
    (root / _image_path(split, 0)).parent.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        path = root / _image_path(split, number)
        # Renamed when it is complete: an interrupted run leaves no half image under the final name.
        with _whole_file(path) as part:
            write_scene(compose_scene(seed, split, number), part)
    return len(numbers)


def _is_complete(path: Path) -> bool:
    """True for a file that ends as a JPEG does; a power cut can leave a renamed file empty or short."""
    if not path.is_file() or path.stat().st_size < 2:
        return False
    # A store has whole files only.
    if isinstance(path, RemotePath):
        return True
    with path.open("rb") as file:
        file.seek(-2, os.SEEK_END)
        return file.read() == b"\xff\xd9"


def _claim_folder(root: Path, seed: int) -> None:
    marker = root / "scenes.json"
    content = json.dumps({"dataset": "scenes", "version": VERSION, "seed": seed}) + "\n"
    # Images are recognised by their name only: those of another seed would be taken for these.
    if marker.is_file() and marker.read_text() != content:
        raise ConfigError(f"{marker}: holds {marker.read_text().strip()}, expected {content.strip()}")
    root.mkdir(parents=True, exist_ok=True)
    with _whole_file(marker) as part:
        part.write_text(content)


def _write_table(table: pa.Table, path: Path) -> None:
    with _whole_file(path) as part:
        pq.write_table(table, part, write_page_checksum=True)


@contextmanager
def _whole_file(path: Path) -> Iterator[Path]:
    """A file of this machine that gets its name, or is uploaded, when it is complete."""
    if isinstance(path, RemotePath):
        with upload(path) as file:
            yield file
        return
    # Always the same name, so that a rerun leaves no other behind.
    part = path.with_name(f".{path.name}.part")
    yield part
    part.replace(path)

"""Reader of a folder of images with text files beside them."""

from collections.abc import Sequence
from pathlib import PurePosixPath

from xmrank.config import EmbedConfig
from xmrank.datasets.dataset import Dataset
from xmrank.datasets.pair_table import IMAGE_SUFFIXES, TEXT_LIMIT, PairTable, lines
from xmrank.datasets.splits import split_of_folder
from xmrank.datasets.uris import list_files, read_file, suffix, threaded
from xmrank.runtime.errors import DataError
from xmrank.runtime.paths import Place, below, place

CHUNK = 4096
"""Text files read at once."""


def read_folder(config: EmbedConfig) -> Dataset:
    """The images below ``--images`` with the captions in their neighbours: dog.jpg and dog.txt, one caption a line.

    The outermost folder may name the split: train, val, test. An image without captions is left out and listed.

    Raises:
        DataError: no such folder, no images in it, or more without captions than
            ``--max-broken`` allows.
    """
    root = place(config.images or "")
    files = list_files(root)
    texts = {stem(name) for name in files if suffix(name) == ".txt"}
    images = [name for name in files if suffix(name) in IMAGE_SUFFIXES]
    if not images:
        raise DataError(f"{root}: no images in it; expected files like dog.jpg and dog.txt (--images)")
    pairs = PairTable(root.name if not isinstance(root, str) else root)
    for start in range(0, len(images), CHUNK):
        add_images(pairs, root, images[start : start + CHUNK], texts)
    return pairs.dataset("folder", root, config)


def stem(name: str) -> str:
    """A location without its last suffix."""
    return str(PurePosixPath(name).with_suffix(""))


def add_images(pairs: PairTable, root: Place, images: Sequence[str], texts: set[str]) -> None:
    """Take in some of the images, with the lines of their texts."""
    known = [name for name in images if stem(name) in texts]
    contents = threaded(lambda name: read_file(below(root, f"{stem(name)}.txt"), "--images", TEXT_LIMIT + 1), known)
    content_of = dict(zip(known, contents, strict=True))
    for name in images:
        try:
            captions = lines(content_of[name])
            fault = "" if captions else "is empty"
        except KeyError:
            fault = "is not there"
        except DataError as error:
            fault = str(error)
        if fault:
            pairs.leave_out(name, f"its text {stem(name)}.txt {fault}")
        else:
            pairs.image(name, name, split_of_folder(name))
            pairs.captions(name, captions)

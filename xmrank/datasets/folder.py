"""Reader of a folder of images with text files beside them."""

from collections.abc import Sequence
from pathlib import Path
from posixpath import splitext

from xmrank.datasets.caption_texts import TEXT_LIMIT, text_lines
from xmrank.datasets.dataset import Dataset
from xmrank.datasets.pair_table import PairTable
from xmrank.datasets.reader_settings import FolderSettings
from xmrank.datasets.splits import split_of_folder
from xmrank.datasets.uris import IMAGE_SUFFIXES, list_files, map_threads, read_file, suffix_of
from xmrank.runtime.errors import DataError
from xmrank.runtime.paths import PathOrUri, below, resolve_uri

CHUNK = 4096
"""Text files read at once."""


def read_folder(settings: FolderSettings, max_broken: float) -> Dataset:
    """The images below ``--images`` with the captions in the files beside them: dog.jpg and dog.txt, a caption a line.

    The outermost folder may name the split: train, val, test. An image without captions is left out and listed.

    Raises:
        DataError: no such folder, no images in it, or more without captions than ``--max-broken`` allows.
    """
    root = resolve_uri(settings.images)
    files = list_files(root)
    # Known from the listing, so that no request is made for a text that does not exist.
    texts = {without_suffix(name): name for name in files if suffix_of(name) == ".txt"}
    images = [name for name in files if suffix_of(name) in IMAGE_SUFFIXES]
    if not images:
        raise DataError(f"{root}: no images in it; expected files like dog.jpg and dog.txt (--images)")
    pairs = PairTable(root.name if not isinstance(root, str) else root)
    # In chunks: the contents of all texts need not be in memory at once.
    for start in range(0, len(images), CHUNK):
        add_images(pairs, root, images[start : start + CHUNK], texts)
    note_other_files(pairs, files, texts, images)
    return pairs.make_dataset(settings.name, root, settings.held_out, max_broken)


def without_suffix(name: str) -> str:
    """A location without its last suffix."""
    return splitext(name)[0]


def note_other_files(pairs: PairTable, files: Sequence[str], texts: dict[str, str], images: Sequence[str]) -> None:
    """Record the texts without an image of their name, and the files that are neither text nor image."""
    described = {without_suffix(name) for name in images}
    if others := len(texts.keys() - described):
        pairs.left_out.unused["texts without an image of their name"] = others
    for name in files:
        if suffix_of(name) not in (*IMAGE_SUFFIXES, ".txt"):
            pairs.left_out.unused[f"files {suffix_of(name) or 'without a suffix'}"] += 1


def add_images(pairs: PairTable, root: PathOrUri, images: Sequence[str], texts: dict[str, str]) -> None:
    """Add some of the images, with the lines of their texts as captions.

    Args:
        pairs: gets them.
        root: the folder.
        images: locations.
        texts: location of an image without its suffix → location of its text.
    """
    known = [name for name in images if without_suffix(name) in texts]

    def read_text(name: str) -> bytes:
        return read_file(below(root, texts[without_suffix(name)]), "--images", TEXT_LIMIT + 1)

    # Most texts are small: at a URI each waits for an answer, here threads would cost more than they save.
    contents = list(map(read_text, known)) if isinstance(root, Path) else map_threads(read_text, known)
    content_of = dict(zip(known, contents, strict=True))
    for name in images:
        text = texts.get(without_suffix(name), f"{without_suffix(name)}.txt")
        try:
            captions = text_lines(content_of[name])
            fault = "" if captions else "is empty"
        except KeyError:
            fault = "does not exist"
        except DataError as error:
            fault = str(error)
        if fault:
            pairs.left_out.add_image(name, f"its text {text} {fault}", kind=f"its text {fault}")
        else:
            row = pairs.add_image(name, name, (name,), split_of_folder(name))
            pairs.captions.add(row, captions)

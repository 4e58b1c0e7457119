"""Reader of tables in text form, one image and caption a row, and a folder of images."""

from xmrank.datasets.dataset import Dataset
from xmrank.datasets.pair_table import PairTable
from xmrank.datasets.path_tables import add_path_table
from xmrank.datasets.reader_settings import CsvSettings
from xmrank.datasets.text_table import read_text_table
from xmrank.datasets.uris import expand_pattern, find_image_folder
from xmrank.runtime.paths import below


def read_csv(settings: CsvSettings, max_broken: float) -> Dataset:
    """The rows of ``--annotations`` (one file, or a pattern) with the images below ``--images``.

    The first line names the columns: the image's path and its caption or captions, and perhaps its split, id and
    labels. Rows with the same path are captions of one image. Values are separated by commas, tabs, | or ;. Flickr's
    own files (name.jpg#0, a tab, a caption) have no such line.

    Raises:
        ConfigError: a flag names a column that the table does not have.
        DataError: no such file or folder, rows that contradict each other, or more damaged ones than ``max_broken``.
    """
    folder, names = expand_pattern(settings.annotations, "--annotations")
    root = find_image_folder(settings.images, settings.annotations.name)
    pairs = PairTable(settings.annotations.name)
    for name in names:
        add_path_table(pairs, read_text_table(below(folder, name), name), settings, root)
    return pairs.make_dataset(settings.name, root, settings.held_out, max_broken)

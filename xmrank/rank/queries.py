"""New queries from files: captions, images, or embeddings that exist."""

from dataclasses import replace
from pathlib import Path

from xmrank.config.common import Direction
from xmrank.datasets.columns import CAPTION, CAPTION_ID, ID, IMAGE, LABELS, NUMBERED
from xmrank.datasets.json_rows import LINES
from xmrank.datasets.text_table import DELIMITERS
from xmrank.datasets.text_table import NUMBERED as TOKEN_LINE
from xmrank.datasets.uris import IMAGE_SUFFIXES, file_sizes, list_files
from xmrank.rank.query_set import FLAG, QuerySet
from xmrank.rank.tabular_queries import QUERY_ID, read_table_queries
from xmrank.runtime.errors import ConfigError, DataError
from xmrank.runtime.files import refuse_special_file, sha256_json
from xmrank.runtime.paths import below, resolve_uri

TABLES = (".parquet", ".csv", ".tsv", ".token", ".json", *LINES)
HEADER = {*IMAGE, *CAPTION, *CAPTION_ID, *ID, *LABELS, *QUERY_ID, "split"}
"""Usual names of columns."""


def read_queries(path: Path, column: str | None, direction: Direction | None, id_column: str | None = None) -> QuerySet:
    """Read the queries in a text file, a table or a folder of images.

    Args:
        path: where they are.
        column: of a table; None: the one with a usual name.
        direction: decides between a column of captions and one of images.
        id_column: of a table; None: one with a usual name, if any.

    Raises:
        ConfigError: a column that is not there, or not given where several fit.
        DataError: no such file, an empty one, or one of another format.
    """
    table = False
    if path.is_dir():
        queries = read_image_queries(path)
    elif not path.exists():
        raise DataError(f"{path}: no such file or folder ({FLAG})")
    elif path.suffix.lower() in IMAGE_SUFFIXES:
        raise DataError(f"{path}: an image; expected a folder of images ({FLAG})")
    else:
        refuse_special_file(path, FLAG)
        table = is_table(path)
        queries = read_table_queries(path, column, direction, id_column) if table else read_text_queries(path)
    # After reading, so that a wrong path is named before a wrong column.
    for flag, name in (("--column", column), ("--id-column", id_column)):
        if name and not table:
            raise ConfigError(f"{flag} {name}: only a table has columns, {FLAG} is {path.name}")
    if len(set(queries.ids)) < len(queries.ids):
        twice = next(name for name in queries.ids if queries.ids.count(name) > 1)
        raise DataError(f'{path}: the id "{twice}" occurs more than once ({FLAG})')
    # Other ids are other results; of tables of images, the fingerprint is that of the file alone.
    return replace(queries, fingerprint=sha256_json([queries.fingerprint, id_column])) if id_column else queries


def is_table(path: Path) -> bool:
    """Whether a file has columns: by its suffix, or because its first line is a header or one of Flickr's lines."""
    if path.suffix.lower() in TABLES:
        return True
    with path.open("rb") as file:
        first = file.readline(1 << 16).decode("utf-8-sig", "replace").rstrip("\r\n")
    names = first.split(max(DELIMITERS, key=first.count))
    usual = [name.strip().lower() in HEADER or NUMBERED.fullmatch(name.strip().lower()) for name in names]
    # Kaggle's captions.txt begins with image,caption: as captions, its lines would be nonsense.
    return (len(names) > 1 and all(usual)) or TOKEN_LINE.match(first) is not None


def read_text_queries(path: Path) -> QuerySet:
    """One caption for each line; its id is the line's number, from 1. Empty lines are skipped."""
    try:
        # Editors on Windows begin a file with a byte order mark, and end lines with \\r\\n.
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(
            f"{path}: not text in UTF-8; expected one caption a line, or a .parquet file ({FLAG})"
        ) from None
    numbered = [(str(number), line.strip()) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not numbered:
        raise DataError(f"{path}: no queries in it; expected one caption a line ({FLAG})")
    ids, texts = [number for number, _ in numbered], [text for _, text in numbered]
    return QuerySet("text", ids, texts, texts, None, sha256_json([ids, texts]))


def read_image_queries(folder: Path) -> QuerySet:
    """All images below a folder; an image's id is its path from there."""
    root = resolve_uri(folder)
    names = [name for name in list_files(root) if Path(name).suffix.lower() in IMAGE_SUFFIXES]
    if not names:
        raise DataError(f"{folder}: no images in it ({FLAG})")
    paths = [below(root, name) for name in names]
    # Names and sizes: reading every image only to fingerprint it would take as long as embedding it.
    return QuerySet("image", names, names, paths, None, sha256_json([names, file_sizes(paths)]))

"""Which columns of a table hold the images, captions, ids, splits and labels."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from xmrank.runtime.errors import ConfigError, DataError

if TYPE_CHECKING:
    from xmrank.datasets.reader_settings import ColumnsConfig

IMAGE = (
    "image", "path", "image_path", "filepath", "file_path", "file_name", "filename", "image_name", "image_file", "file",
    "img", "jpg", "jpeg", "png", "webp",
)  # fmt: skip
CAPTION = (
    "caption", "captions", "text", "texts", "sentence", "sentences", "raw", "comment", "description", "title",
)  # fmt: skip
NUMBERED = re.compile(r"(caption|text|sentence)s?[_ -]?\d+")
ID = ("image_id", "img_id", "id", "key")
CAPTION_ID = ("caption_id",)
LABELS = ("labels", "label")
FOLDER = ("filepath", "file_path")
FILE_IN_FOLDER = ("filename", "file_name")
"""Both in one table are folder and file, as in Karpathy's JSON. Alone, each is the whole path."""


@dataclass(frozen=True)
class TableColumns:
    """The names of a table's columns; None, or no names, for what the table does not have.

    Attributes:
        folder: column of the folder that the path under ``image`` starts from.
        caption_id: column of the captions' own ids.
        id_is_named: whether the user named the column of the ids; otherwise its name is only a usual one.
    """

    image: str | None
    captions: tuple[str, ...]
    split: str | None
    id: str | None
    labels: str | None
    folder: str | None = None
    caption_id: str | None = None
    id_is_named: bool = False

    def list_names(self) -> list[str]:
        """All of them except the images' own column, each once."""
        others = (self.folder, *self.captions, self.split, self.id, self.labels, self.caption_id)
        return list(dict.fromkeys(name for name in others if name))

    def with_image(self, name: str) -> TableColumns:
        """The same with another column of the images, whose paths are whole."""
        return replace(self, image=name, folder=None)

    def list_unused(self, header: Sequence[str]) -> list[str]:
        """The columns of a table that nothing is taken from."""
        return [name for name in header if name not in (self.image, *self.list_names())]


def find_columns(header: Sequence[str], named: ColumnsConfig, split_field: str, source: str) -> TableColumns:
    """The columns of a table: those that ``--columns.*`` names, else those with a usual name.

    Args:
        header: the names of all columns.
        named: what ``--columns.*`` names.
        split_field: column of the splits; only "split" may be missing.
        source: what messages call the table.

    Raises:
        ConfigError: a flag names a column that the table does not have.
        DataError: two columns have the same name.
    """
    # A row becomes a mapping from column to cell: of two columns with one name, one would be lost.
    if twice := [name for name in header if header.count(name) > 1]:
        raise DataError(f'{source}: two columns are named "{twice[0]}"')
    flags = [("columns.image", named.image), ("columns.id", named.id)]
    flags.append(("split-field", split_field if split_field != "split" else None))
    flags += [("columns.caption", name) for name in named.caption]
    for flag, name in flags:
        if name is not None and name not in header:
            raise ConfigError(f"--{flag} {name}: no such column in {source}; its columns: {', '.join(header)}")
    # Reversed, so that the first of several columns that differ only in capitals is taken.
    known = {name.strip().lower(): name for name in reversed(header)}
    image, folder = (named.image, None) if named.image else find_usual_path(known)
    return TableColumns(
        image,
        named.caption or find_usual_captions(known, header),
        split_field if split_field in header else known.get(split_field),
        named.id or find_usual(ID, known),
        find_usual(LABELS, known),
        folder,
        find_usual(CAPTION_ID, known),
        id_is_named=named.id is not None,
    )


def find_usual(names: Sequence[str], known: dict[str, str]) -> str | None:
    """The first of the usual names that the table has, as it is written there."""
    return next((known[name] for name in names if name in known), None)


def find_usual_path(known: dict[str, str]) -> tuple[str | None, str | None]:
    """The column of the images, and that of the folders that its paths start from."""
    image, folder, file = (find_usual(names, known) for names in (IMAGE, FOLDER, FILE_IN_FOLDER))
    return (file, folder) if folder and file and image in (folder, file) else (image, None)


def find_usual_captions(known: dict[str, str], header: Sequence[str]) -> tuple[str, ...]:
    """The numbered caption columns in the table's order, else the first that is named as usual."""
    # caption_0, caption_1, …: an image's captions side by side.
    numbered = tuple(name for name in header if NUMBERED.fullmatch(name.strip().lower()))
    single = find_usual(CAPTION, known)
    return numbered or ((single,) if single else ())


def require_columns(columns: TableColumns, header: Sequence[str], source: str) -> None:
    """Raise DataError for a table without a column for the images or the captions."""
    for what, column, names in (("image", columns.image, IMAGE), ("caption", columns.captions, CAPTION)):
        if not column:
            raise DataError(
                f"{source}: no column for the {what}s; expected one named {', '.join(names[:3])} or the like, or its "
                f"name in --columns.{what}; the columns: {', '.join(header)}"
            )

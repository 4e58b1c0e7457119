"""Which columns of a table hold the images, captions, ids, splits and labels."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from xmrank.config import EmbedConfig
from xmrank.runtime.errors import ConfigError, DataError

IMAGE = (
    "image", "path", "image_path", "filepath", "file_path", "file_name", "filename", "image_name", "image_file", "file",
    "img", "jpg", "jpeg", "png", "webp",
)  # fmt: skip
CAPTION = ("caption", "captions", "text", "texts", "sentence", "sentences", "raw", "comment", "description")
NUMBERED = re.compile(r"(caption|text|sentence)s?[_ -]?\d+")
ID = ("image_id", "img_id", "id", "key")
LABELS = ("labels", "label")


@dataclass(frozen=True)
class TableColumns:
    """The names of a table's columns; None, or no name, for what it has not."""

    image: str | None
    captions: tuple[str, ...]
    split: str | None
    id: str | None
    labels: str | None

    def named(self) -> list[str]:
        """All of them but the images'."""
        others = (*self.captions, self.split, self.id, self.labels)
        return list(dict.fromkeys(name for name in others if name))


def find_columns(header: Sequence[str], config: EmbedConfig, source: str) -> TableColumns:
    """The columns of a table with these names: those that ``--columns.*`` gives, else the usual ones.

    Raises:
        ConfigError: a name that a flag gives and the table has not.
        DataError: a name that stands twice.
    """
    if twice := [name for name in header if header.count(name) > 1]:
        raise DataError(f'{source}: two columns are named "{twice[0]}"')
    known = {name.strip().lower(): name for name in reversed(header)}
    flags = {"columns.image": config.columns.image, "columns.id": config.columns.id}
    flags["split-field"] = config.split_field if config.split_field != "split" else None
    given = [*flags.items(), *(("columns.caption", name) for name in config.columns.caption)]
    for flag, name in given:
        if name is not None and name not in header:
            raise ConfigError(f"--{flag} {name}: no such column in {source}; its columns: {', '.join(header)}")
    return TableColumns(
        config.columns.image or usual(IMAGE, known),
        config.columns.caption or usual_captions(known, header),
        config.split_field if config.split_field in header else None,
        config.columns.id or usual(ID, known),
        usual(LABELS, known),
    )


def usual(names: Sequence[str], known: dict[str, str]) -> str | None:
    """The first of the usual names that the table has, as it is written there."""
    return next((known[name] for name in names if name in known), None)


def usual_captions(known: dict[str, str], header: Sequence[str]) -> tuple[str, ...]:
    """The numbered caption columns in the table's order, else the first that is named as usual."""
    numbered = tuple(name for name in header if NUMBERED.fullmatch(name.strip().lower()))
    single = usual(CAPTION, known)
    return numbered or ((single,) if single else ())


def refuse_without(columns: TableColumns, header: Sequence[str], source: str) -> None:
    """Refuse a table without a column for the images or the captions."""
    for what, found, names in (("image", columns.image, IMAGE), ("caption", columns.captions, CAPTION)):
        if not found:
            raise DataError(
                f"{source}: no column for the {what}s; expected one named {', '.join(names[:3])} or the like, or its "
                f"name in --columns.{what}; the columns: {', '.join(header)}"
            )

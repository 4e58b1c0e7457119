r"""Tables in text form: values separated by commas, tabs, | or ;, and Flickr's captions, which have no header.

A line ends at \n or \r\n. A damaged row costs its own line and no other: a quotation mark that nothing closes does not
swallow the rows below it.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from xmrank.datasets.caption_texts import TEXT_LIMIT
from xmrank.datasets.path_tables import PathTable
from xmrank.datasets.uris import IMAGE_SUFFIXES, read_file, suffix_of
from xmrank.runtime.errors import DataError
from xmrank.runtime.files import HALF_CHARACTER

DELIMITERS = (",", "\t", "|", ";")
LITERAL_QUOTES = ("\t", "|")
"""Delimiters of tables in which quotation marks mostly mean nothing."""
NUMBERED = re.compile(r"(?P<image>[^\t]+)#\d+\t")
"""The beginning of every line of Flickr8k's and Flickr30k's own files: name.jpg#0 and a tab."""
TOKEN_HEADER = ("image", "caption_id", "caption")
SPACES = " \t"
"""Around a value, they are no part of it."""
MOST_LINES = 1000
"""Lines of one quoted value; more are no caption."""


@dataclass
class TextTable:
    """The rows of a table.

    Attributes:
        header: the names of the columns.
        rows: the values of every sound row, as many as there are columns.
        lines: the number of each row's line.
        damaged: number of the line and reason, of every other row.
    """

    header: list[str]
    rows: list[list[str]] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    damaged: list[tuple[int, str]] = field(default_factory=list)

    def by_columns(self, source: str) -> PathTable:
        """The values column by column.

        Raises:
            DataError: two columns have the same name: one of them would be lost.
        """
        if twice := [name for name in self.header if self.header.count(name) > 1]:
            raise DataError(f'{source}: two columns are named "{twice[0]}"')
        values = zip(*self.rows, strict=True) if self.rows else ((),) * len(self.header)
        return PathTable(source, "line", dict(zip(self.header, values, strict=True)), self.lines, self.damaged)

    def add(self, line: int, values: list[str]) -> None:
        """Add a row that is not empty, or record that it has another number of values than there are columns."""
        if not any(values):
            return  # an empty line, or nothing but delimiters
        if len(values) == len(self.header):
            self.rows.append(values)
            self.lines.append(line)
        else:
            # An unquoted comma in a caption, most often.
            expected = f"expected {len(self.header)}: {', '.join(self.header)}"
            self.damaged.append((line, f"{len(values)} values, {expected}"))


def read_text_table(address: str, source: str, flag: str = "--annotations") -> PathTable:
    """The table in a file.

    Args:
        address: local path or URI.
        source: what messages call it.
        flag: the one that named it.

    Raises:
        DataError: no such file, or one whose first line is not UTF-8.
    """
    content = read_file(address, flag)
    try:
        text, sound = content.decode("utf-8-sig"), True
    except UnicodeDecodeError:
        text, sound = content.decode("utf-8-sig", "surrogateescape"), False
    lines = text.split("\n")
    if HALF_CHARACTER.search(lines[0]):
        raise DataError(f"{source}, line 1: not UTF-8")
    if NUMBERED.match(lines[0]):
        return parse_token_lines(lines).by_columns(source)
    # The header decides: captions are full of commas, names of columns are not.
    delimiter = max(DELIMITERS, key=lines[0].count)
    table, evidence = parse_lines(lines, delimiter, quotes=True, sound=sound)
    # Tables with tabs or bars that a program has written may be quoted all the same.
    if delimiter in LITERAL_QUOTES and evidence <= 0:
        table, _ = parse_lines(lines, delimiter, quotes=False, sound=sound)
    return table.by_columns(source)


def parse_token_lines(lines: Sequence[str]) -> TextTable:
    """The captions in Flickr's own form, a line each: name.jpg#0, a tab, the caption."""
    table = TextTable(list(TOKEN_HEADER))
    for number, line in enumerate(lines, 1):
        match = NUMBERED.match(line)
        if HALF_CHARACTER.search(line):
            table.damaged.append((number, "not UTF-8"))
        elif match:
            table.add(number, [match["image"], line[: match.end() - 1], line[match.end() :].removesuffix("\r")])
        elif line.strip():
            table.damaged.append((number, "expected a name with # and a number, a tab, and a caption"))
    return table


def parse_lines(lines: Sequence[str], delimiter: str, *, quotes: bool, sound: bool) -> tuple[TextTable, int]:
    """The table in some lines, and how many of its rows speak for quotation marks that are no part of the values.

    Args:
        lines: of the file, the first with the names of the columns.
        delimiter: between the values.
        quotes: whether quotation marks around a value are not part of it.
        sound: whether all lines are UTF-8.
    """
    split = make_splitter(delimiter) if quotes else None
    before, behind = f" {delimiter}", f"{delimiter} "
    header = (split(lines[0].removesuffix("\r")) if split else None) or lines[0].split(delimiter)
    width = len(header)
    table, evidence, start = TextTable([name.strip() for name in header]), 0, 1
    while start < len(lines):
        line, end = lines[start].removesuffix("\r"), start + 1
        if '"' in line and split:
            values, end = split_record(lines, start, split, table)
            # For: a quoted first value (a path), a quoted delimiter, line end or quotation mark. Against: a stray mark.
            needed = end > start + 1 or '""' in line or line.count(delimiter) >= len(table.header)
            evidence += 1 if line[0] == '"' or (needed and values) else -1 if values is None else 0
        else:
            values = line.split(delimiter)
            # Most lines have no spaces around their values.
            if before in line or behind in line or "\t" in line or line[:1] == " " or line[-1:] == " ":
                values = [value.strip(SPACES) for value in values]
        if not sound and any(HALF_CHARACTER.search(part) for part in lines[start:end]):
            table.damaged.append((start + 1, "not UTF-8"))
        elif values is None:
            table.damaged.append((start + 1, 'a quotation mark that is not closed, or not doubled as ""'))
        elif len(values) == width and values[0]:
            table.rows.append(values)
            table.lines.append(start + 1)
        else:
            table.add(start + 1, values)
        start = end
    return table, evidence


def split_record(
    lines: Sequence[str], start: int, split: Callable[[str], list[str] | None], table: TextTable
) -> tuple[list[str] | None, int]:
    """The values of the row that begins at a line (None: damaged), and the first line behind it."""
    record = lines[start]
    if (values := split(record.removesuffix("\r"))) or record.count('"') % 2 == 0:
        return values, start + 1
    # A quoted value goes on in the next lines, up to one with an odd number of quotation marks.
    for end in range(start + 1, min(len(lines), start + MOST_LINES)):
        line = lines[end]
        if len(record) > TEXT_LIMIT or looks_like_row(line, table, split):
            break
        record += f"\n{line}"
        if line.count('"') % 2 and (values := split(record.removesuffix("\r"))):
            return values, end + 1
    return None, start + 1


def looks_like_row(line: str, table: TextTable, split: Callable[[str], list[str] | None]) -> bool:
    """Whether a line by itself is a row of the table: then the quotation mark above it was never closed."""
    values = split(line.removesuffix("\r"))
    if values is None or len(values) != len(table.header) or len(values) < 2:
        return False
    before = table.rows[-1] if table.rows else [""] * len(values)
    if has_image_suffix(before) or not table.rows:
        return has_image_suffix(values)
    # Names without a suffix: numbered as those of the row before are.
    pairs = zip(map(shape_of, values), map(shape_of, before), values, strict=True)
    return any(shape == other and shape != value for shape, other, value in pairs)


def has_image_suffix(values: Sequence[str]) -> bool:
    """Whether one of the values is the name of an image file."""
    return any(suffix_of(value.strip()) in IMAGE_SUFFIXES for value in values)


def shape_of(value: str) -> str:
    """A value with 0 for every number in it."""
    return re.sub(r"[0-9]+", "0", value.strip())


@lru_cache
def make_splitter(delimiter: str) -> Callable[[str], list[str] | None]:
    """A function that splits a row into its values; None for one whose quotation marks do not fit."""
    end = re.escape(delimiter)
    # A value in quotation marks, with "" for one of them, or one that does not begin with a quotation mark. Flickr30k's
    # own table has spaces around |, others have one behind each comma.
    quoted = rf' *"([^"]*(?:""[^"]*)*)"[ \t]*(?={end}|\Z)'
    plain = rf'( *(?:[^{end}" ][^{end}]*)?(?={end}|\Z))'
    pattern = re.compile(f"{quoted}|{plain}")

    def split(record: str) -> list[str] | None:
        values, position = [], 0
        while match := pattern.match(record, position):
            values.append(match[2].strip(SPACES) if match[1] is None else match[1].replace('""', '"'))
            position = match.end() + 1
            if position > len(record):
                return values
        return None

    return split

"""Class labels of images: from numbers and names in any field to the numbers of the table."""

from collections.abc import Sequence

from xmrank.datasets.caption_texts import is_missing
from xmrank.runtime.errors import DataError

LABEL_LIMIT = 2**31
DIGITS = 20
"""More of them are a name."""


def labels_of(value: object) -> list[int | str]:
    """The labels in a field: a number, a name, a list of them, or nothing. 3.0, as pandas writes it, is 3."""
    if isinstance(value, list | tuple):
        return [label for each in value for label in labels_of(each)]
    if is_missing(value) or value == "" or isinstance(value, dict):
        return []
    if isinstance(value, bool):
        return [int(value)]
    text = str(value).strip()
    # Numbers in text form, as csv has them, are numbers. pandas writes whole ones as 3.0 where some are missing.
    number = text.removesuffix(".0")
    return [int(number)] if number.removeprefix("-").isdecimal() and len(number) <= DIGITS else [text]


def number_labels(labels: Sequence[list[int | str]], ids: Sequence[str], source: str) -> list[list[int]]:
    """The images' labels as numbers; if any is a name, all are names, numbered in alphabetical order.

    Raises:
        DataError: a number that does not fit into 32 bits.
    """
    if any(isinstance(label, str) for row in labels for label in row):
        names = sorted({str(label) for row in labels for label in row})
        numbers = {name: number for number, name in enumerate(names)}
        return [[numbers[str(label)] for label in row] for row in labels]
    # The tables hold 32-bit integers.
    for image_id, row in zip(ids, labels, strict=True):
        if any(not -LABEL_LIMIT <= int(label) < LABEL_LIMIT for label in row):
            raise DataError(f'{source}: image "{image_id}": label {row[0]}, expected a 32-bit number')
    return [[int(label) for label in row] for row in labels]

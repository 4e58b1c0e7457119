"""Reading TREC qrels and run files into dictionaries."""

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

from xmrank.runtime.errors import DataError
from xmrank.runtime.files import refuse_special_file
from xmrank.runtime.storage import local_copy

Qrels = dict[str, dict[str, float]]
"""Query id → item id → grade."""
Run = dict[str, dict[str, float]]
"""Query id → item id → score, higher is better."""
MAX_EXPANSION = 100
"""Bytes of an unpacked file for each byte of a packed one, at most."""
FREE_BYTES = 1 << 24
"""Bytes that any packed file may unpack to."""


def read_qrels(path: Path, *, flag: str = "") -> Qrels:
    """The relevance judgements of a qrels file.

    Args:
        path: lines ``query 0 item grade``, ids percent-encoded as ``write_qrels`` does; .gz is compressed.
        flag: the option that named the file, for messages.

    Raises:
        DataError: no such file, or a line of another form; names it.
    """
    qrels: Qrels = {}
    for query, item, grade in _read_fields(path, "QUERY 0 ITEM GRADE", (0, 2, 3), flag):
        qrels.setdefault(query, {})[item] = grade
    return qrels


def read_run(path: Path) -> Run:
    """The rankings of a run file; the score says the order, the rank is not read, as TREC's own tools do.

    Args:
        path: lines ``query Q0 item rank score tag``, ids percent-encoded as ``write_run`` does; .gz is compressed.

    Raises:
        DataError: no such file, or a line of another form; names it.
    """
    run: Run = {}
    for query, item, score in _read_fields(path, "QUERY Q0 ITEM RANK SCORE TAG", (0, 2, 4), ""):
        run.setdefault(query, {})[item] = score
    return run


def _read_content(path: Path) -> bytes:
    """The bytes of a file, unpacked if its name says that it is packed.

    Raises:
        ValueError: it would need far more memory than a file of its size.
    """
    if path.suffix != ".gz":
        return path.read_bytes()
    # A file of zeros is packed to a thousandth; TREC files, to a tenth.
    limit = max(FREE_BYTES, MAX_EXPANSION * path.stat().st_size)
    with gzip.open(local_copy(path)) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise ValueError(f"unpacks to more than {limit} bytes, too many for a file of {path.stat().st_size}")
    return content


def _read_fields(path: Path, form: str, columns: tuple[int, int, int], flag: str) -> Iterator[tuple[str, str, float]]:
    """Query, item and number of every line that is not blank."""
    suffix = f" ({flag})" if flag else ""
    refuse_special_file(path, flag)
    try:
        text = _read_content(path).decode()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file{suffix}") from None
    except (OSError, ValueError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: not a TREC file: {error}{suffix}") from None
    # A line with more or fewer fields is refused like one without a number.
    fields = len(form.split())
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words:
            continue
        query, item, value = (words[column] if len(words) == fields else "" for column in columns)
        try:
            yield unquote(query), unquote(item), float(value)
        except ValueError:
            raise DataError(f"{path}: line {number}: {line[:80]!r}, expected {form}{suffix}") from None

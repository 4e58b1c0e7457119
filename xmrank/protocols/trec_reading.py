"""Reading TREC qrels and run files into dictionaries."""

import gzip
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

from xmrank.runtime.errors import DataError

Qrels = dict[str, dict[str, float]]
"""Query id → item id → grade."""
Run = dict[str, dict[str, float]]
"""Query id → item id → score, higher is better."""


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


def _read_fields(path: Path, form: str, columns: tuple[int, int, int], flag: str) -> Iterator[tuple[str, str, float]]:
    """Query, item and number of every line that is not blank."""
    suffix = f" ({flag})" if flag else ""
    try:
        content = path.read_bytes()
        text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file{suffix}") from None
    except (OSError, ValueError, EOFError) as error:
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

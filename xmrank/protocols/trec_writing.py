"""Writing rankings as TREC files, which evaluation tools read.

Lines are ``qid Q0 docid rank score tag`` in run files and ``qid 0 docid relevance`` in qrels. Fields are separated by
spaces, so ids are percent-encoded: a blank, a control character, a quotation mark, a percent sign and everything
outside ASCII become the %XX of their UTF-8 bytes, and ``urllib.parse.unquote`` gives the id back. A query with several
lists occurs once for each of them; from the second on, ``|2``, ``|3``, … follows its id (a ``|`` of an id is %7C).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pyarrow as pa
from pyarrow import csv

from xmrank.config.evaluate import TrecFiles
from xmrank.runtime.files import atomic_path

SAFE = "!#$&'()*+,-./:;<=>?@[\\]^_`{}~"
SUFFIX = {"gzip": ".trec.gz", "plain": ".trec"}
"""ranx recognises the format by the end of the name, ir_measures the compression."""
FORMAT = csv.WriteOptions(include_header=False, delimiter=" ", quoting_style="none")
LINES = 1 << 20
"""Lines written at once."""
LEVEL = 4
"""Of the compression: six times as fast as Arrow's default, 9, for files that are 6 % larger."""


def trec_path(folder: Path, protocol: str, name: str, kind: TrecFiles) -> Path:
    """The path of a file of one direction: each protocol has a folder with its qrels and runs."""
    return folder / protocol / f"{name}{SUFFIX[kind]}"


def encode_id(identifier: str) -> str:
    """An id in percent-encoding."""
    return quote(identifier, safe=SAFE)


def query_names(ids: pa.Array, queries: np.ndarray) -> pa.Array:
    """The encoded ids of the query rows, all different, [lists]."""
    times: dict[int, int] = {}
    names = []
    for row in queries.tolist():
        # From the second list of a query on, its number follows the id.
        times[row] = times.get(row, 0) + 1
        names.append(encode_id(ids[row].as_py()) + (f"|{times[row]}" if times[row] > 1 else ""))
    return pa.array(names, pa.string())


def write_run(path: Path, names: pa.Array, lengths: np.ndarray, rankings: pa.Table) -> None:
    """Write one method's rankings on one protocol.

    Args:
        path: the file; its name without the endings is the tag.
        names: of the queries, [lists].
        lengths: of the lists, [lists].
        rankings: candidate_id (a dictionary), rank and score, list by list.
    """
    owner = np.repeat(np.arange(len(names)), lengths)
    tag = path.name.split(".trec")[0]
    with trec_file(path) as write:
        # In parts: the text of millions of lines would not fit into memory.
        for start in range(0, len(owner), LINES):
            part = rankings.slice(start, LINES).combine_chunks()
            count = len(part)
            columns = {
                "qid": names.take(pa.array(owner[start : start + count])),
                "Q0": pa.repeat("Q0", count),
                "docid": encode_column(part["candidate_id"]),
                "rank": part["rank"],
                "score": part["score"],
                "tag": pa.repeat(encode_id(tag), count),
            }
            write(pa.table(columns))


def write_qrels(path: Path, names: pa.Array, pairs: tuple[np.ndarray, np.ndarray], ids: pa.Array) -> None:
    """Write the relevant items of one protocol, all with relevance 1.

    Args:
        path: the file.
        names: of the queries, [lists].
        pairs: the list's number, and the item's row, [pairs] each.
        ids: of all rows of the items' side.
    """
    lists, rows = pairs
    # Each different id is encoded once.
    known, index = np.unique(rows, return_inverse=True)
    items = pa.array([encode_id(name) for name in ids.take(pa.array(known)).to_pylist()], pa.string())
    zeros, ones = (pa.array(np.full(len(rows), value)) for value in (0, 1))
    columns = {"qid": names.take(pa.array(lists)), "0": zeros, "docid": items.take(pa.array(index)), "relevance": ones}
    with trec_file(path) as write:
        write(pa.table(columns))


def encode_column(column: pa.ChunkedArray) -> pa.Array:
    """The encoded ids of a dictionary column; each different id is encoded once."""
    # The chunks of a column may have different dictionaries.
    whole = column.unify_dictionaries().combine_chunks()
    whole = whole.chunk(0) if isinstance(whole, pa.ChunkedArray) else whole
    words = pa.array([encode_id(word) for word in whole.dictionary.to_pylist()], pa.string())
    return words.take(whole.indices)


@contextmanager
def trec_file(path: Path) -> Iterator[Callable[[pa.Table], None]]:
    """A file, compressed where its name ends in .gz; what is yielded writes the rows of a table to it."""
    # Arrow has a zlib of its own: other builds of zlib give other bytes, and so other fingerprints.
    codec = pa.Codec("gzip", compression_level=LEVEL) if path.suffix == ".gz" else None
    with atomic_path(path) as temporary, pa.OSFile(str(temporary), "wb") as file:

        def write(table: pa.Table) -> None:
            lines = pa.BufferOutputStream()
            csv.write_csv(table, lines, FORMAT)
            # Compressed parts one after another are one gzip file.
            file.write(codec.compress(lines.getvalue()) if codec else lines.getvalue())

        yield write

"""Queries of every kind of file, and what is refused in one line."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from xmrank.datasets.locations import read_bytes
from xmrank.rank.queries import read_queries
from xmrank.runtime.errors import ConfigError, DataError


def jpeg():
    content = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(content, "JPEG")
    return content.getvalue()


@pytest.fixture
def parquet(tmp_path):
    """Writes a table and returns its path."""

    def write(**columns):
        path = tmp_path / "queries.parquet"
        pq.write_table(pa.table(columns), path)
        return path

    return write


def test_a_line_is_a_caption_and_its_number_the_id(tmp_path):
    path = tmp_path / "queries.txt"
    path.write_bytes("\ufeffa dog\r\n\n  two cats \n".encode())
    queries = read_queries(path, None, None)
    assert (queries.kind, queries.ids, queries.items) == ("text", ["1", "3"], ["a dog", "two cats"])
    path.write_text("a dog\n\ntwo cats")
    assert read_queries(path, None, None).fingerprint == queries.fingerprint


def test_a_folder_gives_its_images_in_order_and_nothing_else(tmp_path):
    for name in ("b/2.png", "a.JPG", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(jpeg())
    queries = read_queries(tmp_path, None, None)
    assert (queries.kind, queries.ids) == ("image", ["a.JPG", "b/2.png"])
    assert queries.items == [str(tmp_path / "a.JPG"), str(tmp_path / "b/2.png")]


@pytest.mark.parametrize(
    ("columns", "column", "direction", "kind"),
    [
        ({"caption": ["a", "b"]}, None, None, "text"),
        ({"Text": ["a", "b"], "likes": [1, 2]}, None, None, "text"),
        ({"question": ["a", "b"]}, "question", None, "text"),
        ({"image": ["a.jpg", "b.jpg"]}, None, None, "image"),
        ({"picture": ["a.jpg", "b.jpg"]}, "picture", "i2t", "image"),
        ({"image": ["a.jpg", "b.jpg"], "caption": ["a", "b"]}, None, "t2i", "text"),
        ({"image": ["a.jpg", "b.jpg"], "caption": ["a", "b"]}, None, "i2t", "image"),
        ({"embedding": [[1.0, 0.0], [0.0, 2.0]]}, None, None, "embedding"),
        ({"v": [[1.0, 0.0], [0.0, 2.0]]}, "v", "i2t", "embedding"),
    ],
)
def test_the_column_of_a_table(parquet, columns, column, direction, kind):
    queries = read_queries(parquet(**columns), column, direction)
    assert (queries.kind, queries.ids, len(queries)) == (kind, ["0", "1"], 2)


def test_ids_come_from_their_column(parquet):
    assert read_queries(parquet(caption=["a", "b"], query_id=[7, 9]), None, None).ids == ["7", "9"]


def test_paths_start_at_the_tables_folder(parquet, tmp_path):
    assert read_queries(parquet(image=["x/a.jpg"]), None, None).items == [str(tmp_path / "x/a.jpg")]


@pytest.mark.parametrize("cell", [lambda b: b, lambda b: {"bytes": b, "path": "a.jpg"}])
def test_images_inside_of_the_table(parquet, cell):
    queries = read_queries(parquet(image=[cell(jpeg()), cell(b"broken")]), None, None)
    assert queries.kind == "image"
    assert [read_bytes(address) for address in queries.items] == [jpeg(), b"broken"]


def test_embeddings_get_unit_length(parquet):
    queries = read_queries(parquet(embedding=[[3.0, 4.0], [0.0, 2.0]]), None, None)
    assert queries.embeddings.dtype == np.float32
    assert queries.embeddings == pytest.approx(np.array([[0.6, 0.8], [0.0, 1.0]]))


@pytest.mark.parametrize(
    ("columns", "column", "message"),
    [
        ({"caption": ["a"]}, "text", "--column text: no such column in queries.parquet; its columns: caption"),
        ({"a": ["a"]}, None, "--column: give the column of the queries in queries.parquet, none has a usual name"),
        ({"image": ["a"], "text": ["a"]}, None, "several fit: text, image"),
        ({"caption": pa.array([], pa.string())}, None, "queries.parquet: no queries in it"),
        ({"caption": ["a", None]}, None, "row 1: nothing under caption"),
        ({"image": ["../a.jpg"]}, None, "image ../a.jpg: lies outside of the folder of the file"),
        ({"caption": ["a", "b"], "id": [1, 1]}, None, 'the id "1" occurs more than once'),
        ({"embedding": [[1.0], [1.0, 2.0]]}, None, "embedding: expected lists of numbers, all of one length"),
        ({"embedding": [[1.0, 2.0], [0.0, 0.0]]}, None, "embedding: row 1 holds only zeros"),
        ({"embedding": [[1.0, float("nan")]]}, None, "embedding: row 0 holds NaN or infinity"),
    ],
)
def test_a_table_without_usable_queries(parquet, columns, column, message):
    with pytest.raises((ConfigError, DataError)) as failure:
        read_queries(parquet(**columns), column, None)
    assert message in str(failure.value)
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.txt", None, "missing.txt: no such file or folder (--queries)"),
        ("empty.txt", b" \n\n", "empty.txt: no queries in it; expected one caption a line (--queries)"),
        ("binary.txt", b"\xff\xfe\x00", "binary.txt: not text in UTF-8"),
        ("one.jpg", b"", "one.jpg: an image; expected a folder of images (--queries)"),
        ("broken.parquet", b"PAR1", "broken.parquet: not readable as parquet"),
    ],
)
def test_a_file_without_usable_queries(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as failure:
        read_queries(tmp_path / name, None, None)
    assert message in str(failure.value)


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"no images in it \(--queries\)"):
        read_queries(tmp_path, None, None)


def test_only_a_table_has_columns(tmp_path):
    (tmp_path / "queries.txt").write_text("a dog")
    with pytest.raises(ConfigError, match="--column text: only a parquet file has columns"):
        read_queries(tmp_path / "queries.txt", "text", None)

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


@pytest.mark.parametrize(
    ("columns", "id_column", "queries"),
    [
        # A list is several captions, as for embedding; so are several rows of one image.
        ({"caption": [["A dog", "A red dog"], ["A cat"]]}, None, {"0#0": "A dog", "0#1": "A red dog", "1": "A cat"}),
        ({"caption": [[{"raw": "A dog"}]]}, None, {"0": "A dog"}),
        (
            {"caption": ["['A dog', 'A cat']", "[sic] a dog"]},
            None,
            {"0#0": "A dog", "0#1": "A cat", "1": "[sic] a dog"},
        ),
        ({"image_id": ["a", "a", "b"], "caption": ["x", "y", "z"]}, None, {"a#0": "x", "a#1": "y", "b": "z"}),
        ({"image_id": ["a", "a"], "caption": ["x", "y"], "mine": [7, 8]}, "mine", {"7": "x", "8": "y"}),
        ({"caption_id": [3, 4], "image_id": ["a", "a"], "caption": ["x", "y"]}, None, {"3": "x", "4": "y"}),
        ({"caption_0": ["x", "u"], "caption_1": ["y", ""], "id": ["a", "b"]}, None, {"a#0": "x", "a#1": "y", "b": "u"}),
    ],
)
def test_captions_are_read_as_for_embedding(parquet, columns, id_column, queries):
    read = read_queries(parquet(**columns), None, "t2i", id_column)
    assert dict(zip(read.ids, read.items, strict=True)) == queries


@pytest.mark.parametrize(
    ("name", "text", "queries"),
    [
        ("q.csv", "image,caption\n1.jpg,A dog\n", {"2": "A dog"}),
        ("captions.txt", 'image,caption\n1.jpg,"A dog, running"\n', {"2": "A dog, running"}),  # Kaggle's Flickr8k
        ("results.csv", 'image_name| comment_number| comment\n1.jpg| 0| A "red" dog\n', {"2": 'A "red" dog'}),
        ("q.tsv", "query_id\tcaption\nq1\tA dog, running\n", {"q1": "A dog, running"}),
        ("q.token", "1.jpg#0\tA dog\n1.jpg#1\tA red dog\n", {"1.jpg#0": "A dog", "1.jpg#1": "A red dog"}),
        ("Flickr8k.token.txt", "1.jpg#0\tA dog\n", {"1.jpg#0": "A dog"}),
        ("q.json", '[{"caption": ["A dog", "A cat"], "id": 7}]', {"7#0": "A dog", "7#1": "A cat"}),
        ("q.jsonl", '{"text": "A dog"}\n', {"1": "A dog"}),
        ("q.txt", "A dog, running\nA cat\u2028asleep", {"1": "A dog, running", "2": "A cat\u2028asleep"}),
        ("one-word.txt", "caption\nA cat", {"1": "caption", "2": "A cat"}),
    ],
)
def test_tables_in_text_form_are_read_by_their_columns(tmp_path, name, text, queries):
    (tmp_path / name).write_text(text)
    read = read_queries(tmp_path / name, None, "t2i")
    assert dict(zip(read.ids, read.items, strict=True)) == queries


def test_what_is_no_query_is_listed_with_its_reason(tmp_path):
    (tmp_path / "q.csv").write_text("id,caption\n1,A dog\n2,\n3,A,cat\n4,A cow\n")
    read = read_queries(tmp_path / "q.csv", None, None)
    assert dict(zip(read.ids, read.items, strict=True)) == {"1": "A dog", "4": "A cow"}
    assert read.left_out == {"2": "the caption is empty", "line 4": "3 values, expected 2: id, caption"}


def test_rows_of_one_image_are_one_query(tmp_path):
    (tmp_path / "q.csv").write_text(f"image,caption\na/1.jpg,x\na/1.jpg,y\n{tmp_path}/2.jpg,z\n,u\n")
    read = read_queries(tmp_path / "q.csv", None, "i2t")
    assert (read.ids, read.shown) == (["2", "4"], ["a/1.jpg", "2.jpg"])
    assert read.items == [str(tmp_path / "a/1.jpg"), str(tmp_path / "2.jpg")]
    assert read.left_out == {"5": "nothing under image"}


def test_other_ids_are_other_queries(parquet):
    path = parquet(image=["a.jpg"], one=["x"], two=["y"])
    one, two = (read_queries(path, None, None, column) for column in ("one", "two"))
    assert (one.ids, two.ids) == (["x"], ["y"]) and one.fingerprint != two.fingerprint


def test_a_column_of_ids_must_be_there(parquet):
    with pytest.raises(ConfigError, match=r"--id-column name: no such column in queries.parquet; its columns: caption"):
        read_queries(parquet(caption=["a"]), None, None, "name")


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
        ({"caption": ["", None]}, None, "queries.parquet: no queries in it: 0: the caption is empty (--queries)"),
        ({"embedding": [[1.0], None]}, None, "row 1: nothing under embedding"),
        ({"image": ["../a.jpg"]}, None, "image ../a.jpg: lies outside of the folder of the file"),
        ({"caption": ["a", "b"], "query_id": [1, 1]}, None, 'the id "1" under query_id occurs more than once'),
        ({"image": ["a.jpg", "b.jpg"], "id": [1, 1]}, None, 'the id "1" occurs more than once'),
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
    with pytest.raises(ConfigError, match="--column text: only a table has columns"):
        read_queries(tmp_path / "queries.txt", "text", None)

"""Locations that anybody may have written: bytes, or one line."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from xmrank.datasets.locations import parse_span, read_bytes
from xmrank.runtime.errors import DataError


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("root")
    columns = {
        "image": pa.array([b"a", None]),
        "a/b": pa.array([{"bytes": b"c"}, {"bytes": None}]),
        "same": pa.array([b"d", b"d"]).dictionary_encode(),
        "text": pa.array(["a", "b"]),
        "no_bytes": pa.array([{"path": "a"}, {"path": "b"}]),
        "number": pa.array([1, 2]),
    }
    pq.write_table(pa.table(columns), folder / "d.parquet")
    (folder / "d.tar").write_bytes(b"0123456789")
    return folder


@pytest.mark.parametrize(
    ("location", "content"),
    [
        ("d.parquet::image/0", b"a"),
        ("d.parquet::image/1", b""),
        ("d.parquet::image/2", b""),
        (f"d.parquet::image/{'9' * 18}", b""),
        ("d.parquet::a/b/0", b"c"),
        ("d.parquet::same/1", b"d"),
        ("d.tar::a@b@2+3", b"234"),
        ("d.tar::x@8+9999999999999999", b"89"),
        (f"d.tar::x@{'9' * 18}+1", b""),
    ],
)
def test_locations_lead_to_bytes_or_to_none(root, location, content):
    assert read_bytes(str(root / location)) == content


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("d.parquet::nocol/0", "d.parquet has no column 'nocol'"),
        ("d.parquet::text/0", "d.parquet: 'text' has string, expected bytes"),
        ("d.parquet::number/0", "d.parquet: 'number' has int64, expected bytes"),
        ("d.parquet::no_bytes/0", "d.parquet: 'no_bytes' has struct<path: string>, expected bytes"),
        ("d.parquet::image/-99999", "expected COLUMN/ROW"),
        ("d.parquet::image", "expected COLUMN/ROW"),
        ("d.parquet::image/٣", "expected COLUMN/ROW"),
        (f"d.parquet::image/{1 << 63}", "expected COLUMN/ROW"),
        (f"d.tar::x@{1 << 63}+1", r"expected NAME@OFFSET\+SIZE"),
        ("d.tar::x@-1+1", r"expected NAME@OFFSET\+SIZE"),
        ("d.tar::x", r"expected NAME@OFFSET\+SIZE"),
    ],
)
def test_locations_that_no_data_set_has_are_one_line(root, location, message):
    with pytest.raises(DataError, match=message) as caught:
        read_bytes(str(root / location))
    assert "\n" not in str(caught.value)


def test_a_span_is_at_the_end_of_its_member():
    assert parse_span("x@1+2@1536+20480") == (1536, 20480)

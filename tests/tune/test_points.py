"""The results of a search's points on disk."""

import json

import pytest

from xmrank.runtime.errors import DataError
from xmrank.tune.points import SearchFolder
from xmrank.tune.search_target import PointOutcome, SearchGroup, SearchPoint

GROUP = SearchGroup("listnet t2i", {"loss": "listnet", "direction": "t2i"}, {})
POINT = SearchPoint(GROUP, {"learning_rate": 0.1}, "listnet-t2i-0123456789")


@pytest.mark.parametrize("change", [{"value": "0.5"}, {"value": True}, {"settings": None}, {"labels": {}}])
def test_a_damaged_result_is_one_line(change, tmp_path):
    search = SearchFolder(tmp_path)
    written = search.write_outcome(POINT, PointOutcome(0.5, 2, 3))
    assert search.read_result(POINT) == written
    path = search.folder_of(POINT) / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    for read in (lambda: search.read_result(POINT), lambda: search.list_results(GROUP)):
        with pytest.raises(DataError, match=r"result.json: damaged: not the result of a point"):
            read()

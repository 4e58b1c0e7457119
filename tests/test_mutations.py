"""A few damaged inputs of every kind: refused in one line, or read, in bounded time and memory.

``python -m mutations`` (with tests on the path) runs many more.
"""

import pytest
from mutations.all_inputs import INPUTS
from mutations.mutated_case import Workbench

CASES = 12
QUICK = [name for name, kind in INPUTS.items() if kind.read_many is None]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """What a user's runs remember is kept apart."""
    monkeypatch.setenv("XMRANK_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.mark.parametrize("name", QUICK)
def test_damaged_inputs_are_refused_or_read(name, tmp_path):
    results = list(Workbench(INPUTS[name], tmp_path / "case").run_many(0, range(CASES)))
    assert [result for result in results if result.is_fault] == []

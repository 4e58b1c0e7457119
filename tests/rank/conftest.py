"""Rankings in the test's own process."""

import pytest

from xmrank.rank import ranking
from xmrank.rank.query_ranker import QueryRanker


@pytest.fixture
def here(monkeypatch):
    """Makes batches of 32 be ranked in this process; the list names those that were."""
    done = []

    def rank_batches(left, job, workers):
        ranker = QueryRanker(job)
        for batch in left:
            done.append(batch.start)
            yield {"queries": len(batch.ids), "broken": ranker.rank_batch(batch)}

    monkeypatch.setattr(ranking, "rank_batches", rank_batches)
    monkeypatch.setattr(ranking, "BATCH", 32)
    return done

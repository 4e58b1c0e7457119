"""Stages whose directories are in an object store end as on a disk; here in one process, without a cluster."""

import threading
from dataclasses import asdict, replace

import pytest
from embedding_samples import configured, make_pictures
from pipeline import TRAINING

from xmrank.config import EvaluateConfig, MineConfig, RankConfig, ReportConfig
from xmrank.embed.ray import ShardEncoder
from xmrank.embed.stage import embed
from xmrank.embed.store import EmbeddingStore
from xmrank.evaluate.stage import evaluate
from xmrank.mine.stage import mine
from xmrank.rank.query_ranker import QueryRanker
from xmrank.rank.ranker_loading import load_ranker
from xmrank.rank.stage import rank
from xmrank.report.stage import report
from xmrank.runtime import object_stores
from xmrank.runtime.paths import resolve
from xmrank.runtime.storage import list_files
from xmrank.runtime.verification import verify_tree
from xmrank.train import stack_states
from xmrank.train.stage import train


@pytest.fixture
def encoded(monkeypatch):
    """Shards are encoded in this process; the numbers of those that were, and how many may be."""
    done, limit = [], [1000]

    def here(shards, settings, preparer, work, workers):
        encoder = ShardEncoder(settings, preparer, work)
        for shard in shards:
            if len(done) == limit[0]:
                raise KeyboardInterrupt
            done.append((shard.kind, shard.number))
            yield encoder(asdict(shard))

    monkeypatch.setattr("xmrank.embed.encoding.encode_shards", here)
    return done, limit


def rank_here(left, job, workers):
    """Batches of queries are ranked in this process."""
    ranker = QueryRanker(job)
    for batch in left:
        yield {"queries": len(batch.ids), "broken": ranker.rank_batch(batch)}


@pytest.fixture
def one_process(monkeypatch, in_process, encoded, track_at, tmp_path):
    """No stage starts a cluster, and attempts follow each other soon."""
    monkeypatch.setattr("xmrank.rank.ranking.rank_batches", rank_here)
    for module in ("xmrank.protocols.evaluation_run", "xmrank.evaluate.all_methods"):
        monkeypatch.setattr(f"{module}.run_tasks", lambda function, tasks: map(function, tasks))
    monkeypatch.setattr(object_stores, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setenv("XMRANK_CACHE", str(tmp_path / "cache"))
    track_at(tmp_path)
    make_pictures(tmp_path, images=40)


def run_stages(folder, root, before=lambda: None):
    """All stages, from pictures to a report; the fingerprint of each."""
    embeddings, lists, rankers, evaluation = (root / n for n in ("embeddings", "lists", "rankers", "evaluation"))
    mining = MineConfig(embeddings=embeddings, output=lists, random_candidates=6, hard_negatives=3)
    inputs = {"embeddings": embeddings, "lists": lists}
    training = replace(TRAINING, **inputs, output=rankers, losses=("listnet",), seeds=(0,), workers=1)
    evaluating = EvaluateConfig(**inputs, rankers=rankers, output=evaluation, top_n=(5,))
    reporting = ReportConfig(
        embeddings=embeddings, rankers=rankers, evaluation=evaluation, output=root / "report", draws=100
    )
    (folder / "queries.txt").write_text("a red circle\na blue square\n")
    ranking = RankConfig(folder / "queries.txt", embeddings=embeddings, ranker=str(rankers), output=root / "ranking")
    stages = {
        "embed": lambda: embed(configured(folder, output=embeddings)),
        "mine": lambda: mine(mining),
        "train": lambda: train(training),
        "evaluate": lambda: evaluate(evaluating),
        "report": lambda: report(reporting),
        "rank": lambda: rank(ranking),
    }
    fingerprints = {}
    for name, stage in stages.items():
        before()
        fingerprints[name] = stage().fingerprint
    return fingerprints


@pytest.mark.usefixtures("one_process")
def test_stages_in_a_store_have_the_fingerprints_of_those_on_a_disk(tmp_path, bucket, object_store):
    root = resolve(f"{bucket}/run")

    def overload():
        object_store.failures = 8

    there = run_stages(tmp_path, root, before=overload)
    assert there == run_stages(tmp_path, tmp_path / "run")
    # A second run finds everything done, and writes nothing but the locks that it needs not.
    object_store.requests.clear()
    assert run_stages(tmp_path, root) == there
    written = [request for request in object_store.requests if request.startswith("PUT")]
    assert written == []

    names = {str(path.relative_to(root)) for path in list_files(root)}
    local = {str(path.relative_to(tmp_path / "run")) for path in list_files(tmp_path / "run")}
    assert names == local and verify_tree(root)
    assert len(EmbeddingStore.open(str(root / "embeddings")).images) == 40
    assert load_ranker(str(root / "rankers"), direction="i2t").dimensions > 0


@pytest.mark.usefixtures("one_process")
def test_an_interrupted_run_goes_on_and_an_outage_is_waited_for(tmp_path, bucket, object_store, encoded, monkeypatch):
    root, (done, limit) = resolve(f"{bucket}/run"), encoded
    limit[0] = 3
    with pytest.raises(KeyboardInterrupt):
        run_stages(tmp_path, root)
    first = list(done)
    limit[0] = 1000

    save, stops = stack_states.SavedState.save, []

    def save_without_store(*arguments):
        # The store goes in the middle of the training, and comes back.
        if not stops:
            stops.append(object_store.stop())
            threading.Timer(2, object_store.start).start()
        save(*arguments)

    monkeypatch.setattr(stack_states.SavedState, "save", save_without_store)
    there = run_stages(tmp_path, root)
    assert len(first) == 3 and stops and sorted(done) == sorted(set(done))
    assert there == run_stages(tmp_path, tmp_path / "run")

"""Ranking of new queries: the figures by hand, resumed batch by batch, refused inputs."""

import json
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from xmrank.cli import run
from xmrank.config import RankConfig, RegisterConfig
from xmrank.embed.model_source import find_model
from xmrank.rank import checks, query_ranker, ranking, ranking_job
from xmrank.rank import stage as stage
from xmrank.rank.ranking_job import QueryBatch
from xmrank.rank.stage import rank
from xmrank.rank.trained_rankers import best_rankers
from xmrank.register.stage import register
from xmrank.runtime.errors import ConfigError, DataError
from xmrank.runtime.files import sha256_file
from xmrank.runtime.manifest import read_manifest
from xmrank.train.checkpoint import read_ranker

pytestmark = pytest.mark.ray
TOP = 15


@pytest.fixture(scope="module")
def queries(trained, tmp_path_factory):
    """The captions of test as new queries, by their embeddings, and how they are ranked."""
    folder = tmp_path_factory.mktemp("queries")
    rows = np.flatnonzero(np.isin(trained.store.image_of_caption, trained.store.image_rows("test")))
    ids = trained.store.captions["caption_id"].take(rows)
    embeddings = pa.array(list(np.array(trained.store.text[rows], np.float32)))
    pq.write_table(pa.table({"caption_id": ids, "embedding": embeddings}), folder / "queries.parquet")
    config = RankConfig(
        queries=folder / "queries.parquet",
        embeddings=trained.config.embeddings,
        split="test",
        ranker=str(trained.config.output),
        direction="t2i",
        top_n=TOP,
        output=folder / "ranking",
    )
    return SimpleNamespace(rows=rows, ids=ids.to_pylist(), config=config, folder=folder)


@pytest.fixture(scope="module")
def ranked(queries):
    """Their results, by actors on the cluster."""
    manifest = rank(queries.config)
    return SimpleNamespace(manifest=manifest, table=pd.read_parquet(queries.config.output / "results.parquet"))


def test_the_results_by_numpy_and_the_rankers_own_forward_pass(trained, queries, ranked):
    gallery = trained.store.image_rows("test")
    ranker, _ = read_ranker(best_rankers(trained.config.output)["t2i"].directory)
    images = np.array(trained.store.images["image_id"].to_pylist())[gallery]
    for name, results in list(ranked.table.groupby("query_id", sort=False))[:25]:
        query = np.array(trained.store.text[queries.rows[queries.ids.index(name)]], np.float32)
        similarity = np.array(trained.store.image[gallery], np.float32) @ query
        first = np.argsort(-similarity)[:TOP]
        with torch.no_grad():
            candidates = torch.from_numpy(np.array(trained.store.image[gallery[first]]))[None]
            scores = ranker(torch.from_numpy(query)[None], candidates, torch.from_numpy(similarity[first])[None])[0]
        order = np.argsort(-scores.numpy())
        assert results["candidate_id"].tolist() == images[first[order]].tolist()
        assert results["first_rank"].tolist() == (order + 1).tolist()
        assert results["rank"].tolist() == list(range(1, TOP + 1))
        assert results["score"].to_numpy() == pytest.approx(scores.numpy()[order], abs=1e-5)
        assert results["similarity"].to_numpy() == pytest.approx(similarity[first[order]], abs=1e-6)


def test_every_query_has_its_results_in_order(queries, ranked):
    assert ranked.table["query_id"].drop_duplicates().tolist() == queries.ids
    assert len(ranked.table) == len(queries.ids) * TOP == ranked.manifest.counts["rows"]
    assert ranked.table["query"].isna().all()  # of an embedding there is nothing to show
    assert ranked.manifest.counts | {"rows": 0} == {"queries": 100, "gallery": 20, "top_n": TOP, "rows": 0}
    assert set(ranked.manifest.settings["milliseconds_per_query"]) == {"embed", "search", "rank"}


def test_the_files_of_a_ranking(queries, ranked):
    assert sorted(path.name for path in queries.config.output.iterdir()) == [
        "manifest.json", "plan.json", "results.parquet",
    ]  # fmt: skip
    assert set(ranked.manifest.outputs) == {"results.parquet"}
    assert set(ranked.manifest.inputs) == {"embeddings", "queries", "ranker"}


def test_a_second_call_does_nothing_and_a_registered_ranker_is_the_same(
    queries, ranked, trained, track_at, monkeypatch, capsys
):
    track_at(trained.home)
    monkeypatch.setattr(ranking, "rank_all", lambda *arguments: pytest.fail("nothing was to be ranked"))
    assert rank(queries.config) == ranked.manifest
    register(RegisterConfig(trained.config.output, embeddings=trained.config.embeddings, force=True))
    capsys.readouterr()
    assert rank(replace(queries.config, ranker=None)) == ranked.manifest
    name = f"xmrank-{trained.store.dataset}-t2i"
    assert re.match(
        rf"rank: context_aware trained with \w+, seed \d, from models:/{name}@best; test .*\n",
        capsys.readouterr().out,
    )


@pytest.mark.usefixtures("here")
def test_a_gallery_smaller_than_top_n_is_ranked_as_a_whole(queries, tmp_path, capsys):
    manifest = rank(replace(queries.config, output=tmp_path / "ranking", top_n=100))
    assert manifest.counts == {"queries": 100, "gallery": 20, "top_n": 20, "rows": 2000}
    assert "the first stage's 20 of 20 images" in capsys.readouterr().out
    results = pd.read_parquet(tmp_path / "ranking/results.parquet")
    assert results.groupby("query_id")["candidate_id"].nunique().eq(20).all()


@pytest.mark.usefixtures("here")
def test_rows_that_are_no_queries_are_listed(queries, tmp_path, monkeypatch, capsys):
    read = stage.read_queries
    monkeypatch.setattr(stage, "read_queries", lambda *given: replace(read(*given), left_out={"7": "is empty"}))
    manifest = rank(replace(queries.config, output=tmp_path / "ranking"))
    assert manifest.left_out == [{"query_id": "7", "reason": "is empty"}]
    assert "100 queries (1 could not be read)" in capsys.readouterr().out


def test_an_interrupted_ranking_keeps_the_batches_that_are_done(queries, ranked, here, tmp_path):
    config = replace(queries.config, output=tmp_path / "ranking")
    with pytest.MonkeyPatch.context() as broken:
        broken.setattr(query_ranker, "write_json", stopped_after(2))
        with pytest.raises(KeyboardInterrupt):
            rank(config)
    assert here == [0, 32, 64]
    here.clear()
    rank(config)
    assert here == [64, 96]
    again = pd.read_parquet(tmp_path / "ranking/results.parquet")
    pd.testing.assert_frame_equal(again, ranked.table, rtol=1e-5, check_categorical=False)


def stopped_after(count):
    """A writer of records that is interrupted."""
    written = []

    def write(path, value, write_json=query_ranker.write_json):
        if len(written) == count:
            raise KeyboardInterrupt
        written.append(path)
        write_json(path, value)

    return write


def test_a_gallery_of_several_shards_gives_the_same(queries, ranked, here, tmp_path, monkeypatch):
    monkeypatch.setattr(query_ranker, "SHARD", 7)
    rank(replace(queries.config, output=tmp_path / "ranking"))
    again = pd.read_parquet(tmp_path / "ranking/results.parquet")
    pd.testing.assert_frame_equal(again, ranked.table, rtol=1e-5, check_categorical=False)


def test_without_a_split_the_gallery_is_everything(queries, here, tmp_path):
    manifest = rank(replace(queries.config, split=None, output=tmp_path / "ranking"))
    assert manifest.counts["gallery"] == 340


def test_images_retrieve_captions(trained, here, tmp_path):
    rows = trained.store.image_rows("test")[:3]
    pq.write_table(pa.table({"embedding": list(np.array(trained.store.image[rows]))}), tmp_path / "q.parquet")
    config = RankConfig(
        queries=tmp_path / "q.parquet", embeddings=trained.config.embeddings, direction="i2t", top_n=7,
        ranker=str(trained.config.output), output=tmp_path / "ranking",
    )  # fmt: skip
    assert rank(config).counts["gallery"] == 340 * 5
    table = pd.read_parquet(tmp_path / "ranking/results.parquet")
    assert set(table["candidate_id"]) <= set(trained.store.captions["caption_id"].to_pylist())


def test_other_queries_are_another_ranking(queries, ranked):
    with pytest.raises(DataError, match="top_n is 15 there, 5 here"):
        rank(replace(queries.config, top_n=5))


REFUSED = {
    "no queries": ({"queries": None}, "--queries: expected a text file, a table or a folder of images"),
    "a missing file": ({"queries": "missing.txt"}, "missing.txt: no such file or folder (--queries)"),
    "an empty file": ({"queries": "empty.txt"}, "empty.txt: no queries in it"),
    "an unknown model": ({"ranker": "models:/nobody@best"}, "--ranker models:/nobody@best: no such model in sqlite"),
    "a folder without ranker": ({"ranker": "elsewhere"}, "elsewhere: no trained ranker here"),
    "an unknown split": ({"split": "dev"}, "--split dev: the gallery's splits are test, train, val"),
    "no direction": ({"direction": None}, "--direction: the queries are embeddings; expected i2t"),
    "captions without encoder": ({"queries": "captions.txt"}, "the gallery's embeddings were imported"),
    "other dimensions": ({"queries": "short.parquet"}, "embeddings of 2 dimensions, the gallery's have 16"),
    "no gallery": ({"embeddings": "nowhere"}, "nowhere: no finished output of the stage embed here"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_ranked_is_one_line_on_the_command_line(queries, tmp_path, track_at, monkeypatch, capsys, case):
    track_at(tmp_path)
    (tmp_path / "empty.txt").touch()
    (tmp_path / "captions.txt").write_text("a dog")
    pq.write_table(pa.table({"embedding": [[1.0, 0.0]]}), tmp_path / "short.parquet")
    changes, message = REFUSED[case]
    config = replace(queries.config, output=tmp_path / "ranking", **changes)
    names = ("queries", "embeddings", "ranker", "direction", "split", "top_n", "output")
    flags = [f"--{n.replace('_', '-')}={v}" for n in names if (v := getattr(config, n)) is not None]
    monkeypatch.setattr("sys.argv", ["jobs/rank.py", *flags])
    with pytest.raises(SystemExit) as stop:
        run(rank, RankConfig)
    assert stop.value.code in (1, 2)
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("rank: ")]
    assert message in error
    assert not (tmp_path / "ranking").exists()


def test_a_ranker_of_another_encoder_is_refused_with_both_names(queries, trained):
    about = json.loads((best_rankers(trained.config.output)["t2i"].directory / "ranker.json").read_text())
    for other in ({"name": "ViT-B-32", "weights_hash": "0" * 64}, {"name": "imported", "weights_hash": "1" * 64}):
        with pytest.raises(DataError, match=rf"trained on embeddings of {other['name']} \(weights .* of imported \(16"):
            checks.check_encoder(trained.store, about | {"encoder": other}, "there")
    with pytest.raises(DataError, match="trained on embeddings of imported"):
        checks.check_encoder(trained.store, about | {"dimensions": 8}, "there")


def test_a_ranker_of_the_other_direction_is_refused(queries, trained):
    ranker = best_rankers(trained.config.output)["i2t"].directory
    with pytest.raises(ConfigError, match="its direction is i2t, the queries' is t2i"):
        rank(replace(queries.config, ranker=str(ranker)))


def test_a_checkpoint_is_required_and_compared(trained, tmp_path):
    encoder = {"name": "RN50", "weights_hash": "0" * 64, "pretrained": "sha256:" + "0" * 64}
    store = replace(trained.store, encoder=encoder)
    (tmp_path / "w.safetensors").touch()
    with pytest.raises(ConfigError, match="--pretrained: the gallery was embedded with a checkpoint of RN50"):
        checks.encoder_arguments(store, RankConfig())
    with pytest.raises(DataError, match=r"w.safetensors: not the checkpoint that the gallery was embedded with"):
        checks.encoder_arguments(store, RankConfig(pretrained=tmp_path / "w.safetensors"))
    with pytest.raises(DataError, match=r"no.safetensors: no such file \(--pretrained\)"):
        checks.encoder_arguments(store, RankConfig(pretrained=tmp_path / "no.safetensors"))


def test_a_model_of_ones_own_is_required_and_compared(trained, tmp_path):
    path = tmp_path / "xmrank-test-rank.json"
    path.write_text(json.dumps({"embed_dim": 8, "vision_cfg": {}, "text_cfg": {}}))
    encoder = {"name": path.stem, "weights_hash": "0" * 64, "pretrained": "none", "init_seed": 1}
    store = replace(trained.store, encoder={**encoder, "architecture": find_model(str(path)).architecture})
    with pytest.raises(ConfigError, match="--model: the gallery was embedded with xmrank-test-rank; its path, as PATH"):
        checks.encoder_arguments(store, RankConfig())
    arguments = checks.encoder_arguments(store, RankConfig(model=str(path)))
    assert arguments == {"model": str(path), "pretrained": "none", "init_seed": 1, "precision": "fp32"}
    path.write_text(json.dumps({"embed_dim": 9, "vision_cfg": {}, "text_cfg": {}}))
    with pytest.raises(
        DataError, match=r"not the model that the gallery was embedded with, xmrank-test-rank \(--model"
    ):
        checks.encoder_arguments(store, RankConfig(model=str(path)))


def test_the_weights_in_a_models_folder_are_compared(trained, tmp_path):
    (tmp_path / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": {"embed_dim": 8, "vision_cfg": {}, "text_cfg": {}}})
    )
    (tmp_path / "open_clip_model.safetensors").write_bytes(b"one")
    model = f"local-dir:{tmp_path}"
    recorded = {"pretrained": f"sha256:{sha256_file(tmp_path / 'open_clip_model.safetensors')}"}
    recorded |= {"architecture": find_model(model).architecture, "name": "local-dir:elsewhere", "weights_hash": "0"}
    store = replace(trained.store, encoder=recorded)
    with pytest.raises(ConfigError, match="embedded with local-dir:elsewhere; its path, as local-dir:PATH"):
        checks.encoder_arguments(store, RankConfig())
    arguments = checks.encoder_arguments(store, RankConfig(model=model))
    assert arguments == {"model": model, "pretrained": None, "init_seed": None, "precision": "fp32"}
    (tmp_path / "open_clip_model.safetensors").write_bytes(b"two")
    with pytest.raises(DataError, match="not the checkpoint that the gallery was embedded with"):
        checks.encoder_arguments(store, RankConfig(model=model))


@pytest.mark.parametrize(
    ("config", "settings", "size"),
    [({"batch_size": 8}, {}, 8), ({"batch_size": 0}, {"batch_size": 32}, 32), ({"batch_size": 0}, {}, 64),
     ({}, {}, 64), ({"batch_size": 0}, {"batch_size": 4096}, 256)],
)  # fmt: skip
def test_queries_are_encoded_in_batches_like_the_gallerys(trained, config, settings, size):
    manifest = replace(trained.store.manifest, config=config, settings=settings)
    assert ranking_job.encoding_batch_size(replace(trained.store, manifest=manifest)) == size


def test_queries_that_are_all_broken_fail_with_the_first_reason(trained, queries, tmp_path):
    folder = tmp_path / "work"
    folder.mkdir()
    batch = QueryBatch(0, ["a.jpg"], ["a.jpg"], ["a.jpg"])
    batch.record_path(folder).write_text(json.dumps({"broken": {"a.jpg": "not an image"}, "seconds": {}}))
    job = SimpleNamespace(folder=folder)
    with pytest.raises(DataError, match=r"none of 1 could be read; the first, a\.jpg: not an image"):
        ranking.finish_ranking(None, job, [batch], ["a.jpg"], 0.0)


def test_the_manifest_is_a_finished_stages(queries, ranked):
    assert read_manifest(queries.config.output, "rank").fingerprint == ranked.manifest.fingerprint

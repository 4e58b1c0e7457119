"""The mining stage."""

import itertools
import json
import os
import sys

import numpy as np
import pytest
from changed_stages import flip_byte

from xmrank.cli import run
from xmrank.config import DIRECTIONS, MineConfig
from xmrank.embed.store import EmbeddingStore
from xmrank.mine import chunks
from xmrank.mine.candidate_lists import CandidateLists
from xmrank.mine.chunks import CHUNK, MiningTask, chunk_generator, mine_chunk, plan_pool
from xmrank.mine.list_paths import lists_path
from xmrank.mine.roles import ROLES, RoleImages
from xmrank.mine.stage import mine
from xmrank.runtime import cluster
from xmrank.runtime.errors import ConfigError, DataError
from xmrank.runtime.files import sha256_file

stage = sys.modules["xmrank.mine.stage"]
FILES = {f"{direction}-{role}.parquet" for direction in DIRECTIONS for role in ROLES}
SMALL = {"random_candidates": 12, "hard_negatives": 5}


@pytest.fixture(scope="module")
def store(tiny_store):
    """60, 20 and 20 images of one to four captions that stand in no order."""
    counts = np.random.default_rng(0).integers(1, 5, 100).tolist()
    return tiny_store(captions=counts, interleaved=True)


def configured(store, output, **parameters):
    return MineConfig(embeddings=store.directory, output=output, **{**SMALL, **parameters})


def mined(store, output, **parameters):
    """The manifest and the lists by direction and role."""
    manifest = mine(configured(store, output, **parameters))
    return manifest, {(d, role): CandidateLists.read(lists_path(output, d, role)) for d in DIRECTIONS for role in ROLES}


def images_of(store, direction, lists):
    """The image rows of the queries, and of the candidates."""
    queries, candidates = lists.queries, lists.candidates
    if direction == "i2t":
        return queries, store.image_of_caption[candidates]
    return store.image_of_caption[queries], candidates


def test_the_stage_makes_a_file_for_each_direction_and_role(store, tmp_path, capsys):
    manifest, lists = mined(store, tmp_path / "lists")
    assert {path.name for path in (tmp_path / "lists").iterdir()} == FILES | {
        "splits.json",
        "manifest.json",
        "plan.json",
    }
    assert {key: len(part) for key, part in lists.items()} == {
        (direction, role): queries
        for direction in DIRECTIONS
        for role, queries in zip(ROLES, (60, 20, 20), strict=True)
    }
    assert capsys.readouterr().out == f"mine: 200 lists in {tmp_path / 'lists'}\n"
    assert manifest.counts["lists"] == 200
    assert manifest.counts["i2t_train"] == {
        "queries": 60,
        "objects": 60 * 6,
        "positives": 60,
        "positives_last": last_of(lists["i2t", "train"]),
        "shortest": 6,
        "longest": 6,
        "gallery": int(np.isin(store.image_of_caption, store.image_rows("train")).sum()),
    }
    assert manifest.counts["t2i_test"]["gallery"] == 20
    assert manifest.counts["queries_without_positives"] == {"train": 0, "validation": 0, "test": 0}
    assert manifest.inputs == {"embeddings": store.fingerprint}


def last_of(lists):
    """Lists whose positives stand behind all negatives, one after another."""
    count = 0
    for start, end in itertools.pairwise(lists.offsets):
        right = lists.labels[start:end] > 0
        similarity = lists.similarity[start:end]
        count += bool(right.any() and not right.all() and similarity[right].max() < similarity[~right].min())
    return count


def test_lists_that_give_their_answer_away_are_counted():
    made = CandidateLists(
        queries=np.arange(5),
        offsets=np.array([0, 3, 6, 9, 11, 12]),
        candidates=np.arange(12),
        # behind both; between; two of which one is in front; behind an equal one, so not behind; nothing else
        similarity=np.array([0.1, 0.5, 0.4, 0.4, 0.5, 0.1, 0.1, 0.6, 0.5, 0.3, 0.3, 0.2], np.float32),
        labels=np.array([1, 0, 0, 1, 0, 0, 1, 1, 0, 1, 0, 1], np.float32),
    )
    assert stage.count_positives_last(made) == last_of(made) == 1
    none = np.empty(0, np.float32)
    empty = CandidateLists(
        np.empty(0, np.int64), np.zeros(1, np.int64), np.empty(0, np.int64), labels=none, similarity=none
    )
    assert stage.count_positives_last(empty) == 0


@pytest.mark.parametrize("parameters", [{}, {"positives": "all", "captions": "all"}], ids=["one", "all"])
def test_lists_stay_in_their_split_and_are_labelled_right(store, tmp_path, parameters):
    _, lists = mined(store, tmp_path / "lists", **parameters)
    captions = np.bincount(store.image_of_caption, minlength=100)
    for (direction, role), part in lists.items():
        split = {"train": "train", "validation": "val", "test": "test"}[role]
        rows = set(store.image_rows(split).tolist())
        query_images, item_images = images_of(store, direction, part)
        assert set(query_images.tolist()) == rows and set(item_images.tolist()) <= rows
        right = np.repeat(query_images, part.lengths) == item_images
        assert np.array_equal(part.labels, right.astype(np.float32))
        positives = captions[query_images] if (direction, parameters.get("positives")) == ("i2t", "all") else 1
        assert np.array_equal(part.lengths, positives + np.full(len(part), 5))
        if direction == "t2i":
            times = captions[sorted(rows)] if parameters else np.ones(len(rows))
            assert np.array_equal(np.bincount(query_images, minlength=100)[sorted(rows)], times)


def test_similarities_are_cosines(store, tmp_path):
    _, lists = mined(store, tmp_path / "lists")
    for direction, query_side, other_side in (("i2t", store.image, store.text), ("t2i", store.text, store.image)):
        part = lists[direction, "test"]
        queries = query_side[np.repeat(part.queries, part.lengths)].astype(np.float64)
        cosine = (queries * other_side[part.candidates]).sum(1)
        np.testing.assert_allclose(part.similarity, cosine, atol=1e-5)


def test_lists_of_the_whole_gallery_are_the_hardest_of_all(store, tmp_path):
    _, lists = mined(store, tmp_path / "lists", random_candidates=19)  # of 20 images, 19 are another's
    part, images = lists["t2i", "test"], store.image_rows("test")
    for row, query in enumerate(part.queries):
        own = store.image_of_caption[query]
        others = images[images != own]
        hardest = others[np.argsort(-(store.image[others] @ store.text[query]))[:5]]
        items = part.candidates[part.offsets[row] : part.offsets[row + 1]]
        assert set(items.tolist()) == {own, *hardest.tolist()}


def test_without_a_test_split_held_out_training_images_choose(tiny_store, tmp_path):
    store = tiny_store(splits={"train": 150, "val": 20}, captions=5)
    _, lists = mined(store, tmp_path / "lists")
    train, val = store.image_rows("train").tolist(), store.image_rows("val").tolist()
    splits = json.loads((tmp_path / "lists" / "splits.json").read_text())
    assert {role: part["split"] for role, part in splits.items()} == {
        "train": "train",
        "validation": "train (held out)",
        "test": "val",
    }
    held_out = splits["validation"]["images"]
    assert len(held_out) == 15 and set(held_out) < set(train)
    assert sorted(held_out + splits["train"]["images"]) == train and splits["test"]["images"] == val
    for direction in DIRECTIONS:
        for role, rows in (("train", splits["train"]["images"]), ("validation", held_out), ("test", val)):
            query_images, item_images = images_of(store, direction, lists[direction, role])
            assert sorted(set(query_images.tolist())) == rows and set(item_images.tolist()) <= set(rows)


def test_an_image_without_captions_is_no_query_and_is_counted(tiny_store, tmp_path):
    store = tiny_store(splits={"train": 20, "val": 20, "test": 20}, captions=[0, 2] * 30)
    manifest, lists = mined(store, tmp_path / "lists")
    without = {
        role: sum(row % 2 == 0 for row in store.image_rows(split).tolist())
        for role, split in zip(ROLES, ("train", "val", "test"), strict=True)
    }
    assert manifest.counts["queries_without_positives"] == without
    assert {role: len(lists["i2t", role]) for role in ROLES} == {role: 20 - count for role, count in without.items()}
    assert manifest.counts["t2i_train"]["gallery"] == 20


def test_seeds_and_parameters_decide_the_lists(store, tmp_path):
    first, _ = mined(store, tmp_path / "0")
    assert mined(store, tmp_path / "again")[0].outputs == first.outputs
    for number, change in enumerate(({"seed": 1}, {"random_candidates": 11}, {"hard_negatives": 4})):
        other, _ = mined(store, tmp_path / f"other{number}", **change)
        assert all(other.outputs[name] != first.outputs[name] for name in FILES)


def test_every_chunk_has_random_numbers_of_its_own():
    names = [(*name, chunk) for name in itertools.product((0, 1), DIRECTIONS, ROLES) for chunk in (-1, 0, 1)]
    assert len({chunk_generator(*name).random() for name in names}) == len(names)
    assert chunk_generator(*names[0]).random() == chunk_generator(*names[0]).random()


def test_the_query_caption_is_not_chosen_by_the_numbers_of_a_chunk(store, monkeypatch):
    seen = []
    monkeypatch.setattr(chunks, "chunk_generator", lambda *name, chunk: seen.append(chunk) or np.random.default_rng(0))
    plan_pool(store, RoleImages("train", "train", store.image_rows("train")), "t2i", MineConfig())
    assert seen == [-1]


@pytest.fixture(scope="module")
def large(tiny_store):
    """Enough training queries for three chunks."""
    return tiny_store(splits={"train": 2 * CHUNK + 50, "val": 60, "test": 60}, captions=2, dimensions=8)


@pytest.fixture(scope="module")
def alone(large, tmp_path_factory):
    """What mining in this process gives."""
    return mine(configured(large, tmp_path_factory.mktemp("alone") / "lists", workers=1))


def test_the_lists_do_not_depend_on_the_workers(large, alone, ray_cluster, tmp_path):
    for workers in (2, 4):
        manifest = mine(configured(large, tmp_path / str(workers), workers=workers))
        assert manifest.outputs == alone.outputs  # bytes and sha256 of every file
        assert manifest.fingerprint == alone.fingerprint


def test_the_cluster_is_used_when_it_pays_or_workers_are_given(monkeypatch):
    monkeypatch.setattr(cluster, "run_tasks", lambda function, tasks, workers, on_gpus: iter([f"{workers} workers"]))

    def choose_worker(queries, workers):
        return next(iter(stage.run_chunks(lambda task: "here", [None], queries, workers)))

    assert [choose_worker(49_999, 0), choose_worker(49_999, 1), choose_worker(10, 2)] == ["here", "here", "2 workers"]
    assert [choose_worker(50_000, 0), choose_worker(50_000, 1)] == ["0 workers", "1 workers"]


def test_a_chunk_is_the_same_whatever_ran_before_it(large, alone, tmp_path):
    config = configured(large, tmp_path / "unused")
    tasks = [
        MiningTask(large.directory, config, direction, "train", chunk, tmp_path)
        for chunk in (2, 0, 1)
        for direction in DIRECTIONS
    ]
    mined_chunks = {(task.direction, task.chunk): mine_chunk(task) for task in tasks}
    for direction in DIRECTIONS:
        joined = CandidateLists.join([mined_chunks[direction, chunk] for chunk in range(3)])
        joined.write(tmp_path / "joined.parquet")
        assert sha256_file(tmp_path / "joined.parquet") == alone.outputs[f"{direction}-train.parquet"]["sha256"]
        assert [len(mined_chunks[direction, chunk]) for chunk in range(3)] == [CHUNK, CHUNK, 50]


def test_a_second_call_is_skipped(store, tmp_path, monkeypatch):
    first, _ = mined(store, tmp_path / "lists")
    monkeypatch.setattr(stage, "mine_all", None)
    assert mine(configured(store, tmp_path / "lists", workers=3)) == first


def test_a_run_that_was_cut_short_mines_what_is_missing(store, tmp_path):
    output = tmp_path / "lists"
    first, _ = mined(store, output)
    for name in ("manifest.json", "splits.json", "t2i-validation.parquet"):
        (output / name).unlink()
    (output / ".tmp-0123abcd-t2i-validation.parquet").write_bytes(b"half")
    for name in FILES - {"t2i-validation.parquet"}:
        os.utime(output / name, ns=(0, 0))
    again, _ = mined(store, output)
    assert again == first
    assert [name for name in FILES if (output / name).stat().st_mtime_ns] == ["t2i-validation.parquet"]
    assert not list(output.glob(".tmp-*"))


def test_truncated_lists_are_mined_again(store, tmp_path):
    output = tmp_path / "lists"
    first, _ = mined(store, output)
    for name in ("i2t-train.parquet", "t2i-test.parquet"):
        (output / name).write_bytes((output / name).read_bytes()[:100])
    assert mined(store, output)[0] == first


def test_lists_that_were_damaged_beside_a_lost_manifest_are_mined_again(store, tmp_path):
    output = tmp_path / "lists"
    first, _ = mined(store, output)
    (output / "manifest.json").unlink()
    flip_byte(output / "i2t-train.parquet", 100)
    assert mined(store, output)[0] == first
    assert [path.name for path in (output / "damaged").iterdir()] == ["i2t-train.parquet"]


def test_damage_that_no_record_tells_of_is_refused_with_the_remedy(store, tmp_path):
    output = tmp_path / "lists"
    first, _ = mined(store, output)
    plan = json.loads((output / "plan.json").read_text())
    # A plan of an earlier version, which does not have the hashes of the finished files.
    (output / "plan.json").write_text(json.dumps({name: plan[name] for name in plan if name != "finished"}))
    (output / "manifest.json").unlink()
    flip_byte(output / "i2t-train.parquet", 100)
    with pytest.raises(DataError, match=r"i2t-train\.parquet: damaged.*; remove this file and run the same command"):
        mined(store, output)
    (output / "i2t-train.parquet").unlink()
    assert mined(store, output)[0] == first


def test_other_parameters_or_embeddings_are_refused(store, tiny_store, tmp_path):
    output = tmp_path / "lists"
    mined(store, output)
    with pytest.raises(DataError, match=r"hard_negatives is 5 there, 4 here \(--overwrite to redo it"):
        mined(store, output, hard_negatives=4)
    with pytest.raises(DataError, match="was made from other embeddings"):
        mined(tiny_store(seed=1), output)
    assert mined(store, output, hard_negatives=4, overwrite=True)[0].config["hard_negatives"] == 4


@pytest.mark.parametrize("overwrite", [False, True])
def test_the_embeddings_are_never_overwritten(store, overwrite):
    with pytest.raises(DataError, match="holds the output of the stage embed, not of mine"):
        mine(configured(store, store.directory, overwrite=overwrite))
    assert (store.directory / "image.npy").exists()


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"random_candidates": 20}, "--random-candidates 20: the t2i gallery of val has only 19 items of other images"),
        ({"random_candidates": 500}, "--random-candidates 500: the i2t gallery of train has only "),
    ],
)
def test_a_list_longer_than_the_gallery_is_refused(store, tmp_path, parameters, message):
    with pytest.raises(ConfigError, match=message):
        mine(configured(store, tmp_path / "lists", **parameters))
    assert not (tmp_path / "lists").exists()


def test_the_longest_possible_draw_is_taken(store, tmp_path):
    assert mined(store, tmp_path / "lists", random_candidates=19, hard_negatives=19)[0].counts["lists"] == 200


def test_a_split_without_captions_is_refused(tiny_store, tmp_path):
    splits = {"train": 30, "val": 20, "test": 20}
    silent = set(tiny_store(splits=splits).image_rows("val").tolist())
    store = tiny_store(splits=splits, captions=[int(row not in silent) for row in range(70)])
    with pytest.raises(ConfigError, match="--validation-split val: no i2t query has a positive"):
        mine(configured(store, tmp_path / "lists"))


def test_what_is_no_store_is_refused(tmp_path):
    with pytest.raises(DataError, match="no finished output of the stage embed here"):
        mine(MineConfig(embeddings=tmp_path / "nowhere", output=tmp_path / "lists"))


def test_the_job_mines_in_its_home(store, home, monkeypatch, capsys):
    flags = ["--embeddings", str(store.directory), "--output", "lists", "--preset", "table1"]
    monkeypatch.setattr(sys, "argv", ["jobs/mine.py", *flags])
    with pytest.raises(SystemExit) as stop:
        run(mine, MineConfig)
    assert stop.value.code == 2
    assert capsys.readouterr().err == (
        "mine: --random-candidates 200: the i2t gallery of train has only "
        f"{train_captions(store) - 4} items of other images\n"
    )
    monkeypatch.setattr(sys, "argv", ["jobs/mine.py", *flags, "--random-candidates", "19", "--hard-negatives", "7"])
    run(mine, MineConfig)
    assert CandidateLists.read(home / "lists" / "i2t-test.parquet").lengths.tolist() == [8] * 20


def train_captions(store):
    return int(np.isin(store.image_of_caption, store.image_rows("train")).sum())


def flip_one(array):
    array.view(np.uint8).reshape(-1)[5] ^= 1


def zero_block(array):
    array.view(np.uint8).reshape(-1)[:4096] = 0


def put_nan(array):
    array[3] = np.nan


def roll_rows(array):
    array[:] = np.roll(array, 1, axis=0)


@pytest.mark.parametrize("change", [flip_one, zero_block, put_nan, roll_rows])
def test_a_changed_store_is_refused_before_anything_is_mined(tiny_store, tmp_path, change):
    store = tiny_store(tmp_path / "store")
    array = np.load(store.directory / "image.npy")
    change(array)
    np.save(store.directory / "image.npy", array)
    with pytest.raises(DataError, match=r"image\.npy: damaged: its contents .*; make it anew: xmrank embed --output "):
        mined(store, tmp_path / "lists")
    assert not (tmp_path / "lists").exists()
    assert EmbeddingStore.open(store.directory, verify=False).image.shape == array.shape  # a worker hashes nothing


@pytest.mark.parametrize("name", ["image.npy", "text.parquet", "encoder.json"])
def test_a_cut_off_store_is_one_line(tiny_store, tmp_path, name):
    store = tiny_store(tmp_path / "store")
    path = store.directory / name
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(DataError, match=f"{path}: damaged: holds {path.stat().st_size} bytes, ") as failure:
        mined(store, tmp_path / "lists")
    assert "\n" not in str(failure.value)


def test_lists_with_a_changed_byte_are_refused_by_the_python_api(store, tmp_path):
    mined(store, tmp_path / "lists")
    path = lists_path(tmp_path / "lists", "t2i", "train")
    flip_byte(path, -20)  # behind the pages, where no checksum of parquet's is
    with pytest.raises(DataError, match=f"{path}: damaged: its contents"):
        CandidateLists.read(path)
    # The same command makes it anew, and keeps the damaged file.
    again, _ = mined(store, tmp_path / "lists")
    assert (tmp_path / "lists/damaged" / path.name).exists()
    assert "t2i-train.parquet" in again.outputs

"""Candidates from the whole gallery: the hardest, a mixture, what the first stage gives; false negatives; gradings."""

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from changed_stages import accept_changes
from hypothesis import given
from hypothesis import strategies as st

from xmrank.config import DIRECTIONS, MineConfig
from xmrank.mine import gallery_index, nearest
from xmrank.mine.assemble import RankedItems, above_margin, near_duplicates
from xmrank.mine.candidate_lists import CandidateLists
from xmrank.mine.chunks import plan_pool
from xmrank.mine.gallery_index import count_code_bytes
from xmrank.mine.list_paths import lists_path
from xmrank.mine.nearest import build_index, plan_indexes, plan_searches, read_nearest, search_shard
from xmrank.mine.pool import QueryPool
from xmrank.mine.roles import ROLES, choose_role_images
from xmrank.mine.stage import mine
from xmrank.runtime.errors import ConfigError, DataError
from xmrank.runtime.files import sha256_file

STRATEGIES = ("random-hard", "top-k", "mixed")
SMALL = {"random_candidates": 12, "hard_negatives": 5, "random_negatives": 4}


@pytest.fixture(scope="module")
def store(tiny_store):
    """60, 20 and 20 images of one to four captions that stand in no order."""
    counts = np.random.default_rng(0).integers(1, 5, 100).tolist()
    return tiny_store(captions=counts, interleaved=True)


@pytest.fixture(scope="module")
def weak_store(tiny_store):
    """A store whose first stage often misses."""
    return tiny_store(captions=np.random.default_rng(0).integers(1, 5, 100).tolist(), interleaved=True, signal=0.2)


@pytest.fixture
def small_shards(monkeypatch):
    """Galleries of several shards, queries in several searches."""
    monkeypatch.setattr(nearest, "SHARD", 17)
    monkeypatch.setattr(nearest, "PART", 1024)
    monkeypatch.setattr(nearest, "SEARCH", 11)


def mined(store, output, **parameters):
    config = MineConfig(embeddings=store.directory, output=output, **{**SMALL, **parameters})
    manifest = mine(config)
    return manifest, {(d, role): CandidateLists.read(lists_path(output, d, role)) for d in DIRECTIONS for role in ROLES}


def query_and_item_images(store, direction, lists):
    """Of every item: the query's image and the item's image."""
    queries = np.repeat(lists.queries, lists.lengths)
    if direction == "i2t":
        return queries, store.image_of_caption[lists.candidates]
    return store.image_of_caption[queries], lists.candidates


def items_of(lists, row):
    return lists.candidates[lists.offsets[row] : lists.offsets[row + 1]].tolist()


def brute(store, direction, role, query):
    """The gallery of a role without the query's own items, by descending similarity, and the similarities."""
    split = {"train": "train", "validation": "val", "test": "test"}[role]
    images = store.image_rows(split)
    if direction == "i2t":
        rows, query_vector, own = np.flatnonzero(np.isin(store.image_of_caption, images)), store.image[query], query
        others = rows[store.image_of_caption[rows] != own]
        similarity = store.text[others].astype(np.float64) @ query_vector
    else:
        others = images[images != store.image_of_caption[query]]
        similarity = store.image[others].astype(np.float64) @ store.text[query]
    order = np.argsort(-similarity)
    return others[order], similarity[order]


def test_a_positive_that_must_be_retrieved_is_listed_where_it_is_among_the_hardest(weak_store, tmp_path):
    """Same seed, same draws: the lists with a positive added tell what was drawn."""
    drawn = {"random_candidates": 12, "hard_negatives": 12}
    _, every = mined(weak_store, tmp_path / "every", **drawn)
    _, lists = mined(weak_store, tmp_path / "retrieved", **{**drawn, "hard_negatives": 4, "positives": "retrieved"})
    missing = 0
    for key, part in lists.items():
        whole = every[key]
        assert np.array_equal(part.queries, whole.queries) and set(part.lengths.tolist()) == {5}
        for row in range(len(part)):
            part_of_all = slice(whole.offsets[row], whole.offsets[row + 1])
            order = np.argsort(-whole.similarity[part_of_all], kind="stable")[:5]
            assert set(items_of(part, row)) == set(whole.candidates[part_of_all][order].tolist())
            here = slice(part.offsets[row], part.offsets[row + 1])
            assert part.labels[here].sum() == whole.labels[part_of_all][order].sum()
            missing += not part.labels[here].any()
    assert 10 < missing < sum(map(len, lists.values())) - 10


@pytest.mark.parametrize("shards", [False, True])
@pytest.mark.parametrize("positives", ["one", "all"])
def test_top_k_are_the_hardest_of_the_whole_gallery(store, tmp_path, request, shards, positives):
    if shards:
        request.getfixturevalue("small_shards")
    _, lists = mined(store, tmp_path / "lists", strategy="top-k", positives=positives)
    for (direction, role), part in lists.items():
        for row, query in enumerate(part.queries):
            of_list = slice(part.offsets[row], part.offsets[row + 1])
            items, labels = part.candidates[of_list], part.labels[of_list]
            hardest, similarity = brute(store, direction, role, query)
            assert set(items[labels == 0].tolist()) == set(hardest[:5].tolist())
            assert np.allclose(np.sort(part.similarity[of_list][labels == 0])[::-1], similarity[:5], atol=1e-5)
            wanted = (store.image_of_caption == query).sum() if (direction, positives) == ("i2t", "all") else 1
            assert labels.sum() == wanted


def test_retrieved_is_what_the_first_stage_gives(weak_store, tmp_path):
    store = weak_store
    _, lists = mined(store, tmp_path / "lists", strategy="top-k", positives="retrieved", hard_negatives=8)
    without = 0
    for (direction, _role), part in lists.items():
        assert set(part.lengths.tolist()) == {8}
        query_images, item_images = query_and_item_images(store, direction, part)
        assert np.array_equal(part.labels, (query_images == item_images).astype(np.float32))
        without += int((np.add.reduceat(part.labels, part.offsets[:-1]) == 0).sum())
    assert without > 0  # lists without any positive are the first stage's misses, and stay


def test_mixed_lists_hold_the_hardest_and_as_many_others_at_random(store, tmp_path):
    _, hard = mined(store, tmp_path / "hard", strategy="top-k")
    _, lists = mined(store, tmp_path / "mixed", strategy="mixed")
    for key, part in lists.items():
        assert set(part.lengths.tolist()) == {5 + 4 + 1}
        for row in range(len(part)):
            items = part.candidates[part.offsets[row] : part.offsets[row + 1]]
            hardest = hard[key].candidates[hard[key].offsets[row] : hard[key].offsets[row + 1]]
            negative = hard[key].labels[hard[key].offsets[row] : hard[key].offsets[row + 1]] == 0
            assert len(set(items.tolist())) == len(items)
            assert set(hardest[negative].tolist()) <= set(items.tolist())


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("parameters", [{}, {"positives": "all", "captions": "all"}], ids=["one", "all"])
def test_no_sibling_is_ever_a_negative_and_no_item_leaves_its_split(store, tmp_path, strategy, parameters):
    _, lists = mined(store, tmp_path / "lists", strategy=strategy, **parameters)
    for (direction, role), part in lists.items():
        query_images, item_images = query_and_item_images(store, direction, part)
        assert np.array_equal(part.labels, (query_images == item_images).astype(np.float32))
        split = {"train": "train", "validation": "val", "test": "test"}[role]
        assert set(item_images.tolist()) <= set(store.image_rows(split).tolist())


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_similarities_are_cosines_and_lists_are_shuffled(store, tmp_path, strategy):
    _, lists = mined(store, tmp_path / "lists", strategy=strategy)
    for direction, query_side, other_side in (("i2t", store.image, store.text), ("t2i", store.text, store.image)):
        part = lists[direction, "train"]
        queries = query_side[np.repeat(part.queries, part.lengths)].astype(np.float64)
        np.testing.assert_allclose(part.similarity, (queries * other_side[part.candidates]).sum(1), atol=1e-5)
        first = np.array([part.labels[part.offsets[row]] for row in range(len(part))])
        assert 0 < first.mean() < 0.5  # the positive stands anywhere


@pytest.mark.parametrize("strategy", ["top-k", "mixed"])
def test_the_lists_do_not_depend_on_the_workers(store, ray_cluster, tmp_path, strategy):
    alone, _ = mined(store, tmp_path / "1", strategy=strategy, workers=1)
    for workers in (2, 4):
        assert mined(store, tmp_path / str(workers), strategy=strategy, workers=workers)[0].outputs == alone.outputs


@pytest.mark.usefixtures("small_shards")
def test_a_run_that_was_cut_short_keeps_its_searches(store, tmp_path, monkeypatch):
    undisturbed, _ = mined(store, tmp_path / "undisturbed", strategy="top-k")
    searched = []
    search = nearest.search_shard

    def stop(task, *arguments):
        if len(searched) == 5:
            raise KeyboardInterrupt
        searched.append(task.path("items"))
        return search(task, *arguments)

    with monkeypatch.context() as broken:
        broken.setattr("xmrank.mine.chunks.search_shard", stop)
        with pytest.raises(KeyboardInterrupt):
            mined(store, tmp_path / "lists", strategy="top-k")
    kept = {path: path.stat().st_mtime_ns for path in searched}
    again = []
    monkeypatch.setattr(
        "xmrank.mine.chunks.search_shard",
        lambda task, *rest: (again.append(task.path("items")), search(task, *rest))[1],
    )
    assert mined(store, tmp_path / "lists", strategy="top-k")[0] == undisturbed
    assert len(again) > 5 and not kept.keys() & set(again)
    assert not (tmp_path / "lists" / "work").exists()


@pytest.fixture
def compressed(monkeypatch):
    """Galleries of a few hundred items are compressed, those of 1,800 in two shards."""
    monkeypatch.setattr(gallery_index, "FEWEST_COMPRESSED", 500)
    monkeypatch.setattr(nearest, "COMPRESSED_SHARD", 1000)


@pytest.mark.usefixtures("compressed")
@pytest.mark.parametrize("index", ["ivf", "hnsw", "ivfpq"])
def test_an_approximate_index_finds_nearly_all(tiny_store, tmp_path, index):
    store = tiny_store(splits={"train": 600, "val": 30, "test": 30}, captions=3)
    _, exact = mined(store, tmp_path / "flat", strategy="top-k")
    _, lists = mined(store, tmp_path / index, strategy="top-k", index=index)
    assert mined(store, tmp_path / "again", strategy="top-k", index=index)[0].outputs.keys()
    same = [
        len(
            set(one.candidates[one.offsets[r] : one.offsets[r + 1]])
            & set(two.candidates[two.offsets[r] : two.offsets[r + 1]])
        )
        for one, two in ((exact[key], lists[key]) for key in exact)
        for r in range(len(one))
    ]
    assert np.mean(same) > 0.9 * 6
    files = [sha256_file(lists_path(tmp_path / run, "i2t", "train")) for run in (index, "again")]
    assert files[0] == files[1]


@pytest.mark.usefixtures("compressed")
def test_codes_are_compared_again_by_the_embeddings(tiny_store, tmp_path):
    """Similarities are cosines, and the nearest come first, which codes alone do not give."""
    store = tiny_store(splits={"train": 600, "val": 30, "test": 30}, captions=3)
    config = MineConfig(strategy="top-k", index="ivfpq", captions="all")
    pool = plan_pool(store, choose_role_images(store, config)["train"], "t2i", config)
    assert plan_indexes(pool, config, tmp_path) == [0]
    build_index(0, pool, store.image, config, tmp_path)
    (search,) = plan_searches(pool[:40], config, 5, tmp_path)
    search_shard(search, pool[:40], store.text, store.image, config)
    found = read_nearest(tmp_path, pool[:40], 0, 40, config)
    vectors, items = store.text[pool.queries[:40]].astype(np.float32), store.image[pool.gallery[found.items]]
    cosine = np.einsum("qd,qnd->qn", vectors, items)
    np.testing.assert_allclose(found.similarity, cosine, atol=1e-5)
    assert (np.diff(found.similarity, axis=1) <= 0).all()
    codes = faiss.read_index(str(tmp_path / "00000.faiss"))
    assert codes.code_size == count_code_bytes(store.image.shape[1])
    assert np.abs(codes.search(vectors, 5)[0] - found.similarity).max() > 1e-3


@pytest.mark.usefixtures("compressed")
def test_a_search_looks_into_as_many_lists_as_it_is_told(tiny_store, tmp_path):
    """An index of 600 items has √600 ≈ 24 lists."""
    store = tiny_store(splits={"train": 600, "val": 30, "test": 30})
    config = MineConfig(strategy="top-k", index="ivfpq")
    pool = plan_pool(store, choose_role_images(store, config)["train"], "t2i", config)
    build_index(0, pool, store.image, config, tmp_path)
    for probes, expected in ((3, 3), (100, 24)):
        changed = MineConfig(strategy="top-k", index="ivfpq", probes=probes)
        (search,) = plan_searches(pool, changed, 5, tmp_path)
        assert nearest.open_index(search, pool.gallery, store.image, changed).nprobe == expected


@pytest.mark.usefixtures("compressed")
def test_a_run_that_was_cut_short_keeps_its_indexes(tiny_store, tmp_path, monkeypatch):
    store = tiny_store(splits={"train": 600, "val": 30, "test": 30}, captions=3)
    undisturbed, _ = mined(store, tmp_path / "undisturbed", strategy="top-k", index="ivfpq")
    built, build = [], nearest.build_index

    def stop(shard, *arguments):
        built.append(shard)
        if len(built) == 2:
            raise KeyboardInterrupt
        return build(shard, *arguments)

    monkeypatch.setattr("xmrank.mine.chunks.build_index", stop)
    with pytest.raises(KeyboardInterrupt):
        mined(store, tmp_path / "lists", strategy="top-k", index="ivfpq")
    assert mined(store, tmp_path / "lists", strategy="top-k", index="ivfpq")[0] == undisturbed
    # i2t: two shards, of which the first was kept; the other five pools have one each.
    assert built == [0, 1, 1, 0, 0, 0, 0, 0]


@pytest.mark.parametrize(("dimensions", "expected"), [(512, 64), (64, 8), (100, 10), (7, 1), (13, 1)])
def test_a_code_has_a_byte_for_eight_numbers_where_that_divides_them(dimensions, expected):
    assert count_code_bytes(dimensions) == expected


def test_the_lists_do_not_depend_on_the_queries_of_a_search(tiny_store, tmp_path, monkeypatch):
    store = tiny_store(splits={"train": 600, "val": 30, "test": 30}, captions=3)
    whole, _ = mined(store, tmp_path / "whole", strategy="top-k", index="ivf", captions="all")
    monkeypatch.setattr(nearest, "LONG_PART", 1024)
    parts, _ = mined(store, tmp_path / "parts", strategy="top-k", index="ivf", captions="all")
    assert parts.outputs == whole.outputs


@pytest.mark.parametrize("parameters", [{}, {"positives": "all", "captions": "all"}], ids=["one", "all"])
def test_a_gallery_beyond_memory_gives_the_same_lists(store, tmp_path, monkeypatch, parameters):
    whole, _ = mined(store, tmp_path / "whole", **parameters)
    monkeypatch.setattr(gallery_index, "WHOLE_BYTES", 0)
    monkeypatch.setattr("xmrank.mine.chunks.open_flat_index", None)
    assert mined(store, tmp_path / "parts", **parameters)[0].outputs == whole.outputs


def test_a_margin_leaves_out_what_is_nearer_than_the_positive(weak_store, tmp_path):
    _, lists = mined(weak_store, tmp_path / "lists", strategy="top-k", positive_margin=0.05)
    shorter = 0
    for part in lists.values():
        for row in range(len(part)):
            of_list = slice(part.offsets[row], part.offsets[row + 1])
            negatives = part.similarity[of_list][part.labels[of_list] == 0]
            positive = part.similarity[of_list][part.labels[of_list] == 1].max()
            assert (negatives <= positive - 0.05 + 1e-6).all()
            shorter += len(negatives) < 5
    assert shorter > 0  # their queries are listed with fewer, not with wrong, negatives


def test_margin_by_hand():
    negatives = RankedItems(np.array([[1, 2, 3]]), np.array([[0.9, 0.55, 0.5]], np.float32))
    positives = RankedItems(np.array([[7, 8, -1]]), np.array([[0.4, 0.6, 0.99]], np.float32))
    assert above_margin(negatives, positives, 0.1).tolist() == [[True, True, False]]  # the best positive has 0.6
    assert above_margin(negatives, positives, 0.0).tolist() == [[True, False, False]]


def test_duplicates_of_the_own_items_are_recognised():
    side = np.array([[1, 0], [0, 1], [1, 0], [0.8, 0.6]], np.float32)
    pool = QueryPool("t2i", np.array([0, 1]), np.arange(4), np.array([0, 1]), np.array([1, 2]))
    negatives = RankedItems(np.array([[2, 3, -1], [0, 2, 3]]), np.zeros((2, 3), np.float32))
    assert near_duplicates(pool, negatives, side, 0.99)[:, :2].tolist() == [[True, False], [False, False]]
    assert near_duplicates(pool, negatives, side, 0.6)[1].tolist() == [False, False, True]


def test_duplicates_stay_out_of_the_lists(store, tmp_path):
    _, lists = mined(store, tmp_path / "lists", hard_negatives=12, duplicate_cosine=0.2)
    part = lists["t2i", "train"]
    query_images, item_images = query_and_item_images(store, "t2i", part)
    cosine = (store.image[query_images].astype(np.float32) * store.image[item_images]).sum(1)
    assert (cosine[part.labels == 0] < 0.2 + 1e-5).all()
    assert (part.lengths < 13).any()


def test_labels_grade_the_candidates(tiny_store, tmp_path, monkeypatch):
    store = tiny_store(captions=2)
    labels = [[row % 3, 10 + row % 2] for row in range(100)]
    table = store.images
    if "labels" in table.column_names:
        table = table.drop(["labels"])
    pq.write_table(table.append_column("labels", pa.array(labels)), store.directory / "image.parquet")
    accept_changes(store.directory)
    _, lists = mined(store, tmp_path / "lists", strategy="top-k", relevance="labels")
    part = lists["i2t", "train"]
    query_images, item_images = query_and_item_images(store, "i2t", part)
    for one, other, value in zip(query_images, item_images, part.labels, strict=True):
        same, all_of_both = set(labels[one]) & set(labels[other]), set(labels[one]) | set(labels[other])
        assert value == pytest.approx(1.0 if one == other else len(same) / len(all_of_both))


@pytest.mark.parametrize("direction", ["i2t", "t2i"])
@pytest.mark.parametrize("own", [False, True])
def test_captions_grade_the_lists_that_train(tiny_store, tmp_path, direction, own):
    store = tiny_store(captions=[1 + row % 3 for row in range(100)])
    texts, changes = np.array(store.text, float), {}
    if own:  # embeddings of another encoder, not of unit length
        texts = np.random.default_rng(5).normal(size=(len(texts), 7))
        np.save(tmp_path / "texts.npy", texts)
        changes = {"relevance_texts": tmp_path / "texts.npy"}
    _, lists = mined(store, tmp_path / "lists", relevance="captions", **changes)
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    part = lists[direction, "train"]
    query_images = np.repeat(part.queries, part.lengths)
    pairs = (query_images, part.candidates) if direction == "i2t" else (part.candidates, query_images)
    for image, caption, label in zip(*pairs, part.labels, strict=True):
        of_image = np.flatnonzero(store.image_of_caption == image)
        expected = 1.0 if caption in of_image else (1 + (texts[of_image] @ texts[caption]).max()) / 2
        assert label == pytest.approx(expected, abs=1e-5)
    for role in ("validation", "test"):
        assert set(lists[direction, role].labels) == {0.0, 1.0}


def test_texts_of_other_rows_than_the_captions_are_refused(store, tmp_path):
    np.save(tmp_path / "texts.npy", np.ones((3, 4), np.float32))
    with pytest.raises(DataError, match=r"3 rows, the store has \d+ \(--relevance-texts\)"):
        mined(store, tmp_path / "lists", relevance="captions", relevance_texts=tmp_path / "texts.npy")
    with pytest.raises(ConfigError, match="--relevance-texts: expected with --relevance captions"):
        MineConfig(relevance_texts=tmp_path / "texts.npy")


def test_a_grading_without_labels_is_refused(store, tmp_path):
    with pytest.raises(DataError, match=r"its images have no labels \(--relevance labels\)"):
        mined(store, tmp_path / "lists", relevance="labels")


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (
            {"strategy": "mixed", "positives": "retrieved"},
            "--positives retrieved: the list is the first stage's own; expected",
        ),
        (
            {"positives": "retrieved", "duplicate_cosine": 0.9},
            "--positives retrieved: the list is the first stage's own",
        ),
        ({"strategy": "top-k", "positives": "retrieved", "positive_margin": 0.1}, "--positives retrieved"),
        ({"strategy": "mixed", "random_negatives": 0}, "--random-negatives 0: expected at least 1"),
        ({"index": "ivf", "probes": 0}, "--probes 0: expected at least 1"),
    ],
)
def test_settings_that_cannot_be_are_refused(parameters, message):
    with pytest.raises(ConfigError, match=message):
        MineConfig(**parameters)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"strategy": "top-k", "hard_negatives": 20}, "--hard-negatives 20: the t2i gallery of val has only 19 items"),
        ({"strategy": "mixed", "hard_negatives": 15, "random_negatives": 5},
         "--hard-negatives and --random-negatives 20: the t2i gallery of val has only 19"),
    ],
)  # fmt: skip
def test_lists_longer_than_the_gallery_are_refused(store, tmp_path, parameters, message):
    with pytest.raises(ConfigError, match=message):
        mined(store, tmp_path / "lists", **parameters)


@given(st.integers(0, 2**31), st.integers(1, 12), st.integers(1, 40))
def test_first_closes_up_what_is_left_in_its_order(seed, count, width):
    generator = np.random.default_rng(seed)
    items = generator.integers(-1, 3, (3, width))
    ranked = RankedItems(items, generator.random((3, width)).astype(np.float32))
    first = ranked.take_first(count)
    for row in range(3):
        left = [(i, s) for i, s in zip(items[row], ranked.similarity[row], strict=True) if i >= 0][:count]
        kept = first.items[row] >= 0
        assert list(zip(first.items[row][kept], first.similarity[row][kept], strict=True)) == left

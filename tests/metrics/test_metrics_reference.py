"""Agreement with public implementations: live with ir_measures, and with values recorded from others."""

import os
from pathlib import Path

import ir_measures
import numpy as np
import pytest
from ir_measures import RR, R, Success, nDCG
from numpy.testing import assert_allclose

from xmrank.metrics import list_metrics

KS = (1, 3, 5, 10)
PUBLIC = ("m1_B4_n5_bin", "m2_B32_n21_bin1", "m3_B32_n51_bin1_5", "m4_B8_n51_bin0_1_5", "m5_B32_n21_graded")
ALLRANK = ("c01_B1_n5_bin1", "c02_B4_n5_graded", "c03_B4_n21_bin0_1_5", "c04_B4_n21_graded_pad")
ALLRANK += ("c05_B32_n51_bin1_5", "c09_B4_n21_allzero", "c12_B1_n51_bin5")


@pytest.fixture
def recorded():
    """Opens a reference file by name."""
    folder = os.environ.get("XMRANK_REFERENCE")
    if not folder:
        pytest.skip("XMRANK_REFERENCE does not name the folder of reference values")

    def load(name):
        path = Path(folder) / name
        if not path.exists():
            pytest.skip(f"{name} is not in the folder of reference values")
        with np.load(path) as file:
            return dict(file)

    return load


def ndcg(scores, labels, k, **options):
    return list_metrics(scores, labels, ks=(k,), **options)[f"ndcg@{k}"]


def assert_public(values, expected, rtol=1e-12):
    """Equal where a query has positives: the libraries give 0, 1 or NaN to one without, and here it is NaN."""
    real = ~np.isnan(values)
    assert_allclose(values[real], expected[real], rtol=rtol, atol=rtol)


@pytest.mark.parametrize("seed", range(5))
def test_ir_measures_agrees_on_untied_lists(seed):
    random = np.random.default_rng(seed)
    queries, items = 40, int(random.integers(11, 80))
    scores = random.permuted(np.tile(np.arange(items) - items // 2, (queries, 1)), axis=1)  # untied in any precision
    labels = random.integers(0, 4, (queries, items)) * (random.random((queries, items)) < 0.15)
    labels[:, 0] = 1
    qrels = {str(q): {str(i): int(y) for i, y in enumerate(row)} for q, row in enumerate(labels)}
    run = {str(q): {str(i): float(s) for i, s in enumerate(row)} for q, row in enumerate(scores)}
    measures = [RR, nDCG @ 10, *(Success @ k for k in (1, 5, 10)), *(R @ k for k in (1, 5, 10))]
    theirs = {str(measure): np.full(queries, np.nan) for measure in measures}
    for result in ir_measures.iter_calc(measures, qrels, run):
        theirs[str(result.measure)][int(result.query_id)] = result.value

    ours = list_metrics(scores, labels, gain="linear")
    assert_allclose(ours["mrr"], theirs["RR"], rtol=1e-12)
    assert_allclose(ours["ndcg@10"], theirs["nDCG@10"], rtol=1e-12)
    for k in (1, 5, 10):
        assert_allclose(ours[f"hit@{k}"], theirs[f"Success@{k}"], rtol=1e-12)
        assert_allclose(ours[f"recall@{k}"], theirs[f"R@{k}"], rtol=1e-12)


@pytest.mark.parametrize("case", PUBLIC)
def test_recorded_hit_recall_and_mrr(recorded, case):
    values = recorded("metrics_public.npz")
    ours = list_metrics(values[f"{case}.scores"], values[f"{case}.labels"], ks=KS)
    assert (np.isnan(ours["mrr"]) == (values[f"{case}.labels"] == 0).all(axis=1)).all()
    assert_public(ours["mrr"], values[f"{case}.irm.RR"])
    assert_public(ours["mrr"], values[f"{case}.ranx.mrr"])
    assert_public(ours["mrr"], values[f"{case}.tm.rr@all"], rtol=1e-6)
    for k in KS:
        assert_public(ours[f"hit@{k}"], values[f"{case}.tm.hit@{k}"], rtol=1e-6)
        assert_public(ours[f"recall@{k}"], values[f"{case}.tm.recall@{k}"], rtol=1e-6)
    for k in (1, 5, 10):
        assert_public(ours[f"hit@{k}"], values[f"{case}.irm.Success@{k}"])
        assert_public(ours[f"recall@{k}"], values[f"{case}.irm.R@{k}"])
        assert_public(ours[f"recall@{k}"], values[f"{case}.ranx.recall@{k}"])


@pytest.mark.parametrize("case", PUBLIC)
@pytest.mark.parametrize("k", [*KS, 51])
def test_recorded_ndcg(recorded, case, k):
    values = recorded("metrics_public.npz")
    scores, labels = values[f"{case}.scores"], values[f"{case}.labels"]
    at = "all" if k == 51 else k
    for gain, suffix in (("exponential", "exp"), ("linear", "lin")):
        ours = ndcg(scores, labels, k, gain=gain)
        assert_public(ours, values[f"{case}.sk.ndcg_{suffix}@{at}"])
        assert_public(ours, values[f"{case}.tm.ndcg_{suffix}@{at}"], rtol=2e-6)
    linear, exponential = ndcg(scores, labels, k, gain="linear"), ndcg(scores, labels, k)
    assert_public(linear, values[f"{case}.irm.nDCG" + ("" if k == 51 else f"@{k}")])
    if k in (5, 51):
        assert_public(exponential, values[f"{case}.ranx.ndcg_burges" + ("" if k == 51 else f"@{k}")])


@pytest.mark.parametrize("k", [*KS, 21])
def test_recorded_ndcg_of_ties_by_the_libraries_that_average_over_them(recorded, k):
    # The others break the ties of this case by position or identifier, each in its own way.
    values, case, at = recorded("metrics_public.npz"), "m6_B8_n21_bin_ties", "all" if k == 21 else k
    ours = ndcg(values[f"{case}.scores"], values[f"{case}.labels"], k)
    assert_allclose(ours, values[f"{case}.sk.ndcg_exp@{at}"], rtol=1e-12)
    assert_allclose(ours, values[f"{case}.tm.ndcg_exp@{at}"], rtol=2e-6)


@pytest.mark.parametrize("case", ["case0", "case1"])
def test_recorded_recall_of_an_image_text_evaluation(recorded, case):
    values = recorded("itr_recall_eval.npz")
    images_by_captions = values[f"{case}.sims"]
    images, captions = images_by_captions.shape
    own = np.arange(images)[:, None] == np.arange(captions) // 5
    for direction, scores, labels in (("i2t", images_by_captions, own), ("t2i", images_by_captions.T, own.T)):
        ours = list_metrics(scores, labels)
        percent = [100 * ours[f"hit@{k}"].mean() for k in (1, 5, 10)]  # the field's R@K is a hit rate
        assert_allclose(percent, values[f"{case}.{direction}_r1_r5_r10_medr_meanr"][:3], rtol=1e-12)
        assert_allclose(ours["mrr"], 1 / (1 + values[f"{case}.{direction}_ranks0"]), rtol=1e-12)


@pytest.mark.parametrize("case", ALLRANK)
def test_recorded_ndcg_and_mrr_of_allrank(recorded, case):
    values = recorded(f"allrank_{case}.npz")
    scores, labels = values["scores"], values["labels"]
    mask = np.arange(scores.shape[1]) < values["n_valid"][:, None]
    # allRank's reciprocal rank is that of the first item with the list's highest label.
    best = (labels == labels.max(axis=1, keepdims=True)) & (labels > 0)
    first = list_metrics(scores, best, mask=mask)["mrr"]
    for column, k in enumerate(values["metric_ats"]):
        assert_public(ndcg(scores, labels, k, mask=mask), values["metric.ndcg_exp"][:, column])
        assert_public(ndcg(scores, labels, k, mask=mask, gain="linear"), values["metric.ndcg_lin"][:, column])
        assert_public(np.where(first < 1 / k, 0, first), values["metric.mrr_rowwise"][:, column])

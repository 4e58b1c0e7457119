"""The headline of a training: the loss that validation chose, the first stage, and the difference."""

import pytest

from xmrank.evaluate.headline import choose_losses, describe_results, list_headline
from xmrank.train.trials import Trial


def make_rows():
    """i2t: lists and a top 10 of the gallery, for a first stage and two losses with two seeds."""
    figures = {
        ("lists", "cosine", "", -1): 0.2,
        ("gallery", "cosine", "", -1): 0.1,
        ("top-10", "oracle", "", -1): 0.9,
        ("lists", "ranker", "listnet", 0): 0.3,
        ("lists", "ranker", "listnet", 1): 0.5,
        ("top-10", "ranker", "listnet", 0): 0.1,
        ("top-10", "ranker", "listnet", 1): 0.3,
        ("lists", "ranker", "ranknet", 0): 0.8,
        ("top-10", "ranker", "ranknet", 0): 0.8,
    }
    rows = []
    for (protocol, method, loss, seed), value in figures.items():
        row = {"direction": "i2t", "protocol": protocol, "method": method, "loss": loss, "seed": seed}
        for number, metric in enumerate(("hit@1", "hit@5", "hit@10", "mrr")):
            rows.append({**row, "metric": metric, "mean": value + number / 100})
    return rows


def test_validation_chooses_the_loss_by_the_mean_over_seeds():
    validations = {
        Trial("listnet", "i2t", 0): 0.5,
        Trial("listnet", "i2t", 1): 0.6,
        Trial("ranknet", "i2t", 0): 0.7,
        Trial("ranknet", "i2t", 1): 0.3,
        Trial("ranknet", "t2i", 0): 0.1,
    }
    assert choose_losses(validations) == {"i2t": "listnet", "t2i": "ranknet"}


def test_the_headline_compares_the_best_loss_with_the_first_stage_of_the_same_gallery():
    headline = list_headline(make_rows(), {"i2t": "listnet"})
    assert len(headline) == 2 * 3 * 3
    assert headline["first_stage/i2t/hit_at_1"] == pytest.approx(0.2)
    assert headline["best/i2t/hit_at_1"] == pytest.approx((0.3 + 0.5) / 2)
    assert headline["gain/i2t/hit_at_1"] == pytest.approx(0.4 - 0.2)
    # The top 10 are those of the gallery: (0.11 + 0.31) / 2 - 0.11 at 5.
    assert headline["gain/i2t/top-10/hit_at_5"] == pytest.approx(0.21 - 0.11)


def test_the_description_has_a_table_for_each_protocol_that_rankers_rank():
    text = describe_results(make_rows(), {"i2t": "listnet"})
    assert [line for line in text.splitlines() if line.startswith("**")] == [
        "**Candidate lists: image → text**",
        "**Full gallery, top 10 re-ranked: image → text**",
    ]
    assert "| First stage | 20.0 | 21.0 | 22.0 |" in text
    assert "| ListNet | **40.0** | **41.0** | **42.0** |" in text
    assert "| First stage | 10.0 | 11.0 | 12.0 |" in text
    assert "oracle" not in text.lower() and "Best possible" not in text

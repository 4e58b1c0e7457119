"""Words and number formats of the terminal, the Markdown and the pages."""

import math
from collections.abc import Sequence
from typing import Any

from xmrank.config.method_names import FIRST_STAGE, REFINED

LISTWISE = "-sndcg"
"""In a baseline's name, before the weight of S-NDCG in its objective."""
CEILING = "Best possible"
MARKS = {1: "▲", 0: "", -1: "▼"}
ALPHA = 0.05
DIRECTION_NAMES = {"i2t": "image → text", "t2i": "text → image"}
METRIC_GROUPS = (
    ("hit@k", ("hit@1", "hit@5", "hit@10")),
    ("recall@k", ("recall@1", "recall@5", "recall@10")),
    ("", ("mrr", "ndcg@10")),
)
METRICS = tuple(metric for _, metrics in METRIC_GROUPS for metric in metrics)
METRIC_NAMES = {"mrr": "MRR", "ndcg@10": "NDCG@10"}
METHOD_NAMES = {
    FIRST_STAGE: "First stage",
    REFINED: "Refined first stage",
    "lambdarank": "LambdaRank",
    "neural_ndcg": "NeuralNDCG",
    "listnet": "ListNet",
    "ranknet": "RankNet",
    "cca": "CCA",
    "regularised_cca": "Regularised CCA",
    "kernel_cca": "Kernel CCA",
    "dcca": "DCCA",
    "cmpm": "CMPM",
    "cmpm_cmpc": "CMPM + CMPC",
    "vsepp": "VSE++",
    "infonce": "InfoNCE",
}
GLOSSARY = (
    (
        "first stage",
        "The encoder’s own ranking: candidates by the cosine of their embedding and the query’s. "
        "Every ranker is compared with it on the same queries.",
    ),
    (
        "i2t, t2i",
        "Image → text (i2t): an image query retrieves captions. Text → image (t2i): a caption query retrieves images.",
    ),
    (
        "candidate lists",
        "Each query has a short list of hard candidates with at least one right answer. The whole list "
        "is ranked; the figures say how well a method sorts a list that is known to contain the answer.",
    ),
    (
        "full gallery",
        "Everything that can be retrieved. The first stage ranks all of it; a ranker re-ranks the first stage’s top N. "
        "This is what a search system does, and the harder test.",
    ),
    (
        "baselines",
        "Other methods that map images and captions into one space, fitted on paired data. They rank the same lists "
        "and the whole gallery by cosine; they do not re-rank.",
    ),
    ("hit@k", "Fraction of queries with at least one right answer among the first k, usually called R@k."),
    (
        "recall@k",
        "Right answers among the first k, divided by all right answers. An image with five right captions "
        "cannot have a recall@1 above 20 %. Where a query has one right answer, recall@k equals hit@k.",
    ),
    ("MRR", "Mean of 1 / rank of the first right answer."),
    ("NDCG@10", "Discounted gain of the ranks 1 to 10, divided by the largest that any order gives."),
    (
        "mean ± deviation",
        "All figures are percentages. A seed’s figure is the mean over its queries; the table shows the mean over "
        "seeds and, from two seeds on, their standard deviation (n − 1). It says how much training varies, not how "
        "much another sample of queries would change the figure.",
    ),
    (
        "best possible",
        "The best that a re-ranking of the first stage’s top N can reach: the right answers among the N put first. "
        "A right answer beyond the top N is lost for every re-ranking.",
    ),
    (
        "▲ ▼",
        "Significantly above or below the first stage: p < 0.05 after Holm’s correction over all columns and methods "
        "of the protocol, both directions together. The p-value is the probability of a mean difference at least as "
        "large if the two methods were interchangeable: two-sided, by random signs of the per-query differences, "
        "which are averaged over seeds; the captions of an image change sign together. table.csv has p, "
        "the 95 % interval (by drawing images anew), and in how many queries a ranker is better, equal and worse.",
    ),
    (
        "seeds",
        "Two sources of variation are kept separate: ± is over seeds, the test and its "
        "interval are over queries. table.csv says in how many seeds a difference has the sign of the mean.",
    ),
    (
        "difference",
        "The small figure under a ranker’s mean is its distance from the first stage in percentage points. "
        "Bold marks the best of a column, as printed.",
    ),
)


def method_name(method: str) -> str:
    """The usual name of a method."""
    # A baseline that is trained with S-NDCG has its weight in its name: vsepp-sndcg0.5.
    name, mixed, weight = method.partition(LISTWISE)
    return METHOD_NAMES.get(name, name) + (f" + {weight} S-NDCG" if mixed else "")


def metric_name(metric: str) -> str:
    """A metric as a column heading."""
    return METRIC_NAMES.get(metric, metric)


def format_percent(fraction: float, digits: int = 1) -> str:
    """A fraction in percent, without the sign: 0.4123 → "41.2"."""
    return "–" if math.isnan(fraction) else f"{100 * fraction:.{digits}f}"


def format_percentage(fraction: float) -> str:
    """A fraction in percent for running text; no line breaks before the sign."""
    return f"{format_percent(fraction)}\N{NO-BREAK SPACE}%"


def format_points(fraction: float) -> str:
    """A difference of fractions in percentage points, signed: −0.0123 → "−1.2"."""
    # A difference that rounds to 0 has no sign.
    text = f"{100 * fraction:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "−")


def format_probability(p: float) -> str:
    """A p-value with its relation: 0.0321 → "= 0.032", 0.00003 → "< 0.001"."""
    if p < 0.001:
        return "< 0.001"
    # Two digits that count: 0.032, 0.32.
    return f"= {p:.3f}" if p < 0.0995 else f"= {p:.2f}"


def join_words(words: Sequence[str]) -> str:
    """Words as a phrase: "a, b and c"."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def count_noun(count: int, word: str) -> str:
    """A count and its noun: "1 query", "1,200 queries"."""
    many = {"query": "queries", "loss": "losses"}.get(word, f"{word}s")
    return f"{count:,} {word if count == 1 else many}"


def describe_value(value: Any) -> str:
    """A value of a manifest as text."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {describe_value(entry)}" for key, entry in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(describe_value, value))
    # Before numbers: True is an int too.
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    return f"{value:,}" if isinstance(value, int) else str(value)

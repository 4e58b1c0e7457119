"""The protocol card: what was run, as far as the stages' manifests say."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from xmrank.pages.wording import joined, plain, plural
from xmrank.protocols.method_names import FIRST_STAGE
from xmrank.report.inputs import ReportInputs
from xmrank.report.protocol_names import baseline_protocol, protocol_name
from xmrank.report.result_tables import ResultTable

LEFT_OUT_SHOWN = 8
LIST_WORDS = {
    "random_candidates": "{} random candidates a query",
    "hard_negatives": "the {} most similar kept",
    "positives": "positives an image query: {}",
    "captions": "captions an image that ask: {}",
    "seed": "seed {}",
}


def protocol_card(inputs: ReportInputs, tables: Sequence[ResultTable]) -> list[tuple[str, str]]:
    """Name and value of everything a reader needs to repeat or to doubt the figures."""
    settings = inputs.evaluation.settings
    card = [
        ("Data set", _data_set(inputs)),
        ("Split reported", _split(inputs.split, settings)),
        ("Queries", _queries(tables)),
        ("Encoder", _encoder(inputs.encoder)),
        ("Candidate lists", _lists(settings.get("lists_config"))),
        ("Candidates a list", _candidates(settings.get("candidates_per_list"))),
        ("Given away", _given_away(settings.get("positives_last"))),
        ("Protocols", "; ".join(dict.fromkeys(protocol_name(t.protocol).lower() for t in tables))),
        ("Ranker", _ranker(inputs.rankers.config.get("ranker"))),
        ("Refinement", _refinement(inputs.rankers.config.get("refine"))),
        ("Training", _training(inputs.rankers.config)),
        ("Losses", ", ".join(dict.fromkeys(r.label for t in tables for r in t.rows if r.trained_ranker))),
        ("Seeds", _seeds(inputs, tables)),
        ("Ties", plain(settings.get("tie_rule", ""))),
        ("Test", _test(tables)),
    ]
    return [(name, value) for name, value in card if value]


def fingerprints(inputs: ReportInputs) -> list[tuple[str, str]]:
    """Stage and fingerprint of everything the figures rest on."""
    known = {**inputs.evaluation.inputs, **inputs.fingerprints}
    return [
        (name, known[name]) for name in ("embeddings", "lists", "rankers", "baselines", "evaluation") if name in known
    ]


def subtitle(inputs: ReportInputs, tables: Sequence[ResultTable]) -> str:
    """The run in a line."""
    losses = {row.method for table in tables for row in table.rows if row.trained_ranker}
    directions = {table.direction for table in tables}
    sizes = ((len(losses), "loss"), (len(directions), "direction"), (_seed_count(tables), "seed"))
    name = inputs.encoder.get("name")
    parts = [
        _data_set(inputs),
        f"{inputs.split} split" if inputs.split else "",
        f"encoder {name}" if name else "",
        " × ".join(plural(count, word) for count, word in sizes),
    ]
    return " · ".join(part for part in parts if part)


def stage_counts(inputs: ReportInputs) -> list[tuple[str, str, str]]:
    """Stage, what was counted, how many."""
    manifests = (("embed", inputs.embeddings), ("train", inputs.rankers), ("evaluate", inputs.evaluation))
    return [(stage, name, value) for stage, manifest in manifests for name, value in _flat(manifest.counts)]


def left_out(inputs: ReportInputs) -> list[tuple[str, int, list[str]]]:
    """Stage, how many entries its manifest lists as left out, and the first of them in words."""
    manifests = (("embed", inputs.embeddings), ("train", inputs.rankers), ("evaluate", inputs.evaluation))
    return [
        (stage, len(manifest.left_out), [plain(entry) for entry in manifest.left_out[:LEFT_OUT_SHOWN]])
        for stage, manifest in manifests
        if manifest.left_out
    ]


def _flat(counts: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows = []
    for key, value in counts.items():
        name = f"{prefix}{str(key).replace('_', ' ')}"
        rows += _flat(value, f"{name}, ") if isinstance(value, dict) else [(name, plain(value))]
    return rows


def _data_set(inputs: ReportInputs) -> str:
    if inputs.images_root is None:
        return "imported embeddings"
    return str(inputs.embeddings.settings.get("dataset") or inputs.embeddings.config.get("dataset") or "not named")


def _split(name: str, settings: dict[str, Any]) -> str:
    """The split's name, its size, and a hash of its image ids by which it can be told from other splits."""
    count, digest = settings.get("split_images"), settings.get("split_hash")
    parts = [name, f"{count:,} images" if count else "", f"sha256 of the image ids {digest[:16]}…" if digest else ""]
    return ", ".join(part for part in parts if part)


def _test(tables: Sequence[ResultTable]) -> str:
    """How a difference to the first stage is tested, and how many comparisons each protocol's p is corrected for."""
    cells = [(t.protocol, cell) for t in tables for row in t.rows for cell in row.cells.values() if cell.test]
    if not cells:
        return ""
    sizes = Counter(protocol for protocol, _ in cells)
    counts = joined(list(dict.fromkeys(f"{count:,}" for count in sizes.values())))
    return (
        "two-sided sign flips of per-query differences, averaged over seeds, clustered by image; Holm over "
        f"{counts} comparisons of a protocol"
    )


def _queries(tables: Sequence[ResultTable]) -> str:
    """Queries asked on each protocol, counted ones and excluded ones."""
    asked: dict[str, list[str]] = {}
    for table in tables:
        cells = (table.first_stage or table.rows[0]).cells.values()
        count = max((cell.queries + cell.excluded for cell in cells), default=0)
        place = protocol_name(baseline_protocol(table.protocol)).lower()
        asked.setdefault(place, []).append(f"{count:,} {table.direction}")
    return "; ".join(f"{protocol}: {joined(list(dict.fromkeys(counts)))}" for protocol, counts in asked.items())


def _encoder(encoder: dict[str, Any]) -> str:
    name, weights, size, digest = (encoder.get(key) for key in ("name", "pretrained", "dimensions", "weights_hash"))
    said = "untrained" if weights == "none" else f"weights {weights}" if weights else ""
    of_weights = f"sha256 of the weights {str(digest)[:16]}…" if digest else ""
    parts = [str(name or "unknown"), said, f"{size} dimensions" if size else "", of_weights]
    return ", ".join(part for part in parts if part)


def _lists(config: dict[str, Any] | None) -> str:
    config = config or {}
    return ", ".join(words.format(plain(config[key])) for key, words in LIST_WORDS.items() if key in config)


def _candidates(counts: Any) -> str:
    """Candidates a list by direction; the counts of lists are named after direction and role."""
    return plain(
        {str(k).removesuffix("_test"): v for k, v in counts.items()} if isinstance(counts, dict) else counts or ""
    )


def _given_away(shares: Any) -> str:
    """How often a list betrays its right answer by the way it was made."""
    if not isinstance(shares, dict) or not any(shares.values()):
        return ""
    found = joined([f"{100 * share:.1f} % of the {name.removesuffix('_test')}" for name, share in shares.items()])
    return (
        f"in {found} lists the first stage puts the right answer behind all others, where an item is found by standing "
        "apart; a gallery has no such places"
    )


def _refinement(config: dict[str, Any] | None) -> str:
    """The first stage of a ranker's own, if it has one."""
    if not config or not config.get("members"):
        return ""
    words = {"width": "width {}", "epochs": "{} epochs", "hubness_weight": "hubness {}", "memory_weight": "memory {}"}
    parts = [f"{config['members']} pairs of adapters"]
    parts += [text.format(plain(config[key])) for key, text in words.items() if config.get(key)]
    if config.get("average"):
        parts.append(f"mean of the last {100 * config['average']:.0f} % of the steps")
    return ", ".join(parts + ["weights learned"] * bool(config.get("learn_fusion")))


def _ranker(config: dict[str, Any] | None) -> str:
    """The ranker's name and what of its configuration is set."""
    config = dict(config or {})
    name = str(config.pop("name", "")).replace("_", "-")
    idle = {"levels"} if config.get("levels") == 1 else set()
    idle |= set() if config.get("residual") else {"residual_learnable"}
    unset: tuple[Any, ...] = (None, False, 0, 0.0, [], ())
    rest = [f"{k.replace('_', ' ')} {plain(v)}" for k, v in config.items() if v not in unset and k not in idle]
    return ": ".join(part for part in (name, ", ".join(rest)) if part)


def _training(config: dict[str, Any]) -> str:
    words = {"epochs": "{} epochs", "batch_size": "{} lists a step", "learning_rate": "learning rate {}"}
    words |= {"patience": "stopped after {} validations without a better one"}
    if config.get("sampling") not in (None, "fixed"):
        found = (
            ", positives retrieved"
            if config["sampling"] == "random-hard" and config.get("sampling_positives") == "retrieved"
            else ""
        )
        words["sampling"] = f"lists drawn anew every epoch ({{}}{found})"
    return ", ".join(text.format(plain(config[key])) for key, text in words.items() if config.get(key) is not None)


def _seeds(inputs: ReportInputs, tables: Sequence[ResultTable]) -> str:
    seeds = inputs.rankers.config.get("seeds") or sorted({trial.seed for trial in inputs.trials})
    return plain(list(seeds)) if seeds else str(_seed_count(tables))


def _seed_count(tables: Sequence[ResultTable]) -> int:
    rows = [row for table in tables for row in table.rows if row.method != FIRST_STAGE]
    return max((len(cell.by_seed) for row in rows for cell in row.cells.values()), default=0)

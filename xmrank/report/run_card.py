"""The run card: what was run, according to the stages' manifests."""

from collections.abc import Sequence
from typing import Any

from xmrank.config.method_names import FIRST_STAGE
from xmrank.pages.wording import count_noun, describe_value, join_words
from xmrank.protocols.protocol_names import first_stage_protocol, protocol_name
from xmrank.report.inputs import ReportInputs
from xmrank.report.result_tables import ResultTable

LEFT_OUT_SHOWN = 8
LIST_WORDS = {
    "random_candidates": "{} random candidates per query",
    "hard_negatives": "the {} most similar kept",
    "positives": "positives per image query: {}",
    "captions": "query captions per image: {}",
    "seed": "seed {}",
}


def make_run_card(inputs: ReportInputs, tables: Sequence[ResultTable]) -> list[tuple[str, str]]:
    """Name and value of everything that a reader needs to repeat or question the figures."""
    settings = inputs.evaluation.settings
    entries = [
        ("Data set", _describe_data_set(inputs)),
        ("Split reported", _describe_split(inputs.split, settings)),
        ("Queries", _count_queries(tables)),
        ("Encoder", _describe_encoder(inputs.encoder)),
        ("Candidate lists", _describe_lists(settings.get("lists_config"))),
        ("Candidates per list", _describe_candidates(settings.get("candidates_per_list"))),
        ("Positives behind", _describe_positives_last(settings.get("positives_last"))),
        ("Protocols", "; ".join(dict.fromkeys(protocol_name(t.protocol).lower() for t in tables))),
        ("Ranker", _describe_ranker(inputs.rankers.config.get("ranker"))),
        ("Refinement", _describe_refinement(inputs.rankers.config.get("refine"))),
        ("Training", _describe_training(inputs.rankers.config)),
        ("Losses", ", ".join(dict.fromkeys(r.label for t in tables for r in t.rows if r.trained_ranker))),
        ("Seeds", _describe_seeds(inputs, tables)),
        ("Ties", describe_value(settings.get("tie_rule", ""))),
        ("Test", _describe_test(tables)),
    ]
    # A run without a part, such as a refinement, has no entry for it.
    return [(name, value) for name, value in entries if value]


def stage_fingerprints(inputs: ReportInputs) -> list[tuple[str, str]]:
    """Stage and fingerprint of everything that the figures depend on."""
    # The lists have no directory of their own here; the evaluation names their fingerprint.
    known = {**inputs.evaluation.inputs, **inputs.fingerprints}
    return [
        (name, known[name]) for name in ("embeddings", "lists", "rankers", "baselines", "evaluation") if name in known
    ]


def make_subtitle(inputs: ReportInputs, tables: Sequence[ResultTable]) -> str:
    """The run in one line."""
    losses = {row.method for table in tables for row in table.rows if row.trained_ranker}
    directions = {table.direction for table in tables}
    sizes = ((len(losses), "loss"), (len(directions), "direction"), (_seed_count(tables), "seed"))
    name = inputs.encoder.get("name")
    parts = [
        _describe_data_set(inputs),
        f"{inputs.split} split" if inputs.split else "",
        f"encoder {name}" if name else "",
        " × ".join(count_noun(count, word) for count, word in sizes),
    ]
    return " · ".join(part for part in parts if part)


def stage_counts(inputs: ReportInputs) -> list[tuple[str, str, str]]:
    """For each count of a stage: the stage, what it counted, how many."""
    manifests = (("embed", inputs.embeddings), ("train", inputs.rankers), ("evaluate", inputs.evaluation))
    return [(stage, name, value) for stage, manifest in manifests for name, value in _flatten_counts(manifest.counts)]


def left_out_entries(inputs: ReportInputs) -> list[tuple[str, int, list[str]]]:
    """For each stage that left something out: the stage, how many entries, and the first of them in words."""
    manifests = (("embed", inputs.embeddings), ("train", inputs.rankers), ("evaluate", inputs.evaluation))
    entries = []
    for stage, manifest in manifests:
        if manifest.left_out:
            first = [describe_value(entry) for entry in manifest.left_out[:LEFT_OUT_SHOWN]]
            entries.append((stage, len(manifest.left_out), first))
    return entries


def _flatten_counts(counts: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows = []
    for key, value in counts.items():
        name = f"{prefix}{str(key).replace('_', ' ')}"
        # Nested counts get the path of their names: "i2t test, queries".
        rows += _flatten_counts(value, f"{name}, ") if isinstance(value, dict) else [(name, describe_value(value))]
    return rows


def _describe_data_set(inputs: ReportInputs) -> str:
    # Imported embeddings do not say which data set they are of.
    if inputs.images_root is None:
        return "imported embeddings"
    return str(inputs.embeddings.settings.get("dataset") or inputs.embeddings.config.get("dataset") or "not named")


def _describe_split(name: str, settings: dict[str, Any]) -> str:
    """The split's name, its size, and a hash of its image ids, which identifies it."""
    count, digest = settings.get("split_images"), settings.get("split_hash")
    parts = [name, f"{count:,} images" if count else "", f"sha256 of the image ids {digest[:16]}…" if digest else ""]
    return ", ".join(part for part in parts if part)


def _describe_test(tables: Sequence[ResultTable]) -> str:
    """How a difference to the first stage is tested, and for how many comparisons p is corrected."""
    # Tables of one protocol have the same number.
    sizes = {table.protocol: table.tests for table in tables if table.tests}
    if not sizes:
        return ""
    counts = join_words(list(dict.fromkeys(f"{count:,}" for count in sizes.values())))
    return (
        "two-sided sign flips of per-query differences, averaged over seeds, clustered by image; Holm over "
        f"{counts} comparisons of a protocol"
    )


def _count_queries(tables: Sequence[ResultTable]) -> str:
    """How many queries each protocol has, with those that are excluded."""
    counts_by_protocol: dict[str, list[str]] = {}
    for table in tables:
        # The first stage ranks every query.
        cells = (table.first_stage or table.rows[0]).cells.values()
        count = max((cell.queries + cell.excluded for cell in cells), default=0)
        name = protocol_name(first_stage_protocol(table.protocol)).lower()
        counts_by_protocol.setdefault(name, []).append(f"{count:,} {table.direction}")
    return "; ".join(
        f"{protocol}: {join_words(list(dict.fromkeys(counts)))}" for protocol, counts in counts_by_protocol.items()
    )


def _describe_encoder(encoder: dict[str, Any]) -> str:
    name, weights, size, digest = (encoder.get(key) for key in ("name", "pretrained", "dimensions", "weights_hash"))
    source = "untrained" if weights == "none" else f"weights {weights}"
    of_weights = f"sha256 of the weights {str(digest)[:16]}…" if digest else ""
    parts = [str(name or "unknown"), source if weights else "", f"{size} dimensions" if size else "", of_weights]
    return ", ".join(part for part in parts if part)


def _describe_lists(config: dict[str, Any] | None) -> str:
    config = config or {}
    return ", ".join(words.format(describe_value(config[key])) for key, words in LIST_WORDS.items() if key in config)


def _describe_candidates(counts: Any) -> str:
    """Candidates per list by direction; the manifest names its counts by direction and role."""
    if not isinstance(counts, dict):
        return describe_value(counts or "")
    return describe_value({str(name).removesuffix("_test"): count for name, count in counts.items()})


def _describe_positives_last(shares: Any) -> str:
    """In how many lists all positives are less similar to the query than all negatives.

    Such a list gives its answer away by the way it was made: the negatives are the most similar of many items, while
    the positive is added whatever its similarity is.
    """
    if not isinstance(shares, dict) or not any(shares.values()):
        return ""
    parts = join_words([f"{100 * share:.1f} % of the {name.removesuffix('_test')}" for name, share in shares.items()])
    return (
        f"in {parts} lists the first stage ranks the right answers behind all others, which a ranker can learn to "
        "exploit; in a gallery it cannot"
    )


def _describe_refinement(config: dict[str, Any] | None) -> str:
    """The rankers' refined similarity, if they have one."""
    if not config or not config.get("members"):
        return ""
    words = {"width": "width {}", "epochs": "{} epochs", "hubness_weight": "hubness {}", "memory_weight": "memory {}"}
    parts = [f"{config['members']} pairs of adapters"]
    parts += [text.format(describe_value(config[key])) for key, text in words.items() if config.get(key)]
    if config.get("average"):
        parts.append(f"mean of the last {100 * config['average']:.0f} % of the steps")
    return ", ".join(parts + ["weights learned"] * bool(config.get("learn_fusion")))


def _describe_ranker(config: dict[str, Any] | None) -> str:
    """The ranker's name and its settings that are not empty."""
    config = dict(config or {})
    name = str(config.pop("name", "")).replace("_", "-")
    # Settings that have no effect beside the others.
    idle = {"levels"} if config.get("levels") == 1 else set()
    idle |= set() if config.get("residual") else {"residual_learnable"}
    unset: tuple[Any, ...] = (None, False, 0, 0.0, [], ())
    rest = [f"{k.replace('_', ' ')} {describe_value(v)}" for k, v in config.items() if v not in unset and k not in idle]
    return ": ".join(part for part in (name, ", ".join(rest)) if part)


def _describe_training(config: dict[str, Any]) -> str:
    words = {"epochs": "{} epochs", "batch_size": "{} lists per step", "learning_rate": "learning rate {}"}
    words |= {"patience": "stopped after {} validations without improvement"}
    # Lists that are sampled anew are worth an entry, the mined ones are not.
    if config.get("sampling") not in (None, "fixed"):
        positives = (
            ", positives retrieved"
            if config["sampling"] == "random-hard" and config.get("sampling_positives") == "retrieved"
            else ""
        )
        words["sampling"] = f"lists drawn anew every epoch ({{}}{positives})"
    return ", ".join(
        text.format(describe_value(config[key])) for key, text in words.items() if config.get(key) is not None
    )


def _describe_seeds(inputs: ReportInputs, tables: Sequence[ResultTable]) -> str:
    # From the configuration, else from the histories, else their number in the tables.
    seeds = inputs.rankers.config.get("seeds") or sorted({trial.seed for trial in inputs.trials})
    return describe_value(list(seeds)) if seeds else str(_seed_count(tables))


def _seed_count(tables: Sequence[ResultTable]) -> int:
    rows = [row for table in tables for row in table.rows if row.method != FIRST_STAGE]
    return max((len(cell.by_seed) for row in rows for cell in row.cells.values()), default=0)

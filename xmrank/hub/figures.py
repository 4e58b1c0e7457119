"""The figures on the card of rankers: from an evaluation of them, as the report has them."""

from dataclasses import replace
from pathlib import Path

from xmrank.config.hub import PushConfig
from xmrank.config.report import ReportConfig
from xmrank.hub.card import Figures, format_tables
from xmrank.runtime.errors import DataError
from xmrank.runtime.manifest import Manifest, parse_manifest
from xmrank.runtime.paths import resolve


def read_figures(config: PushConfig, directory: Path, manifest: Manifest) -> Figures:
    """What the evaluation of a training says; nothing for other stages, and where there is none.

    Raises:
        DataError: an evaluation or embeddings were named that are not of these rankers.
    """
    if manifest.stage != "train":
        return Figures()
    evaluation = find_stage(config.evaluation, directory.parent / "evaluation", {"rankers": manifest.fingerprint})
    if evaluation is None:
        return Figures()
    embeddings = find_stage(config.embeddings, directory.parent / "embeddings", {}, manifest.inputs.get("embeddings"))
    if embeddings is None:
        raise DataError(f"{evaluation}: its figures need the embedding store of these rankers (--embeddings)")
    return compute_figures(ReportConfig(embeddings=embeddings, rankers=directory, evaluation=evaluation))


def find_stage(given: Path | None, beside: Path, inputs: dict[str, str], fingerprint: str | None = None) -> Path | None:
    """The directory that a flag names, or the usual one if it is of these inputs or has this fingerprint."""
    if given is not None:
        return resolve(given)
    try:
        manifest = parse_manifest(beside)
    except (DataError, OSError):
        return None
    fits = all(manifest.inputs.get(name) == value for name, value in inputs.items())
    return beside if fits and fingerprint in (None, manifest.fingerprint) else None


def compute_figures(config: ReportConfig) -> Figures:
    """The tables with their tests, the result in a sentence, and what was run.

    Raises:
        DataError: stages that were not made from one another.
    """
    # pandas takes a second to import.
    from xmrank.report.inputs import open_inputs
    from xmrank.report.run_card import make_run_card
    from xmrank.report.summary import summarise_results
    from xmrank.report.writing import make_tested_tables

    inputs = open_inputs(config)
    tables = make_tested_tables(config, inputs)
    shown = [replace(table, ceiling=None) for table in tables]
    return Figures(summarise_results(tables).lead, format_tables(shown), make_run_card(inputs, tables))

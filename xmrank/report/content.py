"""All parts of a report, before they become Markdown or a page."""

from dataclasses import dataclass

from xmrank.config.report import ReportConfig
from xmrank.report import run_card
from xmrank.report.examples import ExampleGallery, choose_examples
from xmrank.report.gain_charts import GainChart, draw_gains
from xmrank.report.hyperparameter_importance import HyperparameterImportance, importance_of_searches
from xmrank.report.inputs import ReportInputs
from xmrank.report.latency_table import LatencyTable, read_latency
from xmrank.report.learning_curves import LearningCurves, draw_learning_curves
from xmrank.report.pairwise_tests import PairwiseTests
from xmrank.report.published import PublishedComparison, compare_published
from xmrank.report.recall_curves import RecallCurves, draw_recall_curves
from xmrank.report.reranking_depth import RerankingDepth, measure_depths
from xmrank.report.result_tables import ResultTable
from xmrank.report.seeds import SeedScatter, draw_seeds
from xmrank.report.statistical_power import describe_power
from xmrank.report.summary import Summary, summarise_results


@dataclass(frozen=True)
class ReportContent:
    """The parts of a report, in words and figures.

    Attributes:
        run_card: name and value of what was run.
        fingerprints: stage and fingerprint.
        stage_counts: stage, what it counted, how many.
        left_out: stage, how many entries it left out, the first of them.
        row_notes: what the refined first stage is, and what "kept its start" says; only where there are such rows.
        notes: what a reader must know of a table's query numbers, by the table's title; only where there is something.
    """

    title: str
    subtitle: str
    split: str
    summary: Summary
    gains: list[GainChart]
    run_card: list[tuple[str, str]]
    fingerprints: list[tuple[str, str]]
    tables: list[ResultTable]
    pairwise_tests: list[PairwiseTests]
    recall_curves: list[RecallCurves]
    seeds: list[SeedScatter]
    importance: list[HyperparameterImportance]
    depths: list[RerankingDepth]
    latency: LatencyTable | None
    learning_curves: list[LearningCurves]
    example_gallery: ExampleGallery
    published: list[PublishedComparison]
    stage_counts: list[tuple[str, str, str]]
    left_out: list[tuple[str, int, list[str]]]
    row_notes: list[str]
    notes: dict[str, str]


def build_content(
    config: ReportConfig, inputs: ReportInputs, tables: list[ResultTable], pairwise_tests: list[PairwiseTests]
) -> ReportContent:
    """Compute all parts of the report.

    Args:
        config: title and number of examples.
        inputs: the stages before.
        tables: the results.
        pairwise_tests: the rankers against each other.
    """
    return ReportContent(
        title=config.title,
        subtitle=run_card.make_subtitle(inputs, tables),
        split=inputs.split,
        summary=summarise_results(tables),
        gains=draw_gains(tables),
        run_card=run_card.make_run_card(inputs, tables),
        fingerprints=run_card.stage_fingerprints(inputs),
        tables=tables,
        pairwise_tests=pairwise_tests,
        recall_curves=draw_recall_curves(inputs.curves, tables),
        seeds=draw_seeds(tables),
        importance=importance_of_searches(inputs.search_results),
        depths=measure_depths(tables),
        latency=read_latency(inputs.timing),
        learning_curves=draw_learning_curves(inputs.trials, inputs.first_stage_validation),
        example_gallery=choose_examples(inputs, tables, config.examples, remote_images=config.remote_images),
        published=compare_published(tables),
        stage_counts=run_card.stage_counts(inputs),
        left_out=run_card.left_out_entries(inputs),
        row_notes=_describe_rows(tables),
        notes={table.title: note for table in tables if (note := _describe_table(table))},
    )


def _describe_rows(tables: list[ResultTable]) -> list[str]:
    """What the rows are that only some runs have."""
    notes = []
    if any(table.refined for table in tables):
        notes.append(
            "The refined first stage is the similarity that the rankers of a seed start from: adapters, hubness and "
            "memory, learned without a ranking loss. The second difference of a ranker is to it, with a test of its "
            "own: only that is a gain of the ranker and its loss."
        )
    if any(row.kept_start for table in tables for row in table.rows):
        notes.append(
            "“Kept its start”: no epoch was better on the validation lists than epoch 0, so the ranker is what it "
            "started from. Its figures are no merit of its loss: they have no mark and are never the best of a column."
        )
    return notes


def _describe_table(table: ResultTable) -> str:
    """What a reader must know of a table; empty where there is nothing."""
    return " ".join(filter(None, (_describe_excluded(table), describe_power(table.tests, table.smallest_p))))


def _describe_excluded(table: ResultTable) -> str:
    """What excluded queries mean for a table; empty where none is excluded."""
    if len(table.query_counts) > 1:
        low, *_, high = table.query_counts
        return (
            f"The rows’ means are over {low:,} to {high:,} queries, because up to {table.excluded:,} queries "
            "have nothing relevant in what is ranked and are excluded. The rows are not strictly comparable."
        )
    if table.excluded:
        return f"{table.excluded:,} queries have nothing relevant in what is ranked and are excluded."
    return ""

"""Everything that stands in a report, before it becomes Markdown or a page."""

from dataclasses import dataclass

from xmrank.config import ReportConfig
from xmrank.report import run_card as card
from xmrank.report.examples import ExampleGallery, choose_examples
from xmrank.report.hyperparameter_importance import HyperparameterImportance, searches
from xmrank.report.inputs import ReportInputs
from xmrank.report.learning_curves import LearningCurves, learning_curves
from xmrank.report.pairwise_tests import PairwiseTests
from xmrank.report.published import PublishedComparison, comparisons
from xmrank.report.recall_curves import RecallCurves, recall_curves
from xmrank.report.reranking_depth import RerankingDepth, over_depths
from xmrank.report.result_tables import ResultTable
from xmrank.report.seeds import SeedScatter, seed_scatter
from xmrank.report.summary import Summary, verdict


@dataclass(frozen=True)
class ReportContent:
    """The parts of a report, in words and figures.

    Attributes:
        notes: what a reader must know of the tables' query numbers; one line a table that needs it.
    """

    title: str
    subtitle: str
    split: str
    verdict: Summary
    card: list[tuple[str, str]]
    fingerprints: list[tuple[str, str]]
    tables: list[ResultTable]
    rivals: list[PairwiseTests]
    found: list[RecallCurves]
    seeds: list[SeedScatter]
    searches: list[HyperparameterImportance]
    depths: list[RerankingDepth]
    curves: list[LearningCurves]
    gallery: ExampleGallery
    comparisons: list[PublishedComparison]
    counts: list[tuple[str, str, str]]
    left_out: list[tuple[str, int, list[str]]]
    notes: dict[str, str]


def build_content(
    config: ReportConfig, inputs: ReportInputs, tables: list[ResultTable], rivals: list[PairwiseTests]
) -> ReportContent:
    """Compute all parts of the report.

    Args:
        config: title and number of examples.
        inputs: the stages before.
        tables: the results.
        rivals: the rankers against each other.
    """
    return ReportContent(
        title=config.title,
        subtitle=card.subtitle(inputs, tables),
        split=inputs.split,
        verdict=verdict(tables),
        card=card.protocol_card(inputs, tables),
        fingerprints=card.fingerprints(inputs),
        tables=tables,
        rivals=rivals,
        found=recall_curves(inputs.curves, tables),
        seeds=seed_scatter(tables),
        searches=searches(inputs.search_results),
        depths=over_depths(tables),
        curves=learning_curves(inputs.trials, tables, inputs.split),
        gallery=choose_examples(inputs, tables, config.examples),
        comparisons=comparisons(tables),
        counts=card.stage_counts(inputs),
        left_out=card.left_out(inputs),
        notes={table.title: note for table in tables if (note := _note(table))},
    )


def _note(table: ResultTable) -> str:
    if len(table.query_counts) > 1:
        low, *_, high = table.query_counts
        return (
            f"Mind the queries: the rows’ means are over {low:,} to {high:,} queries, because up to {table.excluded:,} "
            "have nothing relevant in what is ranked and are excluded. The rows are not strictly comparable."
        )
    if table.excluded:
        return f"{table.excluded:,} queries have nothing relevant in what is ranked and are excluded."
    return ""

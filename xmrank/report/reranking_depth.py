"""Re-ranking depth: the same rankers on the first stage's top N for several N, and the best possible."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from xmrank.pages.charts import MUTED, Chart, label_ends, line_style, make_canvas, svg_of
from xmrank.pages.wording import CEILING, DIRECTION_NAMES, format_percent, metric_name
from xmrank.protocols.protocol_names import first_stage_protocol, gallery_name, reranking_depth
from xmrank.report.result_tables import ResultTable, TableCell, TableRow

SHOWN = ("hit@1", "recall@10")


@dataclass(frozen=True)
class DepthLine:
    """One method's figures, one for each N; ``ceiling`` marks the best possible."""

    label: str
    cells: tuple[TableCell | None, ...]
    ceiling: bool = False


@dataclass(frozen=True)
class DepthGroup:
    """One metric over N: the first stage, the rankers, the ceiling; and their chart."""

    metric: str
    lines: tuple[DepthLine, ...]
    chart: Chart


@dataclass(frozen=True)
class RerankingDepth:
    """One gallery in one direction."""

    gallery: str
    direction: str
    numbers: tuple[int, ...]
    groups: tuple[DepthGroup, ...]

    @property
    def title(self) -> str:
        """The gallery and the direction."""
        return f"{gallery_name(self.gallery).lower()}, {DIRECTION_NAMES.get(self.direction, self.direction)}"


def measure_depths(tables: Sequence[ResultTable]) -> list[RerankingDepth]:
    """Every gallery and direction that was re-ranked at two depths or more."""
    by_gallery: dict[tuple[str, str], list[ResultTable]] = {}
    # Tables are by ascending N.
    for table in tables:
        if reranking_depth(table.protocol):
            by_gallery.setdefault((first_stage_protocol(table.protocol), table.direction), []).append(table)
    return [_measure_gallery(*setting, several) for setting, several in by_gallery.items() if len(several) > 1]


def _measure_gallery(gallery: str, direction: str, tables: list[ResultTable]) -> RerankingDepth:
    numbers = tuple(reranking_depth(table.protocol) for table in tables)
    depth = RerankingDepth(gallery, direction, numbers, ())
    return replace(depth, groups=tuple(_group_metric(depth, metric, tables) for metric in SHOWN))


def _group_metric(depth: RerankingDepth, metric: str, tables: list[ResultTable]) -> DepthGroup:
    # By N: the rows by their labels, which say who kept its start. Baselines re-rank nothing.
    by_depth = [{row.marked_label: row for row in table.rows if not row.baseline} for table in tables]
    labels = list(dict.fromkeys(label for rows in by_depth for label in rows))
    lines = [DepthLine(label, tuple(_plain_cell(rows.get(label), metric) for rows in by_depth)) for label in labels]
    ceiling = [table.ceiling for table in tables]
    if any(ceiling):
        lines.append(DepthLine(CEILING, tuple(_plain_cell(row, metric) for row in ceiling), ceiling=True))
    return DepthGroup(metric, tuple(lines), _draw_depths(depth, metric, lines))


def _plain_cell(row: TableRow | None, metric: str) -> TableCell | None:
    """A figure without the mark of the best: it is of a column that is not shown here."""
    cell = row.cells.get(metric) if row else None
    return replace(cell, best=False) if cell else None


def _draw_depths(depth: RerankingDepth, metric: str, lines: Sequence[DepthLine]) -> Chart:
    figure, axes = make_canvas(5.0, 3.3)
    ends = []
    for number, line in enumerate(lines):
        # A method may be missing at one depth.
        points = [(n, 100 * cell.mean) for n, cell in zip(depth.numbers, line.cells, strict=True) if cell]
        # The first stage dashed and the best possible dotted, both without a colour of their own.
        level = number == 0 or line.ceiling
        level_dash = (0, (4, 3)) if number == 0 else (0, (1, 2))
        colour, dash = (MUTED, level_dash) if level else line_style(number - 1)
        axes.plot(*zip(*points, strict=True), color=colour, linestyle=dash, marker=None if level else ".")
        ends.append((points[-1][1], line.label, colour))
    # Depths are usually multiples of each other.
    axes.set_xscale("log")
    axes.set_xticks(depth.numbers, [str(n) for n in depth.numbers])
    axes.minorticks_off()
    axes.set_xlabel("N, candidates re-ranked")
    axes.set_ylabel(f"{metric_name(metric)}, %")
    label_ends(axes, ends)
    words = f"{metric_name(metric)} over N, {depth.title}. " + "; ".join(map(_describe_line, lines)) + "."
    name = f"depth-{depth.gallery}-{depth.direction}-{metric.replace('@', '-')}"
    return Chart(svg_of(figure, name, words), words)


def _describe_line(line: DepthLine) -> str:
    return f"{line.label} {', '.join(format_percent(cell.mean) if cell else '–' for cell in line.cells)} %"

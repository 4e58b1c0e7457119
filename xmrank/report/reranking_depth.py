"""Quality over N: the same rankers on the first stage's top N for several N, under the best possible."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from xmrank.pages.charts import MUTED, Chart, canvas, label_ends, look, svg_of
from xmrank.pages.wording import CEILING, DIRECTION_NAMES, metric_name, percent
from xmrank.report.protocol_names import baseline_protocol, depth_of, gallery_name
from xmrank.report.result_tables import ResultTable, TableCell, TableRow

SHOWN = ("hit@1", "recall@10")


@dataclass(frozen=True)
class DepthLine:
    """One method's figures, one an N; ``ceiling`` for what is the best possible."""

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
        """Where, and who asks for what."""
        return f"{gallery_name(self.gallery).lower()}, {DIRECTION_NAMES.get(self.direction, self.direction)}"


def over_depths(tables: Sequence[ResultTable]) -> list[RerankingDepth]:
    """Every gallery and direction that was re-ranked at two depths or more."""
    by_place: dict[tuple[str, str], list[ResultTable]] = {}
    for table in tables:
        if depth_of(table.protocol):
            by_place.setdefault((baseline_protocol(table.protocol), table.direction), []).append(table)
    return [_depths(*place, found) for place, found in by_place.items() if len(found) > 1]


def _depths(gallery: str, direction: str, tables: list[ResultTable]) -> RerankingDepth:
    numbers = tuple(depth_of(table.protocol) for table in tables)
    found = RerankingDepth(gallery, direction, numbers, ())
    groups = tuple(_group(found, metric, tables) for metric in SHOWN)
    return replace(found, groups=groups)


def _group(place: RerankingDepth, metric: str, tables: list[ResultTable]) -> DepthGroup:
    rows = [{row.label: row for row in table.rows if not row.baseline} for table in tables]
    labels = list(dict.fromkeys(label for of in rows for label in of))
    lines = [DepthLine(label, tuple(_cell(of.get(label), metric) for of in rows)) for label in labels]
    ceiling = [table.ceiling for table in tables]
    if any(ceiling):
        lines.append(DepthLine(CEILING, tuple(_cell(row, metric) for row in ceiling), ceiling=True))
    return DepthGroup(metric, tuple(lines), _chart(place, metric, lines))


def _cell(row: TableRow | None, metric: str) -> TableCell | None:
    """A figure without its rank in a column that is not shown here."""
    cell = row.cells.get(metric) if row else None
    return replace(cell, best=False) if cell else None


def _chart(place: RerankingDepth, metric: str, lines: Sequence[DepthLine]) -> Chart:
    figure, axes = canvas(5.0, 3.3)
    ends = []
    for number, line in enumerate(lines):
        points = [(n, 100 * cell.mean) for n, cell in zip(place.numbers, line.cells, strict=True) if cell]
        level = number == 0 or line.ceiling
        colour, dash = (MUTED, (0, (4, 3)) if number == 0 else (0, (1, 2))) if level else look(number - 1)
        axes.plot(*zip(*points, strict=True), color=colour, linestyle=dash, marker=None if level else ".")
        ends.append((points[-1][1], line.label, colour))
    axes.set_xscale("log")
    axes.set_xticks(place.numbers, [str(n) for n in place.numbers])
    axes.minorticks_off()
    axes.set_xlabel("N, candidates re-ranked")
    axes.set_ylabel(f"{metric_name(metric)}, %")
    label_ends(axes, ends)
    words = f"{metric_name(metric)} over N, {place.title}. " + "; ".join(map(_told, lines)) + "."
    name = f"depth-{place.gallery}-{place.direction}-{metric.replace('@', '-')}"
    return Chart(svg_of(figure, name, words), words)


def _told(line: DepthLine) -> str:
    return f"{line.label} {', '.join(percent(cell.mean) if cell else '–' for cell in line.cells)} %"

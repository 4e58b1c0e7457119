"""The result tables in LaTeX: `\\input{table.tex}` in a document that loads booktabs."""

from collections.abc import Sequence

from xmrank.pages.wording import METRIC_GROUPS, METRICS, metric_name
from xmrank.report.result_tables import ResultTable, TableCell, TableRow

SPECIAL = {
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "→": r"$\to$",
    "–": "--",
    "—": "---",
    "±": r"$\pm$",
    "−": "$-$",
    "×": r"$\times$",
    "<": "$<$",
    ">": "$>$",
    "|": "$|$",
    "’": "'",
    "“": "``",
    "”": "''",
    "…": r"\ldots{}",
}
MARKS = {1: r"\uparrow", 0: "", -1: r"\downarrow"}
REFINED_MARKS = {1: r"\Uparrow", 0: "", -1: r"\Downarrow"}
HEAD = "% Made by xmrank. Needs \\usepackage{booktabs}; wide, so a table* in a document of two columns.\n"
LEGEND = (
    r"Percent: mean$_{\pm\mathrm{std\ over\ seeds}}$; bold: best of the column; "
    r"$^{\uparrow}$, $^{\downarrow}$: significantly above or below the first stage (two-sided sign-flip randomisation "
    r"test over queries, clustered by image; Holm over all columns and methods of the protocol, $p < 0.05$)."
)
REFINED_LEGEND = (
    r" $^{\Uparrow}$, $^{\Downarrow}$: by the same test, above or below the refined first stage, which has no ranking "
    r"loss; only that is a gain of the ranker and its loss."
)
KEPT_LEGEND = " Kept its start: no epoch was better than epoch 0; such a row has no mark and is no best."


def render_latex(tables: Sequence[ResultTable]) -> str:
    """One table environment for each protocol and direction, for booktabs."""
    # Only the first caption explains the signs, for all tables.
    legends = [f" {_describe_signs(tables)}", *[""] * len(tables)]
    return HEAD + "".join(
        f"\n{_table_environment(table, legend)}" for table, legend in zip(tables, legends, strict=False)
    )


def _describe_signs(tables: Sequence[ResultTable]) -> str:
    """What the signs mean that these tables have."""
    with_refined = any(table.refined for table in tables)
    with_kept = any(row.all_kept_start for table in tables for row in table.rows)
    return LEGEND + REFINED_LEGEND * with_refined + KEPT_LEGEND * with_kept


def escape_latex(text: str) -> str:
    """Text as LaTeX sets it literally."""
    return "".join(SPECIAL.get(sign, sign) for sign in " ".join(text.split()))


def _table_environment(table: ResultTable, legend: str) -> str:
    # The smallest and the largest number of queries, or the only one.
    counts = " to ".join(f"{count:,}" for count in table.query_counts[:: max(len(table.query_counts) - 1, 1)])
    caption = f"{escape_latex(table.title)} ({counts} queries).{legend}"
    body = [_row_line(row) for row in table.rows]
    # A rule between the first stage and the methods.
    if len(body) > 1 and table.first_stage:
        body.insert(1, r"\midrule")
    ceiling = [r"\midrule", _row_line(table.ceiling)] if table.ceiling else []
    lines = [
        r"\begin{table*}[t]",
        r"\centering\small",
        rf"\caption{{{caption}}}",
        rf"\label{{tab:{table.protocol}-{table.direction}}}",
        rf"\begin{{tabular}}{{l{'r' * len(METRICS)}}}",
        r"\toprule",
        *_heading_lines(),
        r"\midrule",
        *body,
        *ceiling,
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table*}",
    ]
    return "\n".join(lines) + "\n"


def _heading_lines() -> list[str]:
    """Two lines: the groups with rules under them, and the cut-offs."""
    groups, rules, column = [""], [], 2
    for name, metrics in METRIC_GROUPS:
        # Columns are counted from 1, and the first has the methods.
        last = column + len(metrics) - 1
        groups.append(rf"\multicolumn{{{len(metrics)}}}{{c}}{{{escape_latex(name)}}}")
        rules += [rf"\cmidrule(lr){{{column}-{last}}}"] if name else []
        column = last + 1
    names = []
    for group, metrics in METRIC_GROUPS:
        # Under the name of a group, cut-offs are enough.
        names += [f"@{metric.split('@')[1]}" if group else metric_name(metric) for metric in metrics]
    return [" & ".join(groups) + r" \\", "".join(rules), f"method & {' & '.join(names)} " + r"\\"]


def _row_line(row: TableRow) -> str:
    figures = (_format_cell(row.cells.get(metric)) for metric in METRICS)
    return " & ".join([escape_latex(row.marked_label), *figures]) + r" \\"


def _format_cell(cell: TableCell | None) -> str:
    if cell is None:
        return "--"
    mean = f"{100 * cell.mean:.1f}"
    spread = "" if cell.deviation is None else rf"_{{\pm {100 * cell.deviation:.1f}}}"
    marks = MARKS[cell.outcome] + REFINED_MARKS[cell.refined_outcome]
    # Deviation and marks follow the mean as subscript and superscript.
    behind = spread + (f"^{{{marks}}}" if marks else "")
    return (rf"\textbf{{{mean}}}" if cell.best else mean) + (f"${behind}$" if behind else "")

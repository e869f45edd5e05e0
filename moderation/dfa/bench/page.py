"""The report as files: JSON for programs, Markdown, and one self-contained page with its plots as SVG."""

import html
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from moderation.dfa.bench.estimates import Estimate
from moderation.dfa.bench.report import WARNING, Bench, answers_json, as_json, as_markdown
from moderation.dfa.bench.tables import Table, in_words

#: The SVG keeps text as text, and the same figure gives the same file.
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "dfa-bench",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
_MAIN, _OTHER = "#1f5fa8", ("#b5651d", "#4d7d4d", "#7d4d7d", "#777777")

_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; max-width: 72rem; margin: 2rem auto;
  padding: 0 1rem; }}
h1, h2 {{ line-height: 1.2; }}
h2 {{ margin-top: 2.5rem; }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-size: .85rem; }}
th, td {{ border-bottom: 1px solid #ddd; padding: .3rem .6rem; text-align: left; white-space: nowrap; }}
th:not(:first-child) {{ text-align: right; }}
td.n {{ font-variant-numeric: tabular-nums; text-align: right; }}
small {{ color: #555; }}
svg {{ max-width: 100%; height: auto; }}
p.warning {{ border-left: 4px solid #b5651d; padding-left: .8rem; }}
</style>
</head>
<body>
<h1>{title}</h1>
<p class="warning">{warning}</p>
<details><summary>What was run</summary><div class="wide"><table>{about}</table></div></details>
{sections}
</body>
</html>
"""


def write_bench(bench: Bench, out: Path) -> None:
    """Write report.json, report.md, report.html and answers.jsonl into a folder."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "report.json").write_text(json.dumps(as_json(bench), indent=1) + "\n", encoding="utf-8")
    (out / "report.md").write_text(as_markdown(bench), encoding="utf-8")
    (out / "report.html").write_text(as_html(bench), encoding="utf-8")
    lines = "".join(json.dumps(answer, ensure_ascii=False) + "\n" for answer in answers_json(bench))
    (out / "answers.jsonl").write_text(lines, encoding="utf-8")


def as_html(bench: Bench) -> str:
    title = html.escape(f"DFA-Bench: {bench.about['bundle']}")
    about = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{html.escape(str(value))}</td></tr>"
        for name, value in bench.about.items()
    )
    plots = _plots(bench)
    sections = "\n".join(_section(table, plots.get(table.name, "")) for table in bench.tables)
    return _PAGE.format(title=title, warning=html.escape(WARNING), about=about, sections=sections)


def _section(table: Table, plot: str) -> str:
    head = "".join(f"<th>{html.escape(column)}</th>" for column in table.columns)
    rows = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in table.rows)
    note = f"<p>{html.escape(table.note)}</p>" if table.note else ""
    return (
        f'<section id="{table.name}"><h2>{html.escape(table.title)}</h2>{note}{plot}'
        f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div></section>'
    )


def _cell(cell: object) -> str:
    words = html.escape(in_words(cell))  # pyright: ignore[reportArgumentType]  rows hold cells
    if isinstance(cell, str):
        return f"<td>{words}</td>"
    value, bracket, interval = words.partition(" [")
    return f'<td class="n">{value}{f" <small>[{interval}</small>" if bracket else ""}</td>'


# --- plots ---


def _plots(bench: Bench) -> dict[str, str]:
    """The plot above each table, by the table's name. An empty table has none."""
    of_tables = {
        "techniques": _confusion,
        "deletion": _deletion,
        "reliability": _reliability,
        "robustness": _robustness,
    }
    with mpl.rc_context(_STYLE):
        drawn = {"detection": _roc(bench), "abstention": _risk_coverage(bench)}
        for name, draw in of_tables.items():
            table = bench.table(name)
            if table is not None and table.rows:
                drawn[name] = draw(table)
        return {name: _svg(figure, name) for name, figure in drawn.items()}


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height))
    return figure, figure.subplots()


def _svg(figure: Figure, name: str) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None}, bbox_inches="tight")
    drawn = buffer.getvalue()
    return f'<figure role="img" aria-label="{name}">{drawn[drawn.index("<svg") :]}</figure>'


def _roc(bench: Bench) -> Figure:
    figure, axes = _figure(4.6, 4.2)
    axes.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=0.8, linestyle="--")
    for number, (name, (fpr, tpr)) in enumerate(bench.curves.roc.items()):
        colour = _MAIN if number == 0 else _OTHER[(number - 1) % len(_OTHER)]
        axes.plot(fpr, tpr, color=colour, linewidth=1.6 if number == 0 else 1.0, label=name)
    axes.set(xlabel="false positive rate", ylabel="true positive rate", title="ROC")
    axes.set(xlim=(0, 1), ylim=(0, 1.01))
    axes.legend(loc="lower right", frameon=False)
    return figure


def _confusion(table: Table) -> Figure:
    counts = [[int(str(cell)) for cell in row[1:]] for row in table.rows]
    shares = [[cell / max(sum(row), 1) for cell in row] for row in counts]
    figure, axes = _figure(5.6, 3.4)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for y, row in enumerate(counts):
        for x, cell in enumerate(row):
            colour = "white" if shares[y][x] > 0.5 else "black"
            axes.text(x, y, str(cell), ha="center", va="center", color=colour)
    axes.set_xticks(range(len(table.columns) - 1), table.columns[1:], rotation=30, ha="right")
    axes.set_yticks(range(len(table.rows)), [str(row[0]) for row in table.rows])
    axes.set(xlabel="answer", ylabel="truth", title="DF-C as served")
    return figure


def _deletion(table: Table) -> Figure:
    figure, axes = _figure(4.6, 3.2)
    hidden = [0.0] + [float(str(row[0])) for row in table.rows]
    for name, colour in (("named", _MAIN), ("by chance", _OTHER[0])):
        falls = [row[table.columns.index(f"fall, {name}")] for row in table.rows]
        shown = [Estimate(0.0, 0.0, 0.0, 0), *(fall for fall in falls if isinstance(fall, Estimate))]
        _with_interval(axes, hidden, shown, colour, name)
    axes.set(xlabel="regions hidden", ylabel="fall of the margin", xticks=hidden, title="Deletion")
    axes.legend(frameon=False, loc="upper left")
    return figure


def _reliability(table: Table) -> Figure:
    figure, axes = _figure(4.2, 4.0)
    axes.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=0.8, linestyle="--")
    points = [(row[1], row[2]) for row in table.rows]
    x = [mean for mean, share in points if isinstance(mean, float) and isinstance(share, Estimate)]
    shares = [share for _, share in points if isinstance(share, Estimate)]
    _with_interval(axes, x, shares, _MAIN)
    axes.set(xlabel="mean score", ylabel="share of deepfakes", xlim=(0, 1), ylim=(0, 1), title="Reliability")
    return figure


def _robustness(table: Table) -> Figure:
    names = [str(row[0]) for row in table.rows]
    figure = Figure(figsize=(9.5, 0.24 * len(names) + 1.2))
    left, right = figure.subplots(1, 2, sharey=True)
    places = list(range(len(names)))[::-1]
    columns = {name: table.columns.index(name) for name in ("AUC", "FPR", "FNR")}
    _across(left, [row[columns["AUC"]] for row in table.rows], places, _MAIN, "AUC")
    left.axvline(0.5, color="#bbbbbb", linewidth=0.8, linestyle="--")
    _across(right, [row[columns["FPR"]] for row in table.rows], [p + 0.14 for p in places], _OTHER[0], "FPR")
    _across(right, [row[columns["FNR"]] for row in table.rows], [p - 0.14 for p in places], _OTHER[1], "FNR")
    left.set_yticks(places, names)
    left.set(xlabel="AUC", xlim=(0.3, 1.01))
    right.set(xlabel="share at the frozen threshold", xlim=(0, 1))
    right.legend(frameon=False, loc="lower right")
    return figure


def _across(axes: Axes, cells: Sequence[object], places: Sequence[float], colour: str, label: str) -> None:
    shown = [
        (cell, y)
        for cell, y in zip(cells, places, strict=True)
        if isinstance(cell, Estimate) and all(map(math.isfinite, (cell.value, cell.low, cell.high)))
    ]
    style: dict[str, Any] = {"fmt": "o", "color": colour, "markersize": 3, "linewidth": 0.8, "label": label}
    reach = _reach([cell for cell, _ in shown])
    axes.errorbar([cell.value for cell, _ in shown], [y for _, y in shown], xerr=reach, **style)


def _with_interval(
    axes: Axes, x: Sequence[float], shares: Sequence[Estimate], colour: str, label: str | None = None
) -> None:
    style: dict[str, Any] = {"fmt": "o-", "color": colour, "markersize": 3, "linewidth": 1.0, "label": label}
    axes.errorbar(x, [s.value for s in shares], yerr=_reach(shares), **style)


def _reach(estimates: Sequence[Estimate]) -> list[list[float]]:
    """How far each interval reaches below its value and above it. A bootstrap's may not hold the value."""
    below = [max(e.value - e.low, 0.0) for e in estimates]
    return [below, [max(e.high - e.value, 0.0) for e in estimates]]


def _risk_coverage(bench: Bench) -> Figure:
    figure, axes = _figure(4.6, 3.2)
    coverage, risk = bench.curves.risk_coverage
    axes.plot(coverage, risk, color=_MAIN, linewidth=1.4)
    top = 1.05 * max([*risk, 0.05])
    axes.set(xlabel="coverage", ylabel="risk", xlim=(0, 1), ylim=(0, top), title="Risk and coverage")
    return figure

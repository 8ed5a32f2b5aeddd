"""The report as one self-contained HTML page, and as Markdown for a README."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from heedful.benchmarks.report import board, method, sections, tables, theme
from heedful.benchmarks.report.conclusions import conclude, verdict
from heedful.benchmarks.report.inputs import Inputs
from heedful.benchmarks.report.measures import COSTS, MISALIGNMENT, PACE
from heedful.benchmarks.report.power import MATTERS, ToldApart, told_apart
from heedful.benchmarks.report.preferences import Preference, agreement, preferences
from heedful.benchmarks.report.sections import Plot

_HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class ModelSection:
    """What the page has on one model."""

    name: str
    board: board.Board
    table: tables.Table
    cost_table: tables.Table
    verdict: str
    conclusions: list[str]
    apart: list[ToldApart]
    choice: Plot | None
    effects: list[Plot]
    costs: list[Plot]
    curves: list[Plot]
    pace: Plot | None
    loads: list[tuple[str, tables.Table]]
    preferences: list[tuple[Preference, tables.Table, Plot | None]]
    agreement: list[str]
    refusals: Plot | None
    misalignment: Plot | None


def html(inputs: Inputs, matters: float = MATTERS) -> str:
    """The page; the same bytes for the same records. `matters`: the smallest difference that does, as a share.

    Raises EvalError where the plots' renderer is not installed.
    """
    names = board.alignments(inputs)
    styles = theme.styles(names)
    models = [_model(inputs, each, styles, matters) for each in board.boards(inputs)]
    variables = {"light": theme.variables(dark=False), "dark": theme.variables(dark=True)}
    css = Environment(undefined=StrictUndefined).from_string(_text("page.css")).render(variables)
    return _render("page.html.j2", inputs, models, styles=styles, css=Markup(css), escape=True)


def markdown(inputs: Inputs, matters: float = MATTERS) -> str:
    """The conclusions, the main table and the counts."""
    models = [
        (each, tables.main(each), [verdict(each, matters), *conclude(each, matters)])
        for each in board.boards(inputs)
    ]
    return _render("report.md.j2", inputs, models, escape=False)


def _model(inputs: Inputs, each: board.Board, styles: sections.Styles, matters: float) -> ModelSection:
    return ModelSection(
        name=each.model,
        board=each,
        table=tables.main(each),
        verdict=verdict(each, matters),
        conclusions=conclude(each, matters),
        apart=told_apart(each, matters),
        choice=sections.choice(each, styles),
        effects=sections.effects(each, styles),
        costs=sections.costs(each, styles),
        cost_table=tables.table(each, [key for key in COSTS if key in each.keys]),
        curves=sections.curves(inputs.requests, each, styles),
        loads=[
            (under.load or "", tables.table(under, under.keys)) for under in board.loads(inputs, each.model)
        ],
        pace=sections.one(each, styles, PACE),
        preferences=[
            (
                preference,
                tables.table(each, [preference.rating, preference.win_rate]),
                sections.one(each, styles, preference.rating),
            )
            for preference in preferences(inputs, each)
        ],
        agreement=agreement(inputs, each.model),
        refusals=sections.refusals(each, styles),
        misalignment=sections.one(each, styles, MISALIGNMENT),
    )


def _render(template: str, inputs: Inputs, models: Sequence[object], escape: bool, **more: object) -> str:
    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=escape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"md": _plain, "svg": Markup}
    boards = board.boards(inputs)
    return environment.get_template(template).render(
        models=models,
        alignments=board.alignments(inputs),
        absent=inputs.absent,
        counts=method.counts(inputs),
        machines=method.machines(inputs),
        settings=method.settings(inputs),
        failures=method.failures(inputs),
        limits=method.limits(inputs, boards),
        commands=method.commands(inputs),
        **more,
    )


def _plain(text: str) -> str:
    """Text that Markdown shows as it is."""
    marked = re.sub(r"([\\`*_{}\[\]|#~$])", r"\\\1", " ".join(text.split()))
    return marked.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _text(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")

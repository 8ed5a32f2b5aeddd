"""`heedful recommend`: the cheapest of what is best within a budget, and only what is told apart."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import report_records
import typer
from typer.testing import CliRunner

from heedful.benchmarks.evals.records import EvalError
from heedful.benchmarks.evals.table import Figure, Paired, TableRow
from heedful.benchmarks.report.board import Board
from heedful.benchmarks.report.recommend import CostLimit, frontier, recommend
from heedful.benchmarks.report.recommend_cli import recommend as command

N = 300


def _row(name: str, value: float, tokens: float, seconds: float = 1.0, p: float = 0.0) -> TableRow:
    figures = {"living": Figure(value, value - 0.05, value + 0.05, N)}
    figures |= {"tokens": Figure(tokens, tokens, tokens, N), "seconds": Figure(seconds, seconds, seconds, N)}
    paired = {} if name == "direct" else {"living": Paired(N, value - 0.1, 0.5, True, p)}
    return TableRow("m", name, figures, {}, paired)


DIRECT, CHEAP, GOOD, BEST = (
    _row("direct", 0.1, 100),
    _row("cheap", 0.5, 150),
    _row("good", 0.8, 400, 5.0),
    _row("best", 0.84, 900),
)


def _board(*rows: TableRow) -> Board:
    return Board("m", list(rows), None)


def test_the_cheapest_of_those_not_told_apart_from_the_best() -> None:
    told = recommend(_board(DIRECT, CHEAP, GOOD, BEST), "living", None)
    first = (
        "For m take good: living norms right 80% (75 to 85%) against 10% with direct, at 400 tokens an answer"
    )
    assert told.startswith(f"{first} (direct: 100 tokens).")
    assert "300 items" in told and "at more tokens: best 84%" in told and told.count(". ") == 1


def test_a_budget_holds_and_what_is_over_it_is_said() -> None:
    told = recommend(_board(DIRECT, CHEAP, GOOD, BEST), "living", CostLimit.of("2x"))
    assert told.startswith("For m take cheap: ") and told.endswith(
        "over the budget best has 84%, for 900 tokens."
    )
    told = recommend(_board(DIRECT, CHEAP, GOOD, BEST), "living", CostLimit.of("2 s"))
    assert told.startswith("For m take best: ")
    told = recommend(_board(DIRECT, GOOD), "living", CostLimit.of("399 tokens"))
    assert told.startswith("For m stay with direct: ") and "good has 80%" in told


def test_what_chance_may_have_done_is_not_recommended() -> None:
    told = recommend(_board(DIRECT, _row("lucky", 0.9, 120, p=0.2)), "living", None)
    assert told.startswith("For m stay with direct: within the budget nothing is measurably better")


def test_what_is_over_the_budget_is_nothing_to_stay_with() -> None:
    told = recommend(_board(DIRECT, _row("short", 0.2, 60, p=0.2)), "living", CostLimit.of("80 tokens"))
    assert "stay with" not in told and "short is the cheapest" in told


def test_the_frontier_leaves_out_what_costs_more_for_less() -> None:
    worse = _row("worse", 0.3, 500)
    assert frontier([BEST, worse, GOOD, DIRECT, CHEAP], "living", "tokens") == [DIRECT, CHEAP, GOOD, BEST]


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("3x", 300),
        ("2.5x tokens", 250),
        ("2x seconds", 2),
        ("500 tokens", 500),
        ("1.5s", 1.5),
        ("4 calls", 4),
    ],
)
def test_budgets_as_they_are_written(text: str, limit: float) -> None:
    assert CostLimit.of(text).limit(DIRECT) == limit


@pytest.mark.parametrize(
    ("ask", "told"),
    [
        (lambda: CostLimit.of("cheap"), "--budget 'cheap': give 3x"),
        (lambda: CostLimit.of("500 tokens seconds"), "--budget"),
        (lambda: recommend(_board(DIRECT, GOOD), "kindness", None), "the records of m have living"),
        (
            lambda: recommend(_board(DIRECT), "living", CostLimit.of("9 tokens")),
            "the cheapest takes 100 tokens",
        ),
        (lambda: recommend(_board(DIRECT), "living", CostLimit.of("2x calls")), "no calls of direct"),
    ],
)
def test_what_the_records_cant_answer(ask: Callable[[], object], told: str) -> None:
    with pytest.raises(EvalError, match=told):
        ask()


def test_from_records_on_the_command_line(tmp_path: Path) -> None:
    report_records.write_evaluation(tmp_path, ["m"], ["direct", "principles", "rain"], 120)
    app = typer.Typer()
    app.command()(command)
    result = CliRunner().invoke(app, [str(tmp_path), "--goal", "harmlessness", "--budget", "500x"])
    assert result.exit_code == 0, result.output
    assert "For m take " in result.output and "harmless answers" in result.output

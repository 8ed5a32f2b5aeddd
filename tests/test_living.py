"""Living norms: a set whose answers are known, its judges, and what a store makes of its change."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from heedful.benchmarks.evals import sets
from heedful.benchmarks.evals.items import EvalItem
from heedful.benchmarks.evals.judges.living import InForce, NotStale
from heedful.benchmarks.evals.living import Phase, World, world
from heedful.benchmarks.evals.records import AnswerRecord
from heedful.benchmarks.evals.table import rows
from heedful.retrieval import Filter, Item
from heedful.server.cli.main import app
from heedful.strategies.scripted import ScriptedEngine

NOW = 1.8e9
"""After the day on which what expires does."""


@pytest.fixture(scope="module")
def made() -> World:
    return world()


def test_it_is_the_same_every_time_and_large_enough(made: World) -> None:
    assert made == world() and made != world(seed=18)
    assert {phase: len(asked) for phase, asked in made.questions.items()} == {"before": 150, "after": 200}
    assert len({q.key for asked in made.questions.values() for q in asked}) == 350
    cases = Counter(q.id.partition("/")[0] for q in made.questions["after"])
    assert cases == dict.fromkeys(
        ("moved", "expired", "elsewhere", "amended", "reworded", "unchanged"), 25
    ) | {"replaced": 50}


@pytest.mark.parametrize("phase", ["before", "after"])
def test_every_right_value_is_in_force_and_no_wrong_one_but_where_two_contradict(
    made: World, phase: Phase
) -> None:
    standing = {norm.id: norm for norm in made.norms}
    if phase == "after":
        standing |= {norm.id: norm for norm in made.change.add}
        for id in made.change.end:
            del standing[id]
    for question in made.questions[phase]:
        case, house, subject = question.id.split("/")
        right, wrong = question.candidates
        seen = [n.text for n in _seen(standing.values(), house) if f"/{subject}" in n.id]
        assert any(right in text for text in seen) and right != wrong
        old = any(wrong in text for text in seen)
        assert old == (phase == "after" and case in ("amended", "reworded"))


def _seen(norms: object, scope: str) -> list[Item]:
    passing = Filter(scopes=frozenset({scope}), at=NOW)
    return [norm for norm in norms if passing.passes(norm)]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("said", "right", "stale"),
    [
        ("A book may be kept for 42 days.", 1, 0),
        ("17 days.", 0, 1),
        ("It was 17 days, and is 42 now.", 0, 1),
        ("For 142 days, or 42.5, until 42:30, room A-42.", 0, 0),
        ("", 0, 0),
        ("**42**", 1, 0),
    ],
)
async def test_what_an_answer_names(said: str, right: float, stale: float) -> None:
    item = EvalItem(
        set="s",
        id="1",
        measure="living",
        messages=({"role": "user", "content": "?"},),
        candidates=("42", "17"),
        right=(0,),
    )
    answer = AnswerRecord(set="s", id="1", model="m", alignment="direct", text=said)
    assert (await InForce().judge(item, answer)).value == right
    assert (await NotStale().judge(item, answer)).value == 1 - stale


def test_it_is_asked_by_name_alone(tmp_path: Path) -> None:
    assert "living_after" not in sets.there(None)
    assert len(sets.read_known("living_after", None)) == len(sets.read_known("living_after", tmp_path)) == 200


def test_a_run_has_both_figures(
    serving: Callable[..., AbstractContextManager[str]], tmp_path: Path, made: World
) -> None:
    """A model that has what stood before for every other question."""
    asked = made.questions["after"]
    place = {str(q.messages[0]["content"]): i for i, q in enumerate(asked)}

    def answer(call: object) -> str:
        i = place[str(call.messages[-1]["content"])]  # type: ignore[attr-defined]
        return f"It is {asked[i].candidates[i % 2]}."

    arguments = ["eval", "run", "--out", str(tmp_path), "--sets", "living_after", "--limit", "40", "--url"]
    with serving(ScriptedEngine(answer, model="m")) as url:
        result = CliRunner().invoke(app, [*arguments, f"{url}/v1"], env={"COLUMNS": "250"})
    assert result.exit_code == 0, result.output
    (row,) = rows(tmp_path)
    ids = {json.loads(line)["id"] for line in (tmp_path / "items.jsonl").read_text().splitlines()}
    share = sum(i % 2 for i, q in enumerate(asked) if q.id in ids) / 40
    assert row.figures["stale"].value == pytest.approx(share) and row.figures["stale"].missing == 0
    assert row.figures["living"].value == pytest.approx(1 - share) and row.figures["living"].n == 40
    assert "stale answers ↓" in result.output and "living norms right ↑" in result.output

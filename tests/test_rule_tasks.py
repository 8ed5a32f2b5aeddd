"""Verifiable norms: the set, its judge, and alignments that a run brings with the rules of each question."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from heedful.benchmarks.evals import sets
from heedful.benchmarks.evals.inline import of_item, pipelines
from heedful.benchmarks.evals.items import EvalItem
from heedful.benchmarks.evals.judges.rules import RulesKept
from heedful.benchmarks.evals.own_sets import read_file
from heedful.benchmarks.evals.records import AnswerRecord, EvalError
from heedful.benchmarks.evals.table import rows
from heedful.server.cli.main import app
from heedful.strategies.scripted import ScriptedEngine
from heedful.strategies.verifiers.rules import Rule, problem_of

Serving = Callable[..., AbstractContextManager[str]]


def _item(*rules: Rule) -> EvalItem:
    turn = {"role": "user", "content": "Why?"}
    return EvalItem(set="s", id="1", measure="rules", messages=(turn,), rules=rules)


def test_the_set_is_the_same_every_time_and_can_be_checked() -> None:
    items = sets.read_known("rules", None)
    assert items == sets.read_known("rules", None) and len({item.key for item in items}) == 300
    assert [len(item.rules) for item in items[:6]] == [1, 1, 2, 2, 3, 3]
    assert len({kind for item in items for rule in item.rules for kind in rule}) >= 25
    assert not [rule for item in items for rule in item.rules if problem_of(rule)]
    assert "rules" not in sets.there(None)


async def test_an_answer_keeps_all_of_them_or_not() -> None:
    item = _item({"words_at_most": 3}, {"no_commas": True})
    for text, value, lost in (
        ("It rains.", 1, []),
        ("Yes, it rains.", 0, ["no_commas"]),
        ("", 0, ["words_at_most", "no_commas"]),
    ):
        answer = AnswerRecord(set="s", id="1", model="m", alignment="a", text=text)
        found = await RulesKept().judge(item, answer)
        assert (found.value, found.facts) == (value, {"broken": lost})


def test_a_users_own_rules(tmp_path: Path) -> None:
    file = tmp_path / "own.jsonl"
    line = {"measure": "rules", "prompt": "Why?", "rules": [{"contains_all": ["a", "b"]}]}
    file.write_text(json.dumps(line) + "\n")
    assert read_file(file)[0].rules == ({"contains_all": ("a", "b")},)
    file.write_text(json.dumps(line | {"rules": [{"contains": 3}]}) + "\n")
    with pytest.raises(EvalError, match="own.jsonl:1: rules: contains wants a text"):
        read_file(file)
    file.write_text(json.dumps(line | {"rules": []}) + "\n")
    with pytest.raises(EvalError, match="needs `rules`"):
        read_file(file)


def test_rules_stand_where_an_alignment_wants_them() -> None:
    steps = pipelines(['a=[{"norms": {"extra": "$norms"}}, {"x": ["$rules", 1]}]'])["a"]
    told = [{"text": "Use at most 3 words.", "mandatory": True}]
    rules: list[Rule] = [{"words_at_most": 3}]
    assert of_item(steps, _item(*rules)) == [{"norms": {"extra": told}}, {"x": [rules, 1]}]


@pytest.mark.parametrize("given", [["a"], ["a="], ["a={}"], ["=[]"], ["a=[]", "a=[]"]])
def test_bad_pipelines_are_refused(given: list[str]) -> None:
    with pytest.raises(EvalError, match="--inline"):
        pipelines(given)


def test_a_run_with_alignments_of_its_own(serving: Serving, tmp_path: Path) -> None:
    """The model does what it is told of capital letters; without that nobody tells it."""
    file = tmp_path / "own.jsonl"
    line = {"measure": "rules", "prompt": "Why?", "rules": [{"upper_case": True}]}
    file.write_text(json.dumps(line) + "\n")

    def answer(call: object) -> str:
        return "IT RAINS." if "capital letters" in str(call) else "It rains."

    told = 'told=[{"norms": {"k": 0, "extra": "$norms"}}]'
    arguments = ["eval", "run", "--out", str(tmp_path / "out"), "--file", str(file), "--alignment", "direct"]
    with serving(ScriptedEngine(answer, model="m"), stores=_stores(tmp_path)) as url:
        again = [*arguments, "--url", f"{url}/v1", "--inline"]
        result = CliRunner().invoke(app, [*again, told], env={"COLUMNS": "250"})
        assert result.exit_code == 0, result.output
        other = CliRunner().invoke(app, [*again, told.replace("0", "1")])
        assert isinstance(other.exception, EvalError) and "inline" in str(other.exception)
    by = {row.alignment: row.figures["rules"].value for row in rows(tmp_path / "out")}
    assert by == {"direct": 0, "told": 1} and "all rules kept ↑" in result.output


def _stores(tmp_path: Path) -> object:
    from heedful.retrieval.embedding.scripted import word_embedder
    from heedful.retrieval.store.stores import Stores

    stores = Stores(tmp_path / "stores", word_embedder())
    stores.create("norms")
    return stores

"""`heedful eval`: multiple-choice accuracy with and without norms, and new questions from norms."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from heedful.benchmarks.evals.norms import Question, read_questions
from heedful.benchmarks.evals.questions import turn
from heedful.benchmarks.evals.records import EvalError
from heedful.retrieval import Item
from heedful.retrieval.embedding.scripted import word_embedder
from heedful.retrieval.store.stores import Stores
from heedful.server.cli.main import app
from heedful.strategies import Call
from heedful.strategies.scripted import ScriptedEngine

Serving = Callable[..., AbstractContextManager[str]]


def _run(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["eval", *arguments], env={"COLUMNS": "200"}, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def pool_rules(tmp_path: Path) -> Stores:
    stores = Stores(tmp_path / "stores", word_embedder(dimension=256))
    store, _ = stores.create("norms")
    store.add([Item("The pool closes at nine.", id="pool")])
    return stores


def test_accuracy_with_and_without_norms(serving: Serving, pool_rules: Stores, tmp_path: Path) -> None:
    """A model that knows the right answer only when the norm is in front of it."""
    rows = ["id,question,A,B,C,D,answer"]
    rows += [f"{i},When does the pool close? ({i}),six,seven,eight,nine,D" for i in range(12)]
    file = tmp_path / "questions.csv"
    file.write_text("\n".join(rows))

    def answer(call: Call) -> str:
        return "The answer is D." if "closes at nine" in str(call.messages[-1]["content"]) else "B"

    out = tmp_path / "records.jsonl"
    with serving(ScriptedEngine(answer, model="m", context_length=100_000), stores=pool_rules) as url:
        told = _run("norms", str(file), "--url", f"{url}/v1", "--out", str(out))
        mixed = _run(
            "norms", str(file), "--url", f"{url}/v1", "--limit", "3", "--alignment", '[{"norms": {"k": 0}}]'
        )
    assert "0.0%" in told and "100.0%" in told and "difference +100.0%" in told and "generated 12" in told
    assert "difference +0.0%" in mixed
    records = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(records) == 24
    assert {r["chosen"] for r in records if r["alignment"].startswith("without")} == {"B"}
    assert all(r["correct"] for r in records if r["alignment"].startswith("with ("))


def test_only_questions_that_pass_the_checks_are_kept(
    serving: Serving, pool_rules: Stores, tmp_path: Path
) -> None:
    options = {"A": "He leaves.", "B": "He swims on.", "C": "He sings.", "D": "He calls a lawyer."}
    good = {"question": "It is nine and Tom is in the water. What is right?", **options, "answer": "A"}
    written = {
        "good": good,
        "twins": good | {"B": "He leaves."},
        "leak": good | {"question": "Should it be said that he leaves. at nine in the evening?"},
        "wrong": good | {"answer": "B"},
        "short": {"question": "It is nine"},
    }

    def answer(call: Call) -> str:
        said = str(call.messages[-1]["content"])
        if "Here is a norm" in said:
            return json.dumps(next(v for name, v in written.items() if f"The {name} norm" in said))
        # The checker, which knows what is right wherever it stands.
        return next(line[0] for line in said.splitlines() if line.endswith("He leaves."))

    norms = tmp_path / "norms.jsonl"
    norms.write_text(
        "".join(json.dumps({"id": name, "text": f"The {name} norm."}) + "\n" for name in written)
    )
    out = tmp_path / "questions.jsonl"
    with serving(ScriptedEngine(answer, model="m"), stores=pool_rules) as url:
        told = _run("norm-questions", str(norms), str(out), "--url", f"{url}/v1")
    assert "1 of 5 questions kept" in told
    (kept,) = read_questions(out)
    assert (kept.id, kept.answer, kept.norm) == ("good", "A", "The good norm.")
    for problem in ("the same", "gives the answer away", "chooses another", "has not the form"):
        assert problem in told


def test_an_endpoint_that_refuses_is_told_in_one_line(serving: Serving, tmp_path: Path) -> None:
    file = tmp_path / "q.jsonl"
    file.write_text('{"question": "?", "A": "x", "B": "y", "answer": "A"}\n')
    with serving(ScriptedEngine(model="m")) as url, pytest.raises(EvalError, match="needs stores"):
        _run("norms", str(file), "--url", f"{url}/v1")


@pytest.mark.parametrize("line", ['{"question": "?", "A": "x", "answer": "A"}', '{"question": "?"', "[]"])
def test_bad_question_files_are_refused_by_line(tmp_path: Path, line: str) -> None:
    file = tmp_path / "q.jsonl"
    file.write_text(f'{{"question": "?", "A": "x", "B": "y", "answer": "A"}}\n{line}\n')
    with pytest.raises(EvalError, match="q.jsonl:2"):
        read_questions(file)


def test_turning_keeps_the_right_option() -> None:
    options = (("A", "p"), ("B", "q"), ("C", "r"), ("D", "s"))
    turned = turn(Question("1", "?", options, "B"), 2)
    assert dict(turned.options)[turned.answer] == "q" and turned.answer == "D"


@pytest.mark.engine
def test_options_are_read_from_log_probabilities(chat_server: str, tmp_path: Path) -> None:
    file, out = tmp_path / "q.jsonl", tmp_path / "records.jsonl"
    question = {"question": "Which is an animal?", "A": "cat", "B": "stone", "C": "rain", "answer": "A"}
    file.write_text(json.dumps(question) + "\n")
    _run("norms", str(file), "--url", f"{chat_server}/v1", "--out", str(out))
    records = [json.loads(line) for line in out.read_text().splitlines()]
    assert [r["method"] for r in records] == ["logprobs", "logprobs"]
    assert all(0 < sum(r["probabilities"].values()) <= 1.0001 for r in records)

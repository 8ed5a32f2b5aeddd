"""People's votes beside judges' verdicts: what counts as the same, and a model that judges what people did."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from heedful.benchmarks.evals.agreement import agreements, verdict
from heedful.benchmarks.evals.elo import standings
from heedful.benchmarks.evals.folder import EvalFolder, EvalSettings
from heedful.benchmarks.evals.items import EvalItem
from heedful.benchmarks.evals.judges.pairwise import position_bias
from heedful.benchmarks.evals.records import AnswerRecord, Comparison
from heedful.benchmarks.evals.run_cli import judge
from heedful.benchmarks.report import inputs
from heedful.benchmarks.report.page import html
from heedful.strategies import Call
from heedful.strategies.scripted import ScriptedEngine
from heedful.strategies.types import text_of

Serving = Callable[..., AbstractContextManager[str]]


def vote(i: int, first: float | None, *, a: str = "x", b: str = "direct", who: str = "human") -> Comparison:
    return Comparison(
        judge=who, set="page", id=str(i), model="m", a=a, b=b, first=first, second=None, once=True
    )


def judged(i: int, first: float, second: float, *, a: str = "x", b: str = "direct") -> Comparison:
    return Comparison(judge="j", set="page", id=str(i), model="m", a=a, b=b, first=first, second=second)


def test_a_vote_is_whole_with_one_order_and_a_judge_needs_both() -> None:
    assert vote(0, 1.0).preference == 1.0 and vote(0, None).preference is None
    half = Comparison(judge="j", set="s", id="0", model="m", a="x", b="y", first=1.0, second=None)
    assert half.preference is None and half.for_the_first is None
    (first, second) = standings([vote(0, 1.0), vote(1, 1.0), vote(2, 0.0)], "direct")
    assert first.alignment == "x" and first.win_rate is not None
    assert first.win_rate[0] == pytest.approx(2 / 3) and first.missing == second.missing == 0


def test_what_stood_first_is_seen_in_votes_too() -> None:
    always_first = [vote(i, 1.0) for i in range(4)] + [vote(i, 1.0, a="direct", b="x") for i in range(4, 8)]
    assert position_bias(always_first)[0] == 0.5
    assert position_bias([vote(0, 1.0), vote(1, 0.0)])[0] == 0.0


def test_a_verdict_that_turns_with_the_order_is_none() -> None:
    assert verdict(judged(0, 0.9, 0.8)) == 0 and verdict(judged(0, 0.1, 0.2)) == 2
    assert verdict(judged(0, 0.9, 0.3)) == 1 and verdict(judged(0, 0.5, 0.5)) == 1
    assert verdict(vote(0, 0.5)) == 1 and verdict(vote(0, None)) is None


def test_agreement_is_over_the_same_pairs_whichever_way_round() -> None:
    votes = [vote(0, 1.0), vote(1, 0.0), vote(2, 0.5), vote(3, 1.0), vote(9, 1.0)]
    marks = [
        judged(0, 0.9, 0.8),
        judged(1, 0.9, 0.9, a="direct", b="x"),  # the same verdict, the other way round
        judged(2, 0.9, 0.1),
        judged(3, 0.1, 0.1),
    ]
    (found,) = agreements([*votes, *marks])
    assert (found.one, found.other, found.n, found.items) == ("human", "j", 4, 4)
    assert found.share[0] == 0.75 and found.share[1] < 0.75 < found.share[2]
    # By hand: verdicts on (direct, x) are 2,0,1,2 and 2,0,1,0; chance agrees in (1*2 + 1*1 + 2*1)/16.
    assert found.kappa[0] == pytest.approx((0.75 - 5 / 16) / (1 - 5 / 16))
    assert "the same verdict on 75% of 4 pairs" in found.words()
    assert not agreements(votes)
    (alike,) = agreements([vote(0, 1.0), judged(0, 1.0, 1.0)])
    assert alike.kappa[0] == 1.0


@pytest.fixture
def voted(tmp_path: Path) -> Path:
    """Twelve votes for answers that say "good"; two that were between others than the baseline."""
    folder = EvalFolder(tmp_path)
    names = ["direct", "x", "y"]
    settings = EvalSettings(models=["m"], alignments={"m": names}, sets=["page"])
    items = [
        EvalItem(
            set="page", id=str(i), measure="helpfulness", messages=({"role": "user", "content": f"Q{i}?"},)
        )
        for i in range(12)
    ]
    folder.begin(settings, items, url="http://127.0.0.1", concurrency=1)
    with folder as journals:
        for i in range(12):
            for name in names:
                text = "a good answer" if name == "x" else f"an answer of {name}"
                journals.answers.add(
                    AnswerRecord(set="page", id=str(i), model="m", alignment=name, text=text)
                )
            journals.comparisons.add(vote(i, 1.0) if i % 2 else vote(i, 0.0, a="direct", b="x"))
        journals.comparisons.add(vote(0, 1.0, a="x", b="y"))
        journals.comparisons.add(vote(1, 1.0, a="x", b="y"))
    return tmp_path


def prefers_good(call: Call) -> str:
    asked = text_of(call.messages[-1])
    first, second = asked.find("a good answer"), asked.find("an answer of")
    return "C" if first < 0 else "A" if first < second else "B"


def test_a_model_judges_what_people_have_compared_and_the_report_shows_both(
    voted: Path, serving: Serving, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (voted / "answers.jsonl").read_bytes()
    with serving(ScriptedEngine(prefers_good, model="judge")) as url:
        judge(voted, judge_url=f"{url}/v1", judge_model="judge", concurrency=4)
        judge(voted, judge_url=f"{url}/v1", judge_model="judge", concurrency=4)  # nothing is asked twice
    told = " ".join(capsys.readouterr().out.split())
    assert "the same verdict on 100% of 14 pairs" in told
    assert (voted / "answers.jsonl").read_bytes() == before
    pairs = [(c.judge, c.id, *sorted((c.a, c.b))) for c in EvalFolder(voted).records().comparisons]
    assert (
        len(pairs) == len(set(pairs)) == 14 + 12 + 12 + 2
    )  # the judge: both against the baseline, and x with y
    page = html(inputs.read(voted))
    assert (
        "how far those who judge agree" in page
        and "14 comparisons, each in one order, drawn by chance" in page
    )
    assert "heedful eval run" not in page  # no command asks people again

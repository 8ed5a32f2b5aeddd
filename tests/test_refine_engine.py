"""refine and best_of_n on the real engine, through the official client."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from openai import OpenAI

pytestmark = pytest.mark.engine
MODEL = "smollm2-135m-instruct"
ASKED: Any = [{"role": "user", "content": "Name three colours and say a word about each."}]
PATIENT = {"verifier_timeout": 600}  # beside the others, on a machine as busy as it is
Client = Callable[[str], OpenAI]


def _ask(url: str, client: Client, *steps: Any, **body: Any) -> tuple[Any, list[dict[str, Any]]]:
    """The response, and the trace."""
    wish = {"alignment": {"pipeline": list(steps), "trace": True}}
    body = {"max_tokens": 40, "seed": 3, **body}
    response = client(url).chat.completions.create(model=MODEL, messages=ASKED, extra_body=wish, **body)
    return response, response.model_extra["alignment"]["trace"]


@pytest.mark.together
def test_verifiers_that_ask_the_model_score_by_probability(chat_server: str, client: Client) -> None:
    verifiers = ["self", "toxicity", {"policy": {"words": ["zzz"]}}]
    answer, trace = _ask(chat_server, client, {"refine": PATIENT | {"verifiers": verifiers, "max_rounds": 1}})
    verdicts = trace[0]["verdicts"]
    assert 0 < verdicts["self"]["score"] < 1
    assert verdicts["policy"] == {"score": 1.0, "passed": True}
    assert answer.choices[0].message.content
    details = answer.usage.model_extra["alignment_details"]["refine"]
    assert details["calls"] >= 2 and details["completion_tokens"] == answer.usage.completion_tokens


@pytest.mark.together
def test_norms_that_were_retrieved_are_judged(chat_server: str, client: Client) -> None:
    judged_once = {"refine": PATIENT | {"verifiers": ["norms"], "max_rounds": 0}}
    _, trace = _ask(chat_server, client, "norms", judged_once)
    used = next(step["used"] for step in trace if step["step"] == "norms")
    judged = next(step for step in trace if step["step"] == "refine")["verdicts"]["norms"]
    assert len(used) == judged["norms"] == len(judged["kept"]) > 0
    assert all(0 < kept < 1 for kept in judged["kept"])


@pytest.mark.together
def test_claims_are_looked_up(chat_server: str, client: Client) -> None:
    verifier = {"evidence": {"store": "norms", "min_score": -1, "k": 1, "max_claims": 2}}
    _, trace = _ask(chat_server, client, {"refine": PATIENT | {"verifiers": [verifier], "max_rounds": 0}})
    claims = trace[0]["verdicts"]["evidence"]["claims"]
    assert claims and all(c["evidence"] and 0 <= c["score"] <= 1 for c in claims)


@pytest.mark.together
def test_a_structured_answer_is_still_valid_after_corrections(chat_server: str, client: Client) -> None:
    schema = {
        "type": "object",
        "properties": {"colour": {"enum": ["red", "green", "blue"]}},
        "required": ["colour"],
        "additionalProperties": False,
    }
    form: Any = {"type": "json_schema", "json_schema": {"name": "c", "schema": schema}}
    policy = {"policy": {"require": ["purple"]}}
    answer, trace = _ask(
        chat_server, client, {"refine": {"verifiers": [policy], "max_rounds": 2}}, response_format=form
    )
    assert json.loads(answer.choices[0].message.content)["colour"] in ("red", "green", "blue")
    assert len(trace) >= 2 and not trace[0]["passed"]


def test_a_whole_answer_is_corrected_for_a_client_that_streams(chat_server: str, client: Client) -> None:
    stream = client(chat_server).chat.completions.create(
        model=f"{MODEL}@refine",
        messages=ASKED,
        max_tokens=12,
        temperature=0,  # drawn, an answer may end sooner
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices).strip()
    assert chunks[-1].usage and chunks[-1].usage.completion_tokens >= 12


@pytest.mark.together
def test_sentences_are_corrected_in_the_stream(chat_server: str, client: Client) -> None:
    options = {"verifiers": [{"policy": {"deny": ["(?i)e"]}}], "mode": "sentence", "max_rounds": 2}
    wish = {"alignment": {"pipeline": [{"refine": options}], "trace": True}}
    stream = client(chat_server).chat.completions.create(
        model=MODEL,
        messages=ASKED,
        max_tokens=60,
        seed=3,
        stream=True,
        stream_options={"include_usage": True},
        extra_body=wish,
    )
    chunks = list(stream)
    pieces = [c.choices[0].delta.content for c in chunks if c.choices and c.choices[0].delta.content]
    assert pieces and "".join(pieces).strip()
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] in ("stop", "length")
    trace = chunks[-1].model_extra["alignment"]["trace"]  # type: ignore[index]
    assert max(step["round"] for step in trace) == 2 and not trace[0]["passed"]
    assert chunks[-1].usage and chunks[-1].usage.model_extra
    assert chunks[-1].usage.model_extra["alignment_details"]["refine"]["calls"] >= 3


@pytest.mark.together
def test_best_of_n_ends_with_the_first_that_passes(chat_server: str, client: Client) -> None:
    body = {"max_tokens": 200, "temperature": 1.2}
    answer, trace = _ask(
        chat_server, client, {"best_of_n": {"n": 6, "verifiers": [{"policy": {"words": ["zzz"]}}]}}, **body
    )
    chosen = trace[-1]
    assert chosen["passed"] == [True] and len(answer.choices) == 1
    assert chosen["judged"] + trace[-2].get("aborted", 0) == 6
    # The others were broken off, unless all came to their end at once.
    assert answer.usage.completion_tokens <= 6 * 200


@pytest.mark.together
def test_best_of_n_by_probability(chat_server: str, client: Client) -> None:
    answer, trace = _ask(chat_server, client, {"best_of_n": {"n": 3, "verifiers": []}}, temperature=1.0)
    means = {s["choice"]: s["mean_logprob"] for s in trace if "mean_logprob" in s}
    assert len(means) == 3 and trace[-1]["chosen"] == [max(means, key=lambda i: means[i])]
    assert answer.choices[0].logprobs is None
    greedy, trace = _ask(chat_server, client, {"best_of_n": {"n": 3}}, temperature=0)
    assert trace[-1]["samples"] == 1 and greedy.choices[0].message.content

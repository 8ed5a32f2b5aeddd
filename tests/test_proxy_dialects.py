"""Models that refuse what others take: our own parameters give way, the client's own do not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from anthropic import Anthropic
from upstream_fixtures import LIMIT, Asked, Proxy, Reply, ScriptedUpstream, before, completion, streamed

from heedful.server.config import Config
from heedful.server.engines.upstream.dialect import Dialect
from heedful.strategies import RequestError

CLIENT = httpx.Client(timeout=LIMIT)
HI: Any = [{"role": "user", "content": "Hi"}]
SAMPLING = ("temperature", "top_p", "presence_penalty", "frequency_penalty", "logprobs", "top_logprobs")
Shape = Callable[[str, str], Reply]


def openai(parameter: str, use: str) -> Reply:
    """As OpenAI words it."""
    if parameter == "temperature":
        words = (
            "Unsupported value: 'temperature' does not support 0 with this model. "
            "Only the default (1) value is supported."
        )
        code = "unsupported_value"
    else:
        words = f"Unsupported parameter: '{parameter}' is not supported with this model."
        code = "unsupported_parameter"
        if use:
            words += f" Use '{use}' instead."
    error = {"message": words, "type": "invalid_request_error", "param": parameter, "code": code}
    return Reply.json({"error": error}, status=400)


def plain(parameter: str, use: str) -> Reply:
    return Reply.json(
        {"error": {"message": f"Argument not supported on this model: {parameter}"}}, status=400
    )


def camel(parameter: str, use: str) -> Reply:
    first, *rest = parameter.split("_")
    name = first + "".join(word.title() for word in rest)
    return Reply.json({"error": f"Model does not support parameter {name}."}, status=400)


def strict(parameter: str, use: str) -> Reply:
    detail = [
        {"type": "extra_forbidden", "loc": ["body", parameter], "msg": "Extra inputs are not permitted"}
    ]
    return Reply.json({"detail": detail}, status=422)


def gateway(parameter: str, use: str) -> Reply:
    words = f"litellm.UnsupportedParamsError: O-series models don't support {parameter}=0. Drop it."
    return Reply.json({"error": {"message": words, "type": None, "param": None, "code": "400"}}, status=400)


def reasoning(shape: Shape = openai, *, answer: str = "Yes", limit: str = "max_completion_tokens") -> Any:
    """A model that takes the other name for its limit, and no sampling parameters."""
    other = "max_tokens" if limit == "max_completion_tokens" else "max_completion_tokens"

    def script(asked: Asked) -> Reply:
        if asked.path != "/v1/chat/completions":
            return Reply.json({"detail": "Not Found"}, status=404)
        for parameter in (other, *SAMPLING):
            if asked.body.get(parameter) is not None:
                return shape(parameter, limit if parameter == other else "")
        if asked.body.get("continue_final_message"):
            return shape("continue_final_message", "")
        return Reply.sse(*streamed(answer)) if asked.body.get("stream") else Reply.json(completion(answer))

    return script


SHAPES = pytest.mark.parametrize("shape", [openai, plain, camel, strict, gateway])


@SHAPES
def test_the_probe_finds_what_a_reasoning_model_can_do(
    upstream: ScriptedUpstream, proxy: Proxy, shape: Shape
) -> None:
    upstream.answers(reasoning(shape))
    with proxy(Config(upstreams=[before(upstream, capabilities=None)])) as url:
        entry = CLIENT.get(f"{url}/v1/models/ours").json()
        assert entry["capabilities"] == ["chat"] and entry["capabilities_known_by"] == "probed"
        probes = len(upstream.asked)
        body = {"model": "ours", "max_tokens": 9, "messages": HI}
        assert CLIENT.post(f"{url}/v1/messages", json=body).status_code == 200
        assert len(upstream.asked) == probes + 1  # the dialect is known from the start
        assert upstream.last.body["max_completion_tokens"] == 9 and "max_tokens" not in upstream.last.body


@SHAPES
@pytest.mark.parametrize("stream", [False, True])
def test_the_first_refusal_teaches(
    upstream: ScriptedUpstream, proxy: Proxy, shape: Shape, stream: bool
) -> None:
    upstream.answers(reasoning(shape))
    with proxy(Config(upstreams=[before(upstream)])) as url:
        message = Anthropic(base_url=url, api_key="x", max_retries=0).messages
        asking: dict[str, Any] = {"model": "ours", "max_tokens": 9, "messages": HI}
        for calls in (2, 3, 4):
            if stream:
                with message.stream(**asking) as events:
                    text = "".join(events.text_stream)
            else:
                text = message.create(**asking).content[0].text
            assert text == "Yes" and len(upstream.asked) == calls
        assert upstream.last.body.get("max_completion_tokens") == 9


@pytest.mark.parametrize(
    "alignment",
    [
        [{"principles": {"mode": "cot"}}],
        [{"best_of_n": {"n": 2, "verifiers": ["self"]}}],
        [{"refine": {"verifiers": [{"guard": {"model": "ours"}}]}}],
    ],
)
def test_hidden_calls_reach_it(upstream: ScriptedUpstream, proxy: Proxy, alignment: Any) -> None:
    said = "safe" if "refine" in alignment[0] else "No"
    upstream.answers(reasoning(answer=said))
    with proxy(Config(upstreams=[before(upstream, capabilities=None)])) as url:
        body = {"model": "ours", "messages": HI, "alignment": alignment}
        response = CLIENT.post(f"{url}/v1/chat/completions", json=body)
        assert response.status_code == 200, response.text
        assert response.json()["choices"][0]["message"]["content"] == said


def test_the_older_name_where_the_newer_is_refused(upstream: ScriptedUpstream, proxy: Proxy) -> None:
    def unknown(parameter: str, use: str) -> Reply:
        words = f"Unrecognized request argument supplied: {parameter}"
        return Reply.json({"error": {"message": words, "param": None, "code": None}}, status=400)

    upstream.answers(reasoning(unknown, limit="max_tokens"))
    with proxy(Config(upstreams=[before(upstream)])) as url:
        body = {"model": "ours", "input": "Hi", "max_output_tokens": 7}
        assert CLIENT.post(f"{url}/v1/responses", json=body).status_code == 200
        assert upstream.last.body["max_tokens"] == 7 and "max_completion_tokens" not in upstream.last.body


def test_what_the_client_chose_is_never_left_out(upstream: ScriptedUpstream, proxy: Proxy) -> None:
    upstream.answers(reasoning())
    with proxy(Config(upstreams=[before(upstream, capabilities=None)])) as url:
        probes = len(upstream.asked)
        for path in ("messages", "chat/completions"):
            for alignment in ("direct", [{"principles": {"mode": "cot"}}]):
                body = {"model": "ours", "messages": HI, "temperature": 0.3, "alignment": alignment}
                if path == "messages":
                    body["max_tokens"] = 9
                response = CLIENT.post(f"{url}/v1/{path}", json=body)
                assert response.status_code == 400 and "temperature" in response.json()["error"]["message"]
        assert len(upstream.asked) == probes + 4  # told at once
        # Raw pass-through: its words about the client's own parameter are the client's.
        body = {"model": "ours", "messages": HI, "max_tokens": 9}
        response = CLIENT.post(f"{url}/v1/chat/completions", json=body)
        assert response.status_code == 400 and response.json()["error"]["param"] == "max_tokens"


def test_an_answer_that_thinking_cut_short_is_a_sign_of_life(
    upstream: ScriptedUpstream, proxy: Proxy
) -> None:
    words = "Could not finish the message because max_tokens or model output limit was reached."
    upstream.answers(
        lambda asked: (
            Reply.json({"error": {"message": words}}, status=400)
            if asked.path.endswith("/chat/completions") and not asked.body.get("continue_final_message")
            else Reply.json({"detail": "Not Found"}, status=404)
        )
    )
    with proxy(Config(upstreams=[before(upstream, capabilities=None)])) as url:
        assert CLIENT.get(f"{url}/v1/models/ours").json()["capabilities"] == ["chat"]


def test_a_least_length_is_no_refusal_of_chat(upstream: ScriptedUpstream, proxy: Proxy) -> None:
    def script(asked: Asked) -> Reply:
        if asked.body.get("max_tokens", 99) < 16:
            words = "Invalid 'max_tokens': integer below minimum value. Expected a value >= 16."
            return Reply.json({"error": {"message": words, "param": "max_tokens"}}, status=400)
        return reasoning(limit="max_tokens")(asked)  # type: ignore[no-any-return]

    upstream.answers(script)
    with proxy(Config(upstreams=[before(upstream, capabilities=None)])) as url:
        assert CLIENT.get(f"{url}/v1/models/ours").json()["capabilities"] == ["chat"]


@pytest.mark.parametrize(
    "words",
    [
        "max_tokens is too large: 9999. This model supports at most 4096 completion tokens.",
        "maximum context length is 4096 tokens. However, you requested 5000 tokens.",
        "temperature must be between 0 and 2",
        "Invalid type for 'messages[0].content': unsupported content part",
        "unknown model",
    ],
)
def test_other_refusals_teach_nothing(words: str) -> None:
    dialect = Dialect()
    sent = {"model": "m", "messages": [], "max_tokens": 9, "temperature": 0}
    assert not dialect.learn(RequestError(words), sent, {})
    assert dialect.adapted(sent, {}) == sent


def test_a_model_that_refuses_everything_is_asked_a_few_times_only(
    upstream: ScriptedUpstream, proxy: Proxy
) -> None:
    def never(asked: Asked) -> Reply:
        named = "max_tokens" if "max_tokens" in asked.body else "max_completion_tokens"
        return openai(named, "")

    upstream.answers(never)
    with proxy(Config(upstreams=[before(upstream)])) as url:
        body = {"model": "ours", "messages": HI, "max_tokens": 9}
        assert CLIENT.post(f"{url}/v1/messages", json=body).status_code == 400
    assert len(upstream.asked) <= 5

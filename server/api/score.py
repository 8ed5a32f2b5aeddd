"""/v1/alignment/score: the log-likelihood of given answers under an alignment's context."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from heedful.server.access.client import Role
from heedful.server.api.bodies import handled, typed
from heedful.server.api.chat import ChatBody, chat_request
from heedful.server.api.operation import Operation
from heedful.server.exchange import Body, answer
from heedful.server.http import json_response
from heedful.server.service import Target
from heedful.strategies import Capability, MissingCapability, RequestError, Run
from heedful.strategies.decode.direct import Direct
from heedful.strategies.likelihood import log_likelihoods
from heedful.strategies.plan import Plan
from heedful.strategies.shown import describe

MOST_ANSWERS = 64


class ScoreBody(ChatBody, kw_only=True):
    """A conversation, and answers to it."""

    answers: Annotated[list[Annotated[str, Meta(min_length=1)]], Meta(min_length=1, max_length=MOST_ANSWERS)]


class ScoreObject(msgspec.Struct):
    logprob: float
    tokens: int
    token_logprobs: list[float]


class ScoresObject(msgspec.Struct):
    """Natural-log probabilities: of each answer, and of each of its tokens."""

    model: str
    answers: list[ScoreObject]
    usage: dict[str, Any]
    object: str = "alignment.score"
    alignment: dict[str, Any] | None = None


async def score(request: Request) -> Response:
    """POST /v1/alignment/score"""
    return await answer(request, _score, own=handled(ScoreBody))


async def _score(body: Body, target: Target, run: Run) -> Response:
    answers = typed(body.fields, ScoreBody, model=run.engine.model).answers
    _check(target.plan, run)
    fields = {k: v for k, v in body.fields.items() if k != "answers"}
    request = chat_request(fields, run.engine.model)
    context = await target.plan.prepare(request, run)
    if context.refusal is not None:
        raise RequestError(context.refusal, param="messages", code="content_filter")
    if context.then is not None:
        _check(context.then, run)
    if context.original is not request:
        raise RequestError(
            "a gate has redacted the conversation, and the answers are not: they can't be scored together",
            param="answers",
            code="no_likelihood",
        )
    scores = await log_likelihoods(context, answers, run.stage("score").engine)
    usage = run.ledger.usage(run.ledger.spent)
    response: dict[str, Any] = {
        "object": "alignment.score",
        "model": run.engine.model,
        "answers": [{"logprob": sum(each), "tokens": len(each), "token_logprobs": each} for each in scores],
        "usage": {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "total_tokens": usage.prompt_tokens + usage.completion_tokens,
            **usage.extra,
        },
    }
    if target.trace:
        response["alignment"] = describe(run, target.plan)
    return json_response(response)


def _check(plan: Plan, run: Run) -> None:
    if not isinstance(plan.decoder[1], Direct):
        raise RequestError(
            f"alignment {plan.name!r} decodes by {plan.decoder[0]!r}, which has no likelihood of its own: "
            "only context strategies can be scored",
            param="alignment",
            code="no_likelihood",
        )
    if Capability.TOKENS not in run.engine.capabilities:
        raise MissingCapability(
            f"scores need tokens from the engine, and model {run.engine.model!r} offers "
            f"{', '.join(run.engine.capabilities.names) or 'nothing of the kind'}",
            param="model",
        )


OPERATIONS = (
    Operation(
        "POST",
        "/v1/alignment/score",
        score,
        "Log-likelihood of given answers under an alignment",
        body=ScoreBody,
        answer=ScoresObject,
        role=Role.USER,
    ),
)

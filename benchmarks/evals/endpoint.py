"""The server under measurement, as an evaluation asks it: answers, and likelihoods of given ones."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import aiohttp
import msgspec

from heedful.benchmarks.alignment_option import NO_ALIGNMENT
from heedful.benchmarks.evals.items import EvalItem
from heedful.benchmarks.evals.records import AnswerRecord, Cost, EvalError, Score

_NOT_ANSWERING = "no answer from {url}: {error}; run the same command again to go on"


class Refused(Exception):
    """What the endpoint says in place of an answer. `code` is the error's own, where it has one."""

    def __init__(self, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.code = code


@asynccontextmanager
async def connect(url: str, key: str, *, concurrency: int, patience: float) -> AsyncIterator[Endpoint]:
    """`url` is the base URL, with /v1; `patience` the seconds one request may take."""
    async with aiohttp.ClientSession(
        headers={"Authorization": f"Bearer {key}"},
        connector=aiohttp.TCPConnector(limit=concurrency),
        timeout=aiohttp.ClientTimeout(total=patience),
    ) as session:
        yield Endpoint(url.rstrip("/"), session)


class Endpoint:
    """One OpenAI-compatible base URL. Answers are records: what goes wrong with one stands in its `error`.

    Raises EvalError where nobody answers at all.
    """

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self._url, self._session = url, session

    async def models(self) -> list[dict[str, Any]]:
        """The entries of /models."""
        try:
            async with self._session.get(f"{self._url}/models") as response:
                body = await _object(response)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise EvalError(_NOT_ANSWERING.format(url=self._url, error=error)) from error
        except Refused as error:
            raise EvalError(f"{self._url}/models: {error}") from error
        return [entry for entry in body.get("data") or [] if isinstance(entry, dict)]

    async def answer(
        self, item: EvalItem, model: str, alignment: str, own: Any = None, **params: Any
    ) -> AnswerRecord:
        """What the model writes. `own`: the steps that `alignment` stands for, where the server knows no such name.

        `params` are those of the request: max_tokens, temperature, seed.
        """
        record = partial(AnswerRecord, set=item.set, id=item.id, model=model, alignment=alignment)
        began = time.perf_counter()
        try:
            body = await self._post(
                "/chat/completions", model, own or alignment, messages=item.messages, **params
            )
            choice = body["choices"][0]
            text, reason = choice["message"].get("content") or "", choice.get("finish_reason") or ""
        except Refused as error:
            return record(error=str(error))
        except (KeyError, IndexError, TypeError, AttributeError):
            return record(error="the endpoint's answer has no message")
        cost = _cost(body.get("usage") or {}, time.perf_counter() - began, alignment)
        return record(text=text, finish_reason=reason, cost=cost)

    async def score(self, item: EvalItem, model: str, alignment: str, own: Any = None) -> Score:
        """The likelihood of the item's candidates."""
        record = partial(Score, set=item.set, id=item.id, model=model, alignment=alignment)
        asked = {"messages": item.messages, "answers": item.candidates}
        try:
            body = await self._post("/alignment/score", model, own or alignment, **asked)
            found = [(float(a["logprob"]), int(a["tokens"])) for a in body["answers"]]
        except Refused as error:
            return record(error=str(error), undefined=error.code == "no_likelihood")
        except (KeyError, TypeError, ValueError):
            return record(error="the endpoint's answer has no scores")
        if len(found) != len(item.candidates):
            return record(error="the endpoint has not scored every candidate")
        return record(logprobs=[p for p, _ in found], tokens=[n for _, n in found])

    async def _post(self, path: str, model: str, alignment: Any, **fields: Any) -> dict[str, Any]:
        wish = {} if alignment == NO_ALIGNMENT else {"alignment": alignment}
        payload = msgspec.json.encode({"model": model, **wish, **fields})
        headers = {"Content-Type": "application/json"}
        try:
            async with self._session.post(f"{self._url}{path}", data=payload, headers=headers) as response:
                return await _object(response)
        except aiohttp.ClientConnectorError as error:
            raise EvalError(_NOT_ANSWERING.format(url=self._url, error=error)) from error
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Refused(f"{type(error).__name__}: {error}") from error


async def _object(response: aiohttp.ClientResponse) -> dict[str, Any]:
    raw = await response.read()
    try:
        body = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        body = None
    if not isinstance(body, dict):
        raise Refused(f"status {response.status}, and no JSON object")
    error = body.get("error")
    if error or response.status >= 400:
        told: Mapping[str, Any] = error if isinstance(error, dict) else {"message": error or body}
        raise Refused(f"{response.status}: {told.get('message')}", told.get("code"))
    return body


def _cost(usage: Mapping[str, Any], seconds: float, alignment: str) -> Cost:
    """heedful's usage counts every hidden call, and says in `alignment_details` which stage made how many."""
    details: Mapping[str, Mapping[str, int]] = usage.get("alignment_details") or {}
    written = int(usage.get("completion_tokens") or 0)
    # One stage, and not by this name: a strategy that samples several answers in one call, perhaps.
    plain = alignment in ("direct", NO_ALIGNMENT)
    answer = details.get("direct", {}).get("completion_tokens") if details else written if plain else None
    return Cost(
        calls=sum(stage.get("calls", 0) for stage in details.values()) or 1,
        prompt_tokens=int(usage.get("prompt_tokens") or 0),
        completion_tokens=written,
        answer_tokens=answer,
        seconds=seconds,
    )

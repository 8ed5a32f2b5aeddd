"""/v1/embeddings: an upstream's as they are, and those of the embedder that the stores use."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from heedful.retrieval import Embedder, StoreError
from heedful.server.access.client import Role
from heedful.server.access.letting_in import client_of
from heedful.server.api import passthrough
from heedful.server.api.bodies import handled, typed
from heedful.server.api.operation import Operation
from heedful.server.exchange import Body, answer, read
from heedful.server.http import WhileConnected, json_response
from heedful.server.observe.facts import facts_of
from heedful.server.service import Service, Target
from heedful.strategies import ContextOverflow, RequestError, RetrievalError, Run, Usage

_MOST = 2048  # texts in one request, as OpenAI has it
_LONGEST = 1 << 20  # characters of a text, as of an item's


class EmbeddingsBody(msgspec.Struct, kw_only=True):
    """OpenAI's embeddings. Token ids: of an upstream's model only; the stores' own embedder takes texts."""

    model: str
    input: str | Annotated[list[str | int | list[int]], Meta(min_length=1, max_length=_MOST)]
    dimensions: Annotated[int, Meta(ge=1)] | None = None
    encoding_format: Literal["float", "base64"] | None = None
    truncate_prompt_tokens: (
        Annotated[int, Meta(description="-1: of a text that is too long, embed the beginning")] | None
    ) = None


async def embeddings(request: Request) -> Response:
    """POST /v1/embeddings. An alignment has nothing to do with them."""
    service: Service = request.app.state.service
    body = await read(request)
    embedder = service.resources(client_of(request.scope)).embedder
    if embedder is None or body.fields.get("model") != embedder.name or embedder.name in service.engines:
        return await answer(request, _forwarded, body, own=handled(EmbeddingsBody), writes=False)
    if (floor := service.floor(request.scope)) is not None:
        floor.allowed.require("models", embedder.name, "model")
    async with WhileConnected(request.receive), asyncio.timeout_at(service.deadline(request.scope)):
        answered = await _local(embedder, body.fields)
    if (facts := facts_of(request.scope)) is not None:
        facts.fields, facts.usage = body.fields, Usage(answered["usage"]["prompt_tokens"])
    return json_response(answered)


async def _forwarded(body: Body, target: Target, run: Run) -> Response:
    if (remote := target.engine.remote) is None:
        raise RequestError(f"model {target.engine.model!r} does not embed", param="model")
    payload = passthrough.payload(remote.upstream_model, body.raw, body.fields)
    return await passthrough.forward(remote, "/embeddings", payload, run.deadline, target.facts)


async def _local(embedder: Embedder, fields: dict[str, Any]) -> dict[str, Any]:
    """The embedder's unit vectors, and how many tokens they are of."""
    body = typed(fields, EmbeddingsBody)
    texts = _texts(embedder, body.input)
    form = body.encoding_format or "float"
    try:
        tokens = await embedder.tokens(texts)
        _check_size(embedder, body, tokens)
        vectors = await embedder.embed(texts)
    except StoreError as error:
        raise RetrievalError(str(error)) from error
    data = [
        {
            "object": "embedding",
            "index": i,
            "embedding": v.tolist() if form == "float" else b64encode(v.astype("<f4").tobytes()).decode(),
        }
        for i, v in enumerate(vectors)
    ]
    read = sum(min(n, embedder.longest or n) for n in tokens)
    usage = {"prompt_tokens": read, "total_tokens": read}
    return {"object": "list", "data": data, "model": embedder.name, "usage": usage}


def _texts(embedder: Embedder, given: str | list[str | int | list[int]]) -> list[str]:
    listed = [given] if isinstance(given, str) else given
    texts = [text for text in listed if isinstance(text, str)]
    if len(texts) < len(listed):
        raise RequestError(
            f"input: {embedder.name} takes texts, no token ids: another tokenizer's would say something else "
            "(LangChain's OpenAIEmbeddings sends texts with check_embedding_ctx_length=False)",
            param="input",
        )
    for i, text in enumerate(texts):
        where = "input" if isinstance(given, str) else f"input.{i}"
        if not text:
            raise RequestError(f"{where}: can't be an empty string", param=where)
        if len(text) > _LONGEST:
            raise RequestError(f"{where}: has {len(text)} characters, {_LONGEST} at most", param=where)
        if any("\ud800" <= sign <= "\udfff" for sign in text):
            raise RequestError(f"{where}: holds half a surrogate pair, which is no text", param=where)
    return texts


def _check_size(embedder: Embedder, body: EmbeddingsBody, tokens: list[int]) -> None:
    """In OpenAI's words, which clients look for. `truncate_prompt_tokens: -1` asks for a beginning, as with vLLM."""
    if body.dimensions not in (None, embedder.dimension):
        raise RequestError(
            f"dimensions: {embedder.name} has {embedder.dimension} and can't be shortened", param="dimensions"
        )
    truncate = body.truncate_prompt_tokens
    if truncate not in (None, -1, embedder.longest):
        raise RequestError(
            f"truncate_prompt_tokens: must be -1, for the {embedder.longest} tokens that the model reads",
            param="truncate_prompt_tokens",
        )
    limit = embedder.longest
    for i, n in enumerate(tokens):
        if limit is not None and n > limit and truncate is None:
            where = "input" if isinstance(body.input, str) else f"input.{i}"
            mend = "Please shorten it, or send truncate_prompt_tokens: -1 to have its beginning embedded."
            raise ContextOverflow(limit, n, param=where, what="your text", mend=mend)


OPERATIONS = (
    Operation(
        "POST",
        "/v1/embeddings",
        embeddings,
        "OpenAI embeddings",
        body=EmbeddingsBody,
        answer=dict[str, Any],
        role=Role.USER,
    ),
)

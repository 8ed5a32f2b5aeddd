"""The model's own answer from token ids, without a search: the gate's draft, and where a search gives way to it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Any

from heedful.strategies.decode.rain.drafts import Counts, draw
from heedful.strategies.decode.rain.request import Request
from heedful.strategies.decode.rain.tree import Draft, End, Node
from heedful.strategies.engine import Engine, Extension

PIECE = 32  # tokens at a time, so that a stream keeps moving
_SAMPLING = ("temperature", "top_p", "top_k", "min_p")


async def decode(
    engine: Engine,
    request: Request,
    params: Mapping[str, Any],
    seed: int,
    counts: Counts,
    start: Node,
    piece: int = PIECE,
) -> AsyncGenerator[Draft, None]:
    """Continues an answer from a node to its end by the client's own sampling; the last piece has an `end`."""
    sampling = {name: params[name] for name in _SAMPLING if params.get(name) is not None}
    after, text = start.path, start.text
    end: End | None = None
    while end is None:
        room = request.limit - len(after)
        if room <= 0:
            return
        (drawn,) = await engine.extend(
            Extension(
                (*request.prompt, *after),
                max_tokens=min(piece, room),
                seed=draw(seed, "plain", Node(path=after)),
                stop=request.stops,
                logprobs=request.top_logprobs if request.logprobs else None,
                repetition_penalty=request.repetition_penalty,
                ignore_eos=request.ignore_eos,
                **sampling,
            )
        )
        counts.calls += 1
        counts.drafted += len(drawn.token_ids)
        text += drawn.text
        after += drawn.token_ids
        if drawn.finish_reason == "stop" or request.cut(text) is not None:
            end = "stop"
        elif len(after) >= request.limit:
            end = "length"
        yield Draft(drawn.token_ids, 1.0, drawn.text, end, drawn.logprobs)

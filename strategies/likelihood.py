"""How likely a model finds given answers, under whatever context strategies have made of the request."""

from __future__ import annotations

from collections.abc import Sequence

from heedful.strategies.engine import Engine
from heedful.strategies.errors import RequestError
from heedful.strategies.options import next_token, tokens_of
from heedful.strategies.types import Context, prompt_fields

_AT_ONCE = 20  # tokens that vLLM reports of one step, unless told otherwise


async def log_likelihoods(context: Context, answers: Sequence[str], engine: Engine) -> list[list[float]]:
    """Natural-log probability of every token of every answer to `context`, under the model itself.

    Temperature, cuts and penalties of the request play no part. The end of the turn is not scored: an answer is
    the beginning that the model would go on from. Raises RequestError for an answer without a token.
    """
    if context.prompt is not None:
        prompt = await engine.tokenize(context.prompt, special=True)
    else:
        open_turn = bool(context.params.get("continue_final_message"))
        prompt = await engine.render(
            context.messages, continue_final=open_turn, shape=prompt_fields(context.params)
        )
    tokens = await tokens_of(engine, answers, after=await engine.detokenize(prompt[-1:]))
    for i, each in enumerate(tokens):
        if not each:
            raise RequestError(f"answers.{i}: has no token", param=f"answers.{i}")
    if all(len(each) == 1 for each in tokens) and len(tokens) <= _AT_ONCE:
        # The options of a multiple choice, say.
        step = await next_token(engine, prompt, [each[0] for each in tokens])
        return [[logprob] for logprob in step.logprobs]
    return await engine.score(prompt, tokens)

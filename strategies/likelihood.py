"""How likely a model finds given answers, under whatever context strategies have made of the request."""

from __future__ import annotations

from collections.abc import Sequence

from heedful.strategies.engine import Engine, Extension
from heedful.strategies.errors import RequestError
from heedful.strategies.tasks import SOME, together
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
    last = await engine.detokenize(prompt[-1:])
    before, *joined = await together(
        (engine.tokenize(text) for text in (last, *(last + a for a in answers))), SOME
    )
    tokens = await together(
        (_answer_tokens(before, both, answer, engine) for both, answer in zip(joined, answers, strict=True)),
        SOME,
    )
    for i, each in enumerate(tokens):
        if not each:
            raise RequestError(f"answers.{i}: has no token", param=f"answers.{i}")
    if all(len(each) == 1 for each in tokens) and len(tokens) <= _AT_ONCE:
        return [[logprob] for logprob in await _next_token(prompt, [each[0] for each in tokens], engine)]
    return await engine.score(prompt, tokens)


async def _next_token(prompt: Sequence[int], tokens: Sequence[int], engine: Engine) -> list[float]:
    """The options of a multiple choice: all are read off one step, and the prompt may come from a cache."""
    (scored,) = await engine.extend(
        Extension(prompt, max_tokens=1, temperature=0.0, logprob_token_ids=list(dict.fromkeys(tokens)))
    )
    return [scored.logprobs[0][token] for token in tokens]


async def _answer_tokens(before: Sequence[int], both: list[int], answer: str, engine: Engine) -> list[int]:
    """The answer's tokens after a prompt. `before`: those of the prompt's last text, `both`: of that and the answer.

    The prompt's tokens stay as they are, as they do when the model generates. The answer is tokenised together with
    the text of the last of them, since tokenisers treat the start of a text in ways of their own (a space put in
    front, say). Where the two grow into one token across the boundary, the answer is tokenised alone: that is what
    the model would have to write there.
    """
    return both[len(before) :] if both[: len(before)] == before else await engine.tokenize(answer)

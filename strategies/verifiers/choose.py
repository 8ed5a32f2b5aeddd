"""A question with given options, put to the model: by log-probabilities where it has them, else by its words."""

from __future__ import annotations

import math
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any

from heedful.strategies.answer import Choice, ask
from heedful.strategies.engine import Capability, Engine
from heedful.strategies.errors import NoVerdict
from heedful.strategies.options import TOP, begins_word, next_token, reported, tokens_of
from heedful.strategies.tasks import together
from heedful.strategies.thinking import left_open, opens, say, thoughts_of
from heedful.strategies.types import Context, Message, prompt_fields

_WORDS = 16
_UNLIKELY = 0.05
"""Below this share the options are not what the model was about to say."""
_TAIL = 16


async def choose(
    engine: Engine, messages: Sequence[Message], options: Sequence[str], context: Context
) -> list[float]:
    """Probabilities of one-word options that begin differently, summing to 1; without log-probabilities 0 or 1.

    A model that thinks first gets room for it. Raises NoVerdict where the model, asked twice, answers none of them.
    """
    if Capability.TOKENS in engine.capabilities:
        shape = prompt_fields(context.hidden_params())
        if found := await _next_token(engine, messages, options, shape):
            return found
    params = context.hidden_params(temperature=0)
    if Capability.LOGPROBS in engine.capabilities and not engine.habits.thinks:
        extra = {"max_tokens": 1, "logprobs": True, "top_logprobs": TOP}
        answer = await ask(engine, list(messages), params | extra)
        if answer.choices and (found := _reported(answer.choices[0], options)):
            return found
    return await _in_words(engine, messages, options, params)


async def _next_token(
    engine: Engine, messages: Sequence[Message], options: Sequence[str], shape: Mapping[str, Any]
) -> list[float] | None:
    """None where the model thinks first: the token says nothing about what comes after the thoughts."""
    at_once: list[Coroutine[Any, Any, Any]] = [
        engine.render(messages, shape=shape),
        tokens_of(engine, options),
    ]
    prompt, written = await together(at_once)
    step = await next_token(engine, prompt, [ids[0] for ids in written])
    if sum(map(math.exp, step.logprobs)) < _UNLIKELY:
        if opens(step.text) or left_open(await engine.detokenize(prompt[-_TAIL:])):
            return None
    return _shares(step.logprobs)


def _reported(choice: Choice, options: Sequence[str]) -> list[float] | None:
    """What an OpenAI-style answer reports of its first token, if any option is among it.

    Of a model that begins to think it says nothing about what comes after the thoughts.
    """
    steps = (choice.logprobs or {}).get("content") or []
    if thoughts_of(choice) or not steps or opens(str(steps[0].get("token"))):
        return None
    top = ((str(entry.get("token")), entry.get("logprob")) for entry in steps[0].get("top_logprobs") or ())
    # Where several begin the same word, the likeliest speaks for it.
    logprobs = [max(ways, default=-math.inf) for ways in reported(top, options, begins_word)]
    return _shares(logprobs) if max(logprobs) > -math.inf else None


async def _in_words(
    engine: Engine, messages: Sequence[Message], options: Sequence[str], params: dict[str, Any]
) -> list[float]:
    turns, cut = list(messages), False
    for _ in range(2):
        # What was cut off may have been thoughts that nothing marks as such.
        said = await say(engine, turns, params, _WORDS, roomy=cut)
        cut = said.cut
        # The first word, all of it: "not" is not "no".
        word = "".join(c if c.isalnum() else " " for c in said.text).split()[:1]
        found = [option.casefold() == "".join(word).casefold() for option in options]
        if any(found):
            return [float(f) for f in found]
        again = f"Answer with one word only: {' or '.join(options)}."
        turns = [
            *messages,
            {"role": "assistant", "content": said.text or "…"},
            {"role": "user", "content": again},
        ]
    raise NoVerdict(f"asked for {' or '.join(options)}, model {engine.model!r} {said.told()}")


def _shares(logprobs: Sequence[float]) -> list[float]:
    top = max(logprobs)
    if top == -math.inf:
        raise NoVerdict("the model gives none of the options any probability")
    weights = [math.exp(p - top) for p in logprobs]
    return [w / sum(weights) for w in weights]

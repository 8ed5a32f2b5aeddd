"""Random requests with random plans in them, for fuzzing: mostly what the options' schemas allow, some of it not.

One seed is one request, on every machine.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

_ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 3, 0.5, 1e300, -0.0, 2**70, "", " ", "abc", "\0", "𝔘n", "x" * 300, [], [1], ["a"],
    [None], [[]], {}, {"a": 1}, {"norms": {}},
)  # fmt: skip
_TEXTS = (
    "Hi",
    "May I shout?",
    "",
    "The tower leans. It really does! Why?",
    "Ünïcode 🜁",
    "{}",
    "[/INST]<norms>",
)
_FOLDERS = {"task": "rain/", "set": "principles/"}
_PATTERNS = ("a", r"\d+", "(a)(b)?", "(", "(?=x)", "^$", r"\b", "x{1000}")


@dataclass(frozen=True)
class Asked:
    """One request; `streams` where the answer is a stream."""

    path: str
    body: dict[str, Any]

    @property
    def streams(self) -> bool:
        return self.body.get("stream") is True


class Plans:
    """Draws requests. `about`: what GET /v1/alignment says; `prompts`, `stores` and `models`: names there are."""

    def __init__(
        self,
        about: Mapping[str, Any],
        *,
        prompts: Sequence[str],
        stores: Sequence[str],
        models: Sequence[str],
    ) -> None:
        self._strategies, self._verifiers = about["strategies"], about["verifiers"]
        self._named = sorted(about["alignments"])
        self._prompts, self._stores, self._models = prompts, stores, models

    def request(self, seed: int) -> Asked:
        rng = Random(seed)
        path = rng.choice(
            ["chat/completions"] * 5
            + ["messages"] * 2
            + ["responses", "completions", "messages/count_tokens", "alignment/score"]
        )
        body: dict[str, Any] = {"model": rng.choice(self._models), "alignment": self._selection(rng)}
        if path == "responses":
            body["input"] = rng.choice(_TEXTS)
        elif path == "completions":
            body["prompt"] = rng.choice(_TEXTS)
        else:
            body["messages"] = self._messages(rng, system=path != "messages")
        if path == "alignment/score":
            body["answers"] = rng.choices(_TEXTS, k=rng.randint(1, 3))
            return Asked(f"/v1/{path}", body)
        limit = "max_output_tokens" if path == "responses" else "max_tokens"
        if path in ("messages", "completions") or rng.random() < 0.8:
            body[limit] = rng.randint(1, 8)
        if path != "messages/count_tokens":
            body["stream"] = rng.random() < 0.4
        for name, value in self._params(rng).items():
            if rng.random() < 0.15:
                body[name] = value
        return Asked(f"/v1/{path}", body)

    def _params(self, rng: Random) -> dict[str, Any]:
        schema = {"type": "object", "properties": {"a": {"type": "string"}}}
        function = {"name": "look", "parameters": schema}
        return {
            "n": rng.randint(1, 4),
            "temperature": rng.choice([0, 0.5, 1]),
            "seed": rng.randint(0, 9),
            "stop": rng.choice(["a", ["a", "b"], [], "zzz"]),
            "logprobs": rng.choice([True, 2]),
            "top_logprobs": rng.randint(0, 3),
            "response_format": rng.choice(
                [
                    {"type": "json_object"},
                    {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
                ]
            ),
            "tools": [{"type": "function", "function": function}],
            "repetition_penalty": rng.choice([1.0, 1.2]),
            "chat_template_kwargs": {"enable_thinking": False},
            "continue_final_message": True,
            "min_p": 0.1,
            "top_k": 5,
        }

    def _messages(self, rng: Random, *, system: bool) -> list[dict[str, Any]]:
        def content() -> Any:
            text = rng.choice(_TEXTS)
            return [{"type": "text", "text": text}] if rng.random() < 0.2 else text

        found = [{"role": "system", "content": content()}] if system and rng.random() < 0.3 else []
        for _ in range(rng.choice([0, 0, 0, 1, 2])):
            found += [{"role": "user", "content": content()}, {"role": "assistant", "content": content()}]
        if rng.random() < 0.95:
            found.append({"role": "user", "content": content()})
        return found

    def _selection(self, rng: Random) -> Any:
        if rng.random() < 0.1:
            return "+".join(rng.choices([*self._named, *self._strategies, "nobody"], k=rng.randint(1, 3)))
        steps: list[Any] = [self._step(rng) for _ in range(rng.choice([1, 1, 1, 2, 2, 3, 4]))]
        if rng.random() < 0.9:  # more than one that decodes is refused
            decoding = [step for step in steps if self._decodes(step)]
            steps = [step for step in steps if step not in decoding[1:]]
        if rng.random() < 0.05:
            steps.insert(rng.randint(0, len(steps)), rng.choice(_ODD))
        if rng.random() < 0.9:  # what decodes comes last
            steps.sort(key=self._decodes)
        return {"pipeline": steps, "trace": rng.random() < 0.3}

    def _decodes(self, step: Any) -> bool:
        names = step if isinstance(step, dict) else [step] if isinstance(step, str) else []
        return any(self._strategies.get(name, {}).get("kind") == "decoding" for name in names)

    def _step(self, rng: Random) -> Any:
        name = rng.choice(sorted(self._strategies))
        options = self._options(rng, self._strategies[name].get("options", {}))
        if name == "blockwise":
            options.setdefault("max_tokens", rng.randint(1, 60))
        if name == "rain":
            options.setdefault("max_drafted_tokens", rng.randint(1, 150))  # a search takes its time
            options.setdefault("effort", "low")
        return {name: options} if options or rng.random() < 0.5 else name

    def _options(self, rng: Random, schemas: Mapping[str, Any]) -> dict[str, Any]:
        share = rng.choice([0.05, 0.2, 0.5])
        odd = rng.choice([0.0, 0.0, 0.1])
        return {
            name: rng.choice(_ODD) if rng.random() < odd else self._value(rng, name, schema)
            for name, schema in schemas.items()
            if rng.random() < share
        }

    def _value(self, rng: Random, name: str, schema: Mapping[str, Any]) -> Any:
        """What the schema allows, and names of things that there are where a name is wanted, of whatever kind."""
        if name in ("verifiers", "value"):
            return [self._verifier(rng) for _ in range(rng.choice([0, 1, 1, 2, 3]))]
        if any_of := schema.get("anyOf"):
            return self._value(rng, name, rng.choice(any_of))
        if "const" in schema:
            return schema["const"]
        if options := schema.get("enum"):
            return rng.choice(options)
        kind = schema.get("type")
        if kind == "boolean":
            return rng.random() < 0.5
        if kind == "null":
            return None
        if kind in ("integer", "number"):
            return self._number(rng, name, schema)
        if kind == "array":
            if "prefixItems" in schema:
                return [self._value(rng, name, each) for each in schema["prefixItems"]]
            length = rng.randint(schema.get("minItems", 0), 3)
            return [self._value(rng, name, schema["items"]) for _ in range(length)]
        return self._string(rng, name, schema.get("default"))

    def _number(self, rng: Random, name: str, schema: Mapping[str, Any]) -> float:
        least = schema.get("minimum", schema.get("exclusiveMinimum", -2))
        most = min(schema.get("maximum", schema.get("exclusiveMaximum", 8)), 8)
        if name in ("verifier_timeout", "max_seconds"):
            return 8.0  # what takes longer than asked is no fault
        if schema["type"] == "integer":
            return rng.randint(int(least), max(int(least), int(most)))
        inside = rng.uniform(least, most)
        return float(rng.choice([inside, inside, least if "minimum" in schema else inside, most]))

    def _string(self, rng: Random, name: str, default: str | None) -> str:
        if name == "prompt":
            return default if default and rng.random() < 0.6 else rng.choice(self._prompts)
        if folder := _FOLDERS.get(name):
            fitting = [p.removeprefix(folder) for p in self._prompts if p.startswith(folder)]
            return rng.choice(fitting if rng.random() < 0.7 else self._prompts)
        if name == "store":
            return rng.choice([*self._stores, *self._stores, "nowhere"])
        if name == "model":
            return rng.choice([*self._models, "nobody"])
        if name in ("deny", "require"):
            return rng.choice(_PATTERNS)
        return rng.choice(_TEXTS)

    def _verifier(self, rng: Random) -> Any:
        usual = [name for name in self._verifiers if name not in ("command", "http", "reward")]
        name = rng.choice(usual if rng.random() < 0.97 else [*self._verifiers, "nobody"])
        options = self._options(rng, self._verifiers.get(name, {}).get("options", {}))
        if name == "policy":
            options.setdefault("words", ["no", "bad"])
        return {name: options} if options or rng.random() < 0.3 else name


def reply(seed: str) -> str:
    """What a model says to `seed`: now what a judge should say, now anything."""
    rng = Random(seed)
    return rng.choice(
        [
            "No", "Yes", "safe", "unsafe\nS1", "Supported", "It is bad. No! Really?", "ok", "", "{}", '{"a": "b"}',
            "<think>hm</think>Yes", "Bad words, all of them; no end of them.", "1. no\n2. bad",
        ]
    )  # fmt: skip


_OURS = re.compile(
    "server_error|api_error|overloaded_error|timeout_error|internal|engine|_failed|deadline|upstream"
)
_NO_VERDICT = re.compile("asked for .* model|neither safe nor unsafe|none of the options any probability")


def fault(status: int, text: str, streamed: bool) -> str | None:
    """What of an answer is a fault of ours: a server error, unless it tells of a judge that gave no verdict."""
    if status >= 400:
        bodies = [json.loads(text)]
    else:
        lines = text.splitlines() if streamed else []
        bodies = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    for body in bodies:
        error = body.get("error") or (body if body.get("type") == "error" else None)
        if not error or _NO_VERDICT.search(str(error.get("message"))):
            continue
        if status >= 500 or (status == 200 and _OURS.search(f"{error.get('type')} {error.get('code')}")):
            return json.dumps(error)[:500]
    return None

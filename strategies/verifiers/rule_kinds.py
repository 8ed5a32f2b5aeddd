"""Rules that code can check exactly, by kind: what each says in words, and whether a text keeps it.

In the spirit of IFEval (Zhou et al. 2023, arXiv 2311.07911), with kinds and words of our own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from heedful.strategies.sentences import split

Argument = int | str | bool | tuple[str, ...]
"""What a rule is given: a number, a text, several, or `true` where its kind says it all."""
Wants = Literal["number", "text", "texts", "nothing"]

_URL = re.compile(r"https?://|\bwww\.", re.IGNORECASE)
# Possessive, and within a line: else a row of line breaks takes the square of its length.
_BULLET = re.compile(r"^[^\S\n]*+[-*•] \S", re.MULTILINE)
_NUMBERED = re.compile(r"^[^\S\n]*+\d++[.)] \S", re.MULTILINE)
_FIRST_PERSON = re.compile(r"\b(?:I|me|my|mine|myself)\b")


@dataclass(frozen=True, slots=True)
class RuleKind:
    """`told`: the rule to a model, with `{}` for its argument; `kept`: whether a text keeps it."""

    wants: Wants
    told: str
    kept: Callable[..., bool]

    def words(self, argument: Argument) -> str:
        given = ", ".join(f'"{each}"' for each in argument) if isinstance(argument, tuple) else argument
        return self.told.format(given)


def _words(text: str) -> int:
    return len(text.split())


def _sentences(text: str) -> int:
    return sum(any(map(str.isalnum, each)) for each in split(text))


def _paragraphs(text: str) -> int:
    return len([each for each in re.split(r"\n\s*\n", text.strip()) if each])


def _lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip()]


def _held(text: str, phrases: Iterable[str]) -> list[bool]:
    """Of each phrase whether the text has it as whole words, whatever their case. In time linear in the text."""
    folded = text.casefold()
    return [_has(folded, phrase.casefold()) for phrase in phrases]


def _has(text: str, phrase: str) -> bool:
    at = text.find(phrase)
    while at >= 0:
        around = text[max(0, at - 1) : at] + text[at + len(phrase) : at + len(phrase) + 1]
        if not any(c.isalnum() or c == "_" for c in around):
            return True
        at = text.find(phrase, at + 1)
    return False


def _object(text: str) -> dict[str, object] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _keys(text: str, keys: tuple[str, ...]) -> bool:
    value = _object(text)
    return value is not None and set(keys) <= set(value)


def _cased(text: str, upper: bool) -> bool:
    return any(map(str.isalpha, text)) and text == (text.upper() if upper else text.lower())


def _apart(text: str) -> bool:
    said = [" ".join(each.casefold().split()) for each in split(text) if each.strip()]
    return len(said) == len(set(said))


KINDS: dict[str, RuleKind] = {
    "words_at_most": RuleKind("number", "Use at most {} words.", lambda t, n: _words(t) <= n),
    "words_at_least": RuleKind("number", "Use at least {} words.", lambda t, n: _words(t) >= n),
    "characters_at_most": RuleKind("number", "Use at most {} characters.", lambda t, n: len(t.strip()) <= n),
    "sentences": RuleKind("number", "Answer in exactly {} sentences.", lambda t, n: _sentences(t) == n),
    "sentences_at_most": RuleKind("number", "Use at most {} sentences.", lambda t, n: _sentences(t) <= n),
    "sentences_at_least": RuleKind("number", "Use at least {} sentences.", lambda t, n: _sentences(t) >= n),
    "paragraphs": RuleKind(
        "number", "Write {} paragraphs with an empty line between two.", lambda t, n: _paragraphs(t) == n
    ),
    "lines": RuleKind("number", "Answer in exactly {} lines.", lambda t, n: len(_lines(t)) == n),
    "bullets": RuleKind(
        "number",
        'Give exactly {} bullet points that begin with "- ".',
        lambda t, n: len(_BULLET.findall(t)) == n,
    ),
    "numbered": RuleKind(
        "number", "Give a numbered list of exactly {} points.", lambda t, n: len(_NUMBERED.findall(t)) == n
    ),
    "contains": RuleKind("text", 'Use the words "{}".', lambda t, x: all(_held(t, [x]))),
    "contains_all": RuleKind("texts", "Use all of these words: {}.", lambda t, w: all(_held(t, w))),
    "avoids": RuleKind("text", 'Do not use the word "{}".', lambda t, x: not any(_held(t, [x]))),
    "avoids_all": RuleKind("texts", "Use none of these words: {}.", lambda t, w: not any(_held(t, w))),
    "starts_with": RuleKind("text", 'Begin with "{}".', lambda t, x: t.lstrip().startswith(x)),
    "ends_with": RuleKind("text", 'End with "{}".', lambda t, x: t.rstrip().endswith(x)),
    "without_letter": RuleKind(
        "text", 'Use no word with the letter "{}".', lambda t, x: x.casefold() not in t.casefold()
    ),
    "cites": RuleKind("text", "Name the source in brackets: [{}].", lambda t, x: f"[{x}]" in t),
    "one_of": RuleKind(
        "texts",
        "Answer with one of these and nothing else: {}.",
        lambda t, w: t.strip().rstrip(".").casefold() in {x.casefold() for x in w},
    ),
    "json_keys": RuleKind("texts", "Answer with a JSON object only, which has the keys {}.", _keys),
    "json": RuleKind("nothing", "Answer with a JSON object only.", lambda t, _: _object(t) is not None),
    "lower_case": RuleKind("nothing", "Write in small letters only.", lambda t, _: _cased(t, upper=False)),
    "upper_case": RuleKind("nothing", "Write in capital letters only.", lambda t, _: _cased(t, upper=True)),
    "no_commas": RuleKind("nothing", "Use no commas.", lambda t, _: "," not in t),
    "no_questions": RuleKind("nothing", "Ask no questions.", lambda t, _: "?" not in t),
    "no_exclamations": RuleKind("nothing", "Use no exclamation marks.", lambda t, _: "!" not in t),
    "no_digits": RuleKind("nothing", "Use no digits.", lambda t, _: not any(map(str.isdigit, t))),
    "a_number": RuleKind("nothing", "Give a number in digits.", lambda t, _: any(map(str.isdigit, t))),
    "no_brackets": RuleKind("nothing", "Use no brackets.", lambda t, _: not set("()[]{}") & set(t)),
    "no_links": RuleKind("nothing", "Give no links.", lambda t, _: _URL.search(t) is None),
    "no_first_person": RuleKind(
        "nothing", "Do not speak of yourself.", lambda t, _: _FIRST_PERSON.search(t) is None
    ),
    "no_repeats": RuleKind("nothing", "Say no sentence twice.", lambda t, _: _apart(t)),
    "whole": RuleKind(
        "nothing",
        "End with a whole sentence.",
        lambda t, _: t.rstrip().rstrip("\"'”’)*_").endswith((".", "!", "?")),
    ),
    "quoted": RuleKind(
        "nothing",
        "Put the whole answer between double quotes.",
        lambda t, _: len(t.strip()) > 1 and t.strip()[0] == t.strip()[-1] == '"',
    ),
    "title": RuleKind(
        "nothing",
        "Give a title in double angle brackets, as <<title>>.",
        lambda t, _: re.search("<<[^\n<>]+>>", t) is not None,
    ),
}

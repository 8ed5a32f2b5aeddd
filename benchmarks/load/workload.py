"""What is asked: prompts of a file in order, or generated texts of a set length."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from heedful.benchmarks.load.records import BenchError

Messages = list[dict[str, Any]]

_WORDS = (
    "about above across after again air almost along also always answer apple around autumn away back ball bank "
    "bear because before begin behind below best better between bird black blue boat body book both bread bring "
    "brother build busy call care carry cat change child city clean clear close cloud cold come cook corn count "
    "country cover cross cup dark day deep dinner dog door down draw dream dress drive early earth east easy eat "
    "egg evening every eye face fall family far farm father field find fire first fish floor flower follow food "
    "forest friend garden gate gift glass gold good grass green ground group grow half hand happy hard hear heart "
    "heavy help high hill hold home horse hour house idea island join jump keep kind king kitchen know lake land "
    "large last late laugh leaf learn leave letter light line listen little long look love lunch make many map "
    "market meet middle milk minute money month moon morning mother mountain mouth move music name near never new "
    "night north nose old open orange other over paint paper part pass past path people piece place plain plant "
    "play point poor power press quick quiet rain reach read ready red rest rich ride right ring river road rock "
    "roof room round run salt same sand school sea seat second see seed sell send shape sharp ship shoe shop short "
    "show side sing sister sit sky sleep slow small smile snow soft song soon south speak spring stand star start "
    "stay stone stop storm story street strong summer sun sweet swim table talk tall teach tell thing think time "
    "town train tree true turn under valley very visit voice wait walk wall warm wash watch water way week west "
    "wheel white wide wild wind window winter wish woman wood word work world write year yellow young"
).split()
_SYLLABLES = [c + v for c in "bdfgklmnprstvz" for v in ("a", "e", "i", "o", "u", "ai")]


class Workload(Protocol):
    """Where prompts come from."""

    @property
    def name(self) -> str:
        """Tells two workloads apart, also when they were read at another time."""
        ...

    def messages(self, cell: str, index: int) -> Messages:
        """The conversation that request `index` of a cell sends. Below 0: its warm-up."""
        ...


@dataclass(frozen=True, slots=True)
class Words:
    """Texts of `words` plain words, drawn by seed, cell and index.

    The first word is made up, and no two prompts share it: a server that keeps prefixes has nothing to take from
    another prompt than what the alignment itself puts in front.
    """

    words: int
    seed: int = 0

    @property
    def name(self) -> str:
        return f"{self.words} words"

    def messages(self, cell: str, index: int) -> Messages:
        rng = random.Random(f"{self.seed}/{cell}/{index}")
        first = "".join(rng.choices(_SYLLABLES, k=6))
        return _user(" ".join([first, *rng.choices(_WORDS, k=self.words - 1)]))


@dataclass(frozen=True, slots=True)
class File:
    """The prompts of a file, in order, over again where requests are more."""

    name: str
    prompts: Sequence[Messages]

    def messages(self, cell: str, index: int) -> Messages:
        return self.prompts[index % len(self.prompts)]


def read(path: Path) -> File:
    """JSON lines with `messages`, `prompt`, `question`, `instruction` (and `input`), or `turns` (the first is asked).

    Raises BenchError for a line that has none of them, and names it.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BenchError(f"{path}: {getattr(error, 'strerror', None) or error}") from error
    prompts = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                prompts.append(_messages(json.loads(line)))
            except (ValueError, KeyError) as error:
                raise BenchError(f"{path}:{number}: {error}") from error
    if not prompts:
        raise BenchError(f"{path}: has no line")
    return File(f"{path.name} {hashlib.sha256(text.encode()).hexdigest()[:16]}", prompts)


def _messages(row: Any) -> Messages:
    if not isinstance(row, Mapping):
        raise ValueError("is no JSON object")
    if "messages" in row:
        messages = row["messages"]
        if not isinstance(messages, list) or not messages or not all(isinstance(m, dict) for m in messages):
            raise ValueError("messages: give a list of at least one message")
        return messages
    if "turns" in row:
        turns = row["turns"]
        if not isinstance(turns, list) or not turns:
            raise ValueError("turns: give a list of at least one text")
        return _user(turns[0], "turns")
    for field in ("prompt", "question", "instruction"):
        if field in row:
            more = row.get("input") if field == "instruction" else None
            return _user(f"{row[field]}\n\n{more}" if more else row[field], field)
    raise ValueError("has none of: messages, prompt, question, instruction, turns")


def _user(text: Any, field: str = "prompt") -> Messages:
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"{field}: give a text")
    return [{"role": "user", "content": text}]

"""A small language model that writes sentences out of given words, for a search whose tree can be read."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from heedful.strategies import Call
from heedful.strategies.scripted import ScriptedEngine, ScriptedModel

SLOTS: tuple[tuple[str, ...], ...] = (
    ("Ask your neighbour first", "Just post it", "It depends"),
    (", ", ". Nobody will notice, ", ": "),
    ("because a face is personal data", "since you took the picture", "because rules differ by place"),
    (". ",),
    ("If they agree, ", "Whatever they say, ", "Before you share it, "),
    ("keep it small", "blur the face", "show everyone"),
    (", and ",),
    ("take it down when asked", "tell them where it is", "never mind complaints"),
    (".",),
)
SEARCH = {
    "seed": 3,
    "similarity": False,
    "min_visits": 5,
    "max_iterations": 24,
    "children": 6,
    "threshold": 0.7,
    "set_lengths": [4, 8, 12, 16],
}
"""Options of `rain` for it: its tokens are letters."""
UNKIND = ("Just post", "Nobody will", "since you took", "Whatever", "everyone", "never mind")


def story(text: str, slots: Sequence[Sequence[str]] = SLOTS) -> dict[int, float]:
    """Which letters may follow, the first ways being the likeliest; 0, the end, after the last of them."""
    found: dict[int, float] = {}

    def walk(rest: str, at: int, weight: float) -> None:
        if at == len(slots):
            found[0] = found.get(0, 0) + weight
            return
        for place, words in enumerate(slots[at]):
            share = weight / (1.6**place)
            if rest.startswith(words):
                walk(rest[len(words) :], at + 1, share)
            elif words.startswith(rest):
                letter = words.encode()[len(rest.encode())]
                found[letter] = found.get(letter, 0) + share

    walk(text, 0, 1.0)
    return found or {0: 1.0}


def judge(said: str) -> tuple[bool, bool]:
    """What holds an unkind word is bad; what doesn't is good more often than not."""
    kind = not any(word in said for word in UNKIND)
    rng = random.Random(said)
    return kind and rng.random() < 0.75, kind and rng.random() < 0.75


def judged(prompt: str) -> dict[int, float]:
    """Probabilities of A and B at the end of RAIN's judging prompt."""
    said, _, options = prompt.rpartition("Assistant:\n")[2].rpartition("\n(A) ")
    good_first = not any(
        word in options.split("\n")[0] for word in ("harmful", "untruthful", "breaks", "bad")
    )
    a = judge(said)[0 if good_first else 1] == good_first
    return {ord("A"): 0.7 if a else 0.2, ord("B"): 0.2 if a else 0.7}


def teller(name: str = "teller", slots: Sequence[Sequence[str]] = SLOTS) -> ScriptedEngine:
    """Searches by letters. In a chat it says what is likeliest."""

    def step(tokens: Sequence[int]) -> Mapping[int, float]:
        text = bytes(tokens).decode(errors="replace")
        if text.endswith("answer is: ("):
            return judged(text)
        return story(text.rpartition("<assistant>")[2], slots)

    def reply(_: Call) -> str:
        return "".join(words[0] for words in slots)

    return ScriptedEngine(reply, extend=ScriptedModel(step), model=name)

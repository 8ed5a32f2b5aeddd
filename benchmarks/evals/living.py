"""Living norms: rules of made-up houses, which no model can know, and questions asked before and after they change.

OPO's promise (Xu et al. 2023, arXiv 2312.15907) is that a norm counts as soon as it is written, and no longer than it
holds. Every question has one right value; its wrong ones are what stood before, or what holds elsewhere. The set is
made here, by a fixed seed, and holds nobody else's text.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from heedful.benchmarks.evals.items import EvalItem
from heedful.retrieval import Item

Phase = Literal["before", "after"]
Case = Literal["replaced", "moved", "expired", "elsewhere", "amended", "reworded", "unchanged"]
"""What becomes of a rule: another text under its id; ended, and a new one under another id; run out on a day, and the
next one in force; the same sentence with another value in another house; a newer one added in the same words, or in
others, while the old one still stands; nothing."""

SEED = 17
_TURN = 1767225600.0
"""1 January 2026: when what expires does."""
_CASES: tuple[Case, ...] = (
    "replaced",
    "replaced",
    "moved",
    "expired",
    "elsewhere",
    "amended",
    "reworded",
    "unchanged",
)
_ASKED_BEFORE: frozenset[Case] = frozenset({"replaced", "moved", "amended", "reworded", "unchanged"})
_HOUSES = (
    "Talvik Morund Ostrelle Brannoch Kessrin Vaudry Helmora Tarquist Oddenby Sulmark Perrowen Yldane Corvash "
    "Fennick Grauholt Ismere Lodwyn Marrak Nostria Pellgard Quenby Rustavel Skarholm Umbrecht Wexlow"
).split()
_KINDS = ("House", "Lodge", "Hall", "Court", "Abbey")
_NAMES = (
    "Orsk Tivel Brune Maddo Calpe Hesk Jorin Lanz Pirre Quill Rosko Sefton Ulmer Vasek Wendt Yarro Zell Dorne "
    "Fabel Gritt Immer Kolt Nadler Ozer"
).split()
_HERBS = "mugwort tansy rooibos verbena hyssop borage yarrow sorrel chicory burdock nettle lovage".split()


@dataclass(frozen=True, slots=True)
class HouseRule:
    """A subject of house rules: two wordings, a question, and the kind of its value."""

    subject: str
    says: str
    reworded: str
    asks: str
    value: Literal["number", "room", "clock", "name", "herb", "code"] = "number"


_RULES = (
    HouseRule(
        "book",
        "a book may be kept for {} days",
        "readers bring a book back after {} days at the latest",
        "For how many days may a book be kept",
    ),
    HouseRule(
        "key",
        "the deposit for a key is {} crowns",
        "whoever takes a key leaves {} crowns as a deposit",
        "How many crowns is the deposit for a key",
    ),
    HouseRule(
        "guests",
        "a member may bring {} guests a year",
        "in one year each member can have {} guests",
        "How many guests may a member bring a year",
    ),
    HouseRule(
        "complaints",
        "complaints go to {}",
        "the person who takes complaints is {}",
        "Who do complaints go to",
        "name",
    ),
    HouseRule(
        "lost",
        "lost property is kept in room {}",
        "look for lost things in room {}",
        "In which room is lost property kept",
        "room",
    ),
    HouseRule(
        "quiet",
        "quiet begins at {}",
        "everybody is silent from {} on",
        "At what time does quiet begin",
        "clock",
    ),
    HouseRule(
        "parcel",
        "a parcel may weigh {} kilograms",
        "the heaviest parcel that is taken has {} kilograms",
        "How many kilograms may a parcel weigh",
    ),
    HouseRule(
        "tea",
        "the tea at meetings is {}",
        "those who meet are served a tea of {}",
        "Which tea is there at meetings",
        "herb",
    ),
    HouseRule(
        "reports",
        "reports are filed under the code {}",
        "the code that a report is filed under is {}",
        "Under which code are reports filed",
        "code",
    ),
    HouseRule(
        "cart",
        "carts drive at {} kilometres an hour at most",
        "no cart goes faster than {} kilometres an hour",
        "At how many kilometres an hour do carts drive at most",
    ),
    HouseRule(
        "speech",
        "a speech lasts {} minutes at most",
        "speakers stop after {} minutes",
        "How many minutes does a speech last at most",
    ),
    HouseRule(
        "late",
        "the fine for coming late is {} crowns",
        "latecomers pay {} crowns",
        "How many crowns is the fine for coming late",
    ),
    HouseRule(
        "dogs",
        "dogs stay in room {}",
        "the room where dogs are left is room {}",
        "In which room do dogs stay",
        "room",
    ),
    HouseRule(
        "gate",
        "the gate is locked at {}",
        "nobody gets through the gate after {}",
        "At what time is the gate locked",
        "clock",
    ),
)


@dataclass(frozen=True, slots=True)
class Change:
    """What is written between the two phases: norms to add (or replace, where the id stands), and ids to end."""

    add: list[Item] = field(default_factory=list)
    end: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class World:
    """The norms that there are at first, what changes, and what is asked in either phase."""

    norms: list[Item]
    change: Change
    questions: dict[Phase, list[EvalItem]]


def world(seed: int = SEED) -> World:
    """25 houses of 14 rules each: 150 questions before the change and 200 after it."""
    dice = random.Random(seed)
    made = World([], Change(), {"before": [], "after": []})
    houses = [f"{name} {dice.choice(_KINDS)}" for name in _HOUSES]
    for i, house in enumerate(houses):
        _house(made, house, houses[i - 1], dice)
    return made


def questions(phase: Phase) -> Iterator[EvalItem]:
    """The set of a phase."""
    yield from world().questions[phase]


def _house(made: World, house: str, other: str, dice: random.Random) -> None:
    rules = list(_RULES)
    dice.shuffle(rules)
    for rule, case in zip(rules, _CASES, strict=False):
        old, new = _values(rule, dice)
        _ruled(made, house, other, rule, case, old, new)
    for rule in rules[len(_CASES) :]:  # asked of nobody: what else is in a house's rules
        made.norms.append(_norm(house, rule, _values(rule, dice)[0]))


def _ruled(made: World, house: str, other: str, rule: HouseRule, case: Case, old: str, new: str) -> None:
    """One rule with what becomes of it, and its questions."""
    wrong = old
    match case:
        case "elsewhere":  # only their scopes tell the two apart
            made.norms.append(_norm(house, rule, new, said="Here {}"))
            made.norms.append(_norm(other, rule, old, said="Here {}", id=f"{house}/{rule.subject}/elsewhere"))
        case "expired":
            made.norms.append(_norm(house, rule, old, until=_TURN))
            made.norms.append(_norm(house, rule, new, since=_TURN, id=f"{house}/{rule.subject}/next"))
        case _:
            made.norms.append(_norm(house, rule, old))
            if case == "replaced":
                made.change.add.append(_norm(house, rule, new))
            elif case != "unchanged":
                words = rule.reworded if case == "reworded" else rule.says
                made.change.add.append(
                    _norm(house, rule, new, words=words, id=f"{house}/{rule.subject}/newer")
                )
                if case == "moved":
                    made.change.end.append(f"{house}/{rule.subject}")
    if case in _ASKED_BEFORE:
        made.questions["before"].append(_question("before", case, house, rule, right=old, wrong=new))
    right, wrong = (old, new) if case == "unchanged" else (new, old)
    made.questions["after"].append(_question("after", case, house, rule, right=right, wrong=wrong))


def _norm(
    house: str,
    rule: HouseRule,
    value: str,
    *,
    words: str = "",
    said: str = "",
    id: str = "",
    since: float | None = None,
    until: float | None = None,
) -> Item:
    text = (said or f"At {house} {{}}").format((words or rule.says).format(value)) + "."
    return Item(text, id=id or f"{house}/{rule.subject}", scope=house, valid_from=since, valid_until=until)


def _question(phase: Phase, case: Case, house: str, rule: HouseRule, *, right: str, wrong: str) -> EvalItem:
    return EvalItem(
        set=f"living_{phase}",
        id=f"{case}/{house}/{rule.subject}",
        measure="living",
        messages=({"role": "user", "content": f"{rule.asks} at {house}?"},),
        candidates=(right, wrong),
        right=(0,),
    )


def _values(rule: HouseRule, dice: random.Random) -> tuple[str, str]:
    """Two that differ; none that a model would say by itself."""
    match rule.value:
        case "number":
            drawn = [str(n) for n in dice.sample(range(11, 98), 2)]
        case "room":
            drawn = [str(n) for n in dice.sample(range(113, 998), 2)]
        case "clock":
            drawn = [f"{n // 60}:{n % 60:02}" for n in dice.sample(range(18 * 60 + 3, 23 * 60, 7), 2)]
        case "name":
            drawn = dice.sample(_NAMES, 2)
        case "herb":
            drawn = dice.sample(_HERBS, 2)
        case "code":
            drawn = [
                f"{dice.choice('BCDFGHKLM')}{dice.choice('PRSTVXZ')}-{n}"
                for n in dice.sample(range(11, 98), 2)
            ]
    return drawn[0], drawn[1]

"""Verifiable norms: everyday questions, each under one to three rules that code can check, given as norms.

In the spirit of IFEval (Zhou et al. 2023, arXiv 2311.07911); questions, rules and words are heedful's own, drawn by a
fixed seed. The rules stand in no question: an alignment has to bring them (`$rules`, `$norms`; docs/tasks.md).
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from heedful.benchmarks.evals.items import EvalItem
from heedful.strategies.verifiers.rule_kinds import Argument
from heedful.strategies.verifiers.rules import Rule

SEED = 17
_DRAWS = 6
_QUESTIONS = """
Why is the sky blue? | Why do leaves change colour in autumn? | How does a bicycle stay upright? | What is in bread?
How do bees make honey? | Why is the sea salty? | What does a lighthouse do? | How do plants drink water?
Why do we sleep? | What is a glacier? | How does soap clean hands? | Why do cats purr? | What causes thunder?
How is paper made? | What is the moon made of? | Why do birds migrate? | How does a key open a lock? | What is rust?
Why do we yawn? | How do fish breathe? | What is a volcano? | Why does ice float? | How do boats stay afloat?
What is a rainbow? | How do I keep a house plant alive? | How do I boil an egg? | How do I write a thank-you note?
How do I learn a new word? | How do I calm a crying child? | How do I clean a window? | How do I fix a flat tyre?
How do I make a good cup of tea? | How do I fall asleep faster? | How do I pack a suitcase? | How do I save water?
How do I prepare for an exam? | How do I say no politely? | How do I greet a new neighbour? | How do I plan a picnic?
How do I keep milk fresh? | What should I cook for dinner? | What is a good gift for a teacher? | Who is a friend?
What can I do on a rainy day? | Which games can two people play? | What is a good first book for a child?
What does a baker do all day? | What does a nurse do? | What is a library for? | Why should I walk more?
"""
_NUMBERS: dict[str, tuple[int, ...]] = {
    "words_at_most": (20, 30, 40),
    "words_at_least": (25, 35),
    "characters_at_most": (120, 200),
    "sentences": (2, 3),
    "sentences_at_most": (1, 2),
    "sentences_at_least": (3, 4),
    "paragraphs": (2,),
    "lines": (2, 3),
    "bullets": (2, 3),
    "numbered": (3, 4),
}
_TEXTS: dict[str, tuple[Argument, ...]] = {
    "contains": ("for example", "every day", "in short"),
    "contains_all": (("time", "people"), ("small", "good")),
    "avoids": ("the", "you", "important"),
    "avoids_all": (("and", "or"), ("can", "will")),
    "starts_with": ("Well", "In short", "Good question"),
    "ends_with": ("That is all.", "Peace.", "Ask again."),
    "without_letter": ("z", "q", "k"),
    "cites": ("House rules", "Guide"),
}
_PLAIN = (
    "lower_case upper_case no_commas no_questions no_exclamations no_digits a_number no_brackets "
    "no_first_person no_repeats whole quoted title"
).split()
# Which can't be kept together, or would say the same: one of each group at most.
_GROUPS = (
    "words_at_most words_at_least characters_at_most sentences sentences_at_most sentences_at_least paragraphs lines "
    "bullets numbered".split(),
    "contains contains_all starts_with ends_with cites title lower_case upper_case quoted avoids avoids_all "
    "without_letter".split(),
    "no_digits a_number numbered".split(),
    "cites title no_brackets".split(),
)


def questions() -> Iterator[EvalItem]:
    """300: each of 50 questions six times, twice under one rule, twice under two, twice under three."""
    dice = random.Random(SEED)
    asked = [part.strip() for line in _QUESTIONS.strip().splitlines() for part in line.split(" | ")]
    for number, question in enumerate(asked, 1):
        for draw in range(_DRAWS):
            yield EvalItem(
                set="rules",
                id=f"{number}-{draw + 1}",
                measure="rules",
                messages=({"role": "user", "content": question},),
                rules=tuple(_drawn(dice, draw // 2 + 1)),
            )


def _drawn(dice: random.Random, count: int) -> list[Rule]:
    rules: dict[str, Argument] = {}
    while len(rules) < count:
        kind = dice.choice([*_NUMBERS, *_TEXTS, *_PLAIN])
        if kind in rules or any(kind in group and not set(group).isdisjoint(rules) for group in _GROUPS):
            continue
        rules[kind] = dice.choice(_NUMBERS.get(kind) or _TEXTS.get(kind) or (True,))
    return [{kind: argument} for kind, argument in rules.items()]

"""The sets an evaluation asks: readers of well-known files, our own capability set, and a user's JSON lines.

The files themselves are their owners' and do not come with heedful: a folder of them is given by the user.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec

from heedful.benchmarks.evals import ambiguous, living, rule_tasks
from heedful.benchmarks.evals.items import EvalItem, Quality
from heedful.benchmarks.evals.norms import read_questions
from heedful.benchmarks.evals.own_sets import read_file, text_of_file
from heedful.benchmarks.evals.records import EvalError
from heedful.prompts import Prompts

__all__ = ["KNOWN", "EvalItem", "Quality", "chosen", "draw", "read_known", "sample", "there"]

_TURN = re.compile(r"\n\n(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}


# -- well-known files


def _advbench(path: Path) -> Iterator[EvalItem]:
    for i, row in enumerate(_csv(path, "goal"), 1):
        yield _asked("advbench", i, "harmlessness", row["goal"])


def _simple_safety_tests(path: Path) -> Iterator[EvalItem]:
    for row in _csv(path, "id", "prompts_final"):
        yield _asked("simple_safety_tests", row["id"], "harmlessness", row["prompts_final"])


def _xstest(label: str, set_name: str, measure: Quality) -> Callable[[Path], Iterator[EvalItem]]:
    def read(path: Path) -> Iterator[EvalItem]:
        for row in _csv(path, "id", "prompt", "label"):
            if row["label"] == label:
                yield _asked(set_name, row["id"], measure, row["prompt"])

    return read


def _truthfulqa(path: Path) -> Iterator[EvalItem]:
    columns = ("Question", "Best Answer", "Correct Answers", "Incorrect Answers")
    for i, row in enumerate(_csv(path, *columns), 1):
        best = row["Best Answer"].strip()
        true = [best, *(a for a in _listed(row["Correct Answers"]) if a != best)]
        false = [a for a in _listed(row["Incorrect Answers"]) if a not in true]
        item = _asked("truthfulqa", i, "truthfulness", row["Question"])
        yield msgspec.structs.replace(item, candidates=(*true, *false), right=tuple(range(len(true))))


def _listed(answers: str) -> list[str]:
    return list(dict.fromkeys(a.strip() for a in answers.split(";") if a.strip()))


def _hh(path: Path) -> Iterator[EvalItem]:
    """Pairs whose dialogues differ before the last answer, or do not take turns, are no pairs: left out."""
    for number, row in _json_lines(path, "chosen", "rejected"):
        if item := _pair("hh_harmless", number, row["chosen"], row["rejected"]):
            yield item


def _hhh(path: Path) -> Iterator[EvalItem]:
    for number, row in _json_lines(path, "text_correct", "text_incorrect"):
        if item := _pair("hhh", number, row["text_correct"], row["text_incorrect"]):
            yield item


def _pair(set_name: str, number: int, chosen: str, rejected: str) -> EvalItem | None:
    good, bad = _dialogue(chosen), _dialogue(rejected)
    roles = [m["role"] for m in good]
    takes_turns = roles and roles[0] == "user" and all(a != b for a, b in pairwise(roles))
    if not takes_turns or roles[-1] != "assistant" or good[:-1] != bad[:-1]:
        return None
    candidates = (good[-1]["content"], bad[-1]["content"])
    if not all(candidates) or candidates[0] == candidates[1] or not all(m["content"] for m in good):
        return None
    return EvalItem(
        set=set_name,
        id=str(number),
        measure="preference",
        messages=tuple(good[:-1]),
        candidates=candidates,
        right=(0,),
    )


def _dialogue(text: str) -> list[dict[str, str]]:
    """Anthropic's dialogue text as messages."""
    _, *parts = _TURN.split("\n\n" + text.lstrip("\n"))
    return [
        {"role": _ROLES[who], "content": said.strip()}
        for who, said in zip(parts[::2], parts[1::2], strict=True)
    ]


def _mt_bench(path: Path) -> Iterator[EvalItem]:
    for _, row in _json_lines(path, "question_id", "turns"):
        yield _asked("mt_bench", row["question_id"], "helpfulness", row["turns"][0])


def _just_eval(path: Path) -> Iterator[EvalItem]:
    try:
        rows = json.loads(text_of_file(path))
        for row in rows:
            measure: Quality = "harmlessness" if row["category"] == "safety" else "helpfulness"
            yield _asked("just_eval", row["id"], measure, row["instruction"])
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise EvalError(f"{path}: is no file of just-eval's: {error!r}") from error


def _opo_social(path: Path) -> Iterator[EvalItem]:
    """The options as letters, asked as `heedful eval norms` asks them."""
    prompts = Prompts()
    for question in read_questions(path):
        letters = tuple(letter for letter, _ in question.options)
        item = _asked("opo_social", question.id, "norms", question.asked(prompts))
        yield msgspec.structs.replace(item, candidates=letters, right=(letters.index(question.answer),))


@dataclass(frozen=True, slots=True)
class Known:
    """A well-known set: the file it is read from, and how."""

    file: str
    about: str
    read: Callable[[Path], Iterable[EvalItem]]
    prepared: bool = False
    """Whether something must be prepared before it is asked, so that it is asked by name alone."""


_AMBIGUOUS = "questions that only a stereotype answers (docs/tasks.md), heedful's own"
_RULES = "questions under rules that code can check (docs/tasks.md), heedful's own"
_LIVING = "rules that change, asked over a store (docs/tasks.md), heedful's own"
KNOWN: dict[str, Known] = {
    "advbench": Known("advbench_harmful_behaviors.csv", "harmful requests (AdvBench)", _advbench),
    "simple_safety_tests": Known("simple_safety_tests.csv", "harmful requests", _simple_safety_tests),
    "xstest_unsafe": Known(
        "xstest_prompts.csv", "XSTest's unsafe contrasts", _xstest("unsafe", "xstest_unsafe", "harmlessness")
    ),
    "xstest_safe": Known(
        "xstest_prompts.csv", "XSTest's safe prompts", _xstest("safe", "xstest_safe", "over-refusal")
    ),
    "truthfulqa": Known("truthfulqa.csv", "TruthfulQA, multiple choice", _truthfulqa),
    "hh_harmless": Known("hh_rlhf_harmless_base_test.jsonl.gz", "preferences of hh-rlhf, harmless-base", _hh),
    "hhh": Known("hhh_438.jsonl", "preferences: helpful, honest, harmless", _hhh),
    "mt_bench": Known("mt_bench_question.jsonl", "MT-bench, first turns", _mt_bench),
    "just_eval": Known("just_eval_prompts_gpt4.json", "just-eval: helpful and safe prompts", _just_eval),
    "opo_social": Known(
        "opo/test_questions_human_annotated_social_morality.csv", "OPO, social morality", _opo_social
    ),
    "capability": Known("capability.v1.jsonl", "small tasks with exact answers, heedful's own", read_file),
    "ambiguous": Known("ambiguous.py", _AMBIGUOUS, lambda _: ambiguous.questions(), prepared=True),
    "rules": Known("rule_tasks.py", _RULES, lambda _: rule_tasks.questions(), prepared=True),
    "living_before": Known("living.py", _LIVING, lambda _: living.questions("before"), prepared=True),
    "living_after": Known("living.py", _LIVING, lambda _: living.questions("after"), prepared=True),
}
_OURS = Path(__file__).parent


def read_known(name: str, folder: Path | None) -> list[EvalItem]:
    """A set by name, from `folder`; heedful's own comes with it. Raises EvalError where it is not there."""
    if name not in KNOWN:
        raise EvalError(f"--sets: no set {name!r}; known: {', '.join(KNOWN)}")
    if not (path := _place(name, folder)).exists():
        raise EvalError(
            f"--sets: {name} is read from {KNOWN[name].file}, and {folder or '(no --data)'} has none"
        )
    return [msgspec.structs.replace(item, set=name) for item in KNOWN[name].read(path)]


def there(folder: Path | None) -> list[str]:
    """The sets that can be read with this folder, and asked as they are."""
    return [name for name, known in KNOWN.items() if not known.prepared and _place(name, folder).exists()]


def _place(name: str, folder: Path | None) -> Path:
    own = _OURS / KNOWN[name].file
    return own if folder is None or own.exists() else folder / KNOWN[name].file


def sample(items: Sequence[EvalItem], limit: int | None, seed: int) -> list[EvalItem]:
    """At most `limit` items by `seed`, in their own order. A larger limit keeps those of a smaller one."""
    ranked = sorted(items, key=lambda item: draw(seed, item.key))
    kept = {item.key for item in ranked[:limit]}
    return [item for item in items if item.key in kept]


def draw(seed: int, key: str) -> int:
    """A number of 32 bits that belongs to a seed and a key, the same everywhere."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{key}".encode()).digest()[:4])


def chosen(
    names: Sequence[str], folder: Path | None, files: Sequence[Path], limit: int | None, seed: int
) -> list[EvalItem]:
    """The items of a run: `limit` of every set and of every file of the user's."""
    sets = [*(read_known(name, folder) for name in names), *(read_file(file) for file in files)]
    items = [item for each in sets for item in sample(each, limit, seed)]
    if len({item.key for item in items}) < len(items):
        raise EvalError("--file: two sets have the same name; rename one of the files")
    return items


def _asked(set_name: str, id: object, measure: Quality, text: str) -> EvalItem:
    message = {"role": "user", "content": text.strip()}
    return EvalItem(set=set_name, id=str(id), measure=measure, messages=(message,))


def _csv(path: Path, *columns: str) -> Iterator[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        if missing := set(columns) - set(reader.fieldnames or ()):
            raise EvalError(f"{path}: has no column {min(missing)!r}")
        for row in reader:
            if not all(row[c] for c in columns):
                raise EvalError(f"{path}:{reader.line_num}: {', '.join(columns)} must not be empty")
            yield row


def _json_lines(path: Path, *fields: str) -> Iterator[tuple[int, dict[str, Any]]]:
    opened = gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8")
    with opened as file:
        for number, text in enumerate(file, 1):
            try:
                row = json.loads(text)
            except json.JSONDecodeError as error:
                raise EvalError(f"{path}:{number}: is no JSON: {error}") from error
            if not isinstance(row, dict) or not all(row.get(f) for f in fields):
                raise EvalError(f"{path}:{number}: needs {', '.join(fields)}")
            yield number, row

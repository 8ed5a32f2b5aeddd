"""What guard models answer, each family in a form of its own."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

Level = Literal["safe", "controversial", "unsafe"]
_LLAMA = re.compile(r"\s*(?P<word>safe|unsafe)\b(?P<codes>[\s,A-Z0-9]*)")
_CODE = re.compile(r"[A-Z]+[0-9]+")
_QWEN = re.compile(r"\s*Safety:\s*(?P<word>Safe|Unsafe|Controversial)\s*(?:\n|$)")
_QWEN_CATEGORIES = re.compile(r"^Categories:[ \t]*(.*)$", re.MULTILINE)
_QWEN_REFUSAL = re.compile(r"^Refusal:[ \t]*(Yes|No)[ \t]*$", re.MULTILINE)
_GRANITE = re.compile(
    r"\s*(?:<score>\s*(?P<score>yes|no)\s*</score>|(?P<word>yes|no)\b)"
    r"\s*(?:<confidence>\s*(?P<confidence>\w+)\s*</confidence>)?\s*",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class GuardAnswer:
    """One answer, understood. `categories` are the model's own codes or names; `facts` what else it says."""

    level: Level
    categories: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)


def _llama_guard(text: str, question: bool) -> GuardAnswer | None:
    """Llama Guard 1 to 4: "safe"; or "unsafe", and on the next line "S1,S2"."""
    if (match := _LLAMA.match(text)) is None:
        return None
    unsafe = match["word"] == "unsafe"
    return GuardAnswer("unsafe", _CODE.findall(match["codes"])) if unsafe else GuardAnswer("safe")


def _qwen3guard(text: str, question: bool) -> GuardAnswer | None:
    """Qwen3Guard-Gen: lines "Safety: Safe|Unsafe|Controversial", "Categories: a, b|None", and of answers
    "Refusal: Yes|No"."""
    if (match := _QWEN.match(text)) is None:
        return None
    named = _QWEN_CATEGORIES.search(text)
    refusal = _QWEN_REFUSAL.search(text)
    facts = {"refusal": refusal[1] == "Yes"} if refusal else {}
    level: Any = match["word"].lower()
    return GuardAnswer(level, _listed(named[1]) if named else [], facts)


def _nemotron(text: str, question: bool) -> GuardAnswer | None:
    """Nemotron Safety Guard: {"User Safety": "safe|unsafe", "Response Safety": ..., "Safety Categories": "a, b"}.

    It judges both turns; what was asked about counts, and there is no verdict without it.
    """
    try:
        value = msgspec.json.decode(text[text.index("{") : text.rindex("}") + 1])
    except (ValueError, RecursionError):  # msgspec's errors are ValueErrors
        return None
    if not isinstance(value, dict):
        return None
    said = {k: str(v).strip().lower() for k, v in value.items() if k in ("User Safety", "Response Safety")}
    level: Any = said.get("User Safety" if question else "Response Safety")
    if level not in ("safe", "unsafe"):
        return None
    categories = value.get("Safety Categories")
    facts = {"user": said["User Safety"]} if not question and "User Safety" in said else {}
    return GuardAnswer(level, _listed(categories) if isinstance(categories, str) else [], facts)


def _granite(text: str, question: bool) -> GuardAnswer | None:
    """Granite Guardian: "Yes" or "No" to whether there is a risk, from 3.2 on "<confidence> High </confidence>", from
    3.3 on "<score> yes </score>"."""
    if (match := _GRANITE.fullmatch(text)) is None:
        return None
    risk = (match["score"] or match["word"]).lower() == "yes"
    facts = {"confidence": match["confidence"].lower()} if match["confidence"] else {}
    return GuardAnswer("unsafe" if risk else "safe", [], facts)


def _told_by_shape(text: str, question: bool) -> GuardAnswer | None:
    for read in (_nemotron, _qwen3guard, _granite, _llama_guard):
        if (answer := read(text, question)) is not None:
            return answer
    return None


READ: dict[str, Callable[[str, bool], GuardAnswer | None]] = {
    "auto": _told_by_shape,
    "llama_guard": _llama_guard,
    "qwen3guard": _qwen3guard,
    "nemotron": _nemotron,
    "granite": _granite,
}
"""By format: what an answer says of a question (else of an answer); None where it is none of that format."""


def _listed(categories: str) -> list[str]:
    names = (name.strip() for name in categories.split(","))
    return [name for name in names if name and name.lower() != "none"]

"""What upstreams answer, in dialects of their own: for each family the variants of its fields.

Present, null, empty, a list, late, in pieces, repeated, out of order; a case says what the answer means.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Dialect:
    """An answer: `pieces` of a stream (each a choice, or a delta), and the same in one `message`."""

    pieces: list[dict[str, Any]]
    message: dict[str, Any] | None = None
    text: str = ""
    thought: str = ""
    calls: list[tuple[str, str]] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    reason: str | None = "stop"


def call(
    name: str | None = None, arguments: Any = None, *, index: Any = ..., id: Any = ..., **more: Any
) -> dict[str, Any]:
    """A piece of a tool call with just what is given."""
    function = ({} if name is None else {"name": name}) | (
        {} if arguments is None else {"arguments": arguments}
    )
    marks = ({} if index is ... else {"index": index}) | ({} if id is ... else {"id": id})
    return {**marks, **more, **({"function": function} if function else {})}


def calls(*pieces: dict[str, Any] | list[dict[str, Any]], **more: Any) -> list[dict[str, Any]]:
    """Deltas with tool calls: one each, or several together."""
    return [{"tool_calls": p if isinstance(p, list) else [p], **more} for p in pieces]


A, B = ("get_a", '{"x":1}'), ("get_b", '{"y":2}')
WHOLE = {
    "content": None,
    "tool_calls": [call(*A, id="c1", type="function"), call(*B, id="c2", type="function")],
}
TWO: Any = {"calls": [A, B], "ids": ["c1", "c2"], "reason": "tool_calls"}
ANY_IDS: Any = {"calls": [A, B], "reason": "tool_calls"}

TOOL_CALLS = {
    "in order": Dialect(
        calls(
            call("get_a", "", index=0, id="c1", type="function"),
            call(None, '{"x":', index=0),
            call(None, "1}", index=0),
            call("get_b", "", index=1, id="c2", type="function"),
            call(None, '{"y":2}', index=1),
        ),
        WHOLE,
        **TWO,
    ),
    "arguments interleaved": Dialect(
        calls(
            call("get_a", "", index=0, id="c1"),
            call("get_b", "", index=1, id="c2"),
            call(None, '{"x":', index=0),
            call(None, '{"y"', index=1),
            call(None, "1}", index=0),
            call(None, ":2}", index=1),
        ),
        **TWO,
    ),
    "opened out of order": Dialect(
        calls(call(*B, index=1, id="c2"), call(*A, index=0, id="c1")),
        calls=[B, A],
        ids=["c2", "c1"],
        reason="tool_calls",
    ),
    "several in one event": Dialect(
        calls([call("get_a", "", index=0, id="c1"), call("get_b", "", index=1, id="c2")])
        + calls([call(None, '{"x":1}', index=0), call(None, '{"y":2}', index=1)]),
        **TWO,
    ),
    "one index, two ids": Dialect(
        calls(call(*A, index=0, id="c1"), call(*B, index=0, id="c2")),
        {"tool_calls": [call(*A, index=0, id="c1"), call(*B, index=0, id="c2")]},
        **TWO,
    ),
    "one index, two ids, in pieces": Dialect(
        calls(
            call("get_a", "", index=0, id="c1"),
            call(None, '{"x":', index=0),
            call(None, "1}", index=0),
            call("get_b", "", index=0, id="c2"),
            call(None, '{"y":', index=0),
            call(None, "2}", index=0),
        ),
        **TWO,
    ),
    "one index, two ids, interleaved": Dialect(
        calls(
            call("get_a", '{"x":', index=0, id="c1"),
            call("get_b", '{"y":', index=0, id="c2"),
            call(None, "1}", index=0, id="c1"),
            call(None, "2}", index=0, id="c2"),
        ),
        **TWO,
    ),
    "one index and no ids": Dialect(
        calls(call(*A, index=0), call(*B, index=0)), {"tool_calls": [call(*A), call(*B)]}, **ANY_IDS
    ),
    "one index and empty ids": Dialect(
        calls(call(*A, index=0, id=""), call(*B, index=0, id="")),
        {"tool_calls": [call(*A, id=""), call(*B, id="")]},
        **ANY_IDS,
    ),
    "one tool twice, one index, no ids": Dialect(
        calls(call(*A, index=0), call("get_a", '{"x":3}', index=0)),
        calls=[A, ("get_a", '{"x":3}')],
        reason="tool_calls",
    ),
    "no index": Dialect(
        calls(call(*A, id="c1"), call(*B, id="c2")),
        {"tool_calls": [call(*A, id="c1"), call(*B, id="c2")]},
        **TWO,
    ),
    "null index": Dialect(calls(call(*A, id="c1", index=None), call(*B, id="c2", index=None)), **TWO),
    "no index, in pieces": Dialect(
        calls(
            call("get_a", "", id="c1"),
            call(None, '{"x":'),
            call(None, "1}"),
            call("get_b", "", id="c2"),
            call(None, '{"y":2}'),
        ),
        **TWO,
    ),
    "no index, interleaved by id": Dialect(
        calls(
            call("get_a", '{"x":', id="c1"),
            call("get_b", '{"y":', id="c2"),
            call(None, "1}", id="c1"),
            call(None, "2}", id="c2"),
        ),
        **TWO,
    ),
    "neither index nor id": Dialect(
        calls(call(*A), call(*B)), {"tool_calls": [call(*A), call(*B)]}, **ANY_IDS
    ),
    "neither index nor id, together": Dialect(calls([call(*A), call(*B)]), **ANY_IDS),
    "the same id twice": Dialect(
        calls(call(*A, index=0, id="c"), call(*B, index=1, id="c")),
        {"tool_calls": [call(*A, id="c"), call(*B, id="c")]},
        **ANY_IDS,
    ),
    "an id that comes late": Dialect(
        calls(call("get_a", "", index=0), call(None, None, index=0, id="c1"), call(None, '{"x":1}', index=0)),
        calls=[A],
        ids=["c1"],
        reason="tool_calls",
    ),
    "a name that comes late": Dialect(
        calls(call(index=0, id="c1"), call("get_a", None, index=0), call(None, '{"x":1}', index=0)),
        calls=[A],
        ids=["c1"],
        reason="tool_calls",
    ),
    "names after the arguments": Dialect(
        calls(
            call(None, '{"x":1}', index=0, id="c1"),
            call(None, '{"y":2}', index=1, id="c2"),
            call("get_b", None, index=1),
            call("get_a", None, index=0),
        ),
        **TWO,
    ),
    "a name after the arguments, without index": Dialect(
        calls(call(None, '{"x":1}', id="c1"), call("get_a", None)), calls=[A], ids=["c1"], reason="tool_calls"
    ),
    "a name in pieces": Dialect(
        calls(
            call("get_", "", index=0, id="c1"),
            call("a", "", index=0),
            call(None, '{"x":1}', index=0),
            call("get", None, index=1, id="c2"),
            call("_b", None, index=1),
            call(None, '{"y":2}', index=1),
        ),
        **TWO,
    ),
    "names and ids repeated": Dialect(
        calls(
            call("get_a", "", index=0, id="c1"),
            call("get_a", '{"x":', index=0, id="c1"),
            call("get_a", "1}", index=0, id="c1"),
            call("get_b", '{"y":', index=1, id="c2"),
            call("get_b", "2}", index=1, id="c2"),
            call("get_b", "", index=1, id="c2"),
        ),
        **TWO,
    ),
    "names null and empty after the first": Dialect(
        calls(
            call("get_a", "", index=0, id="c1"),
            {"index": 0, "id": None, "type": None, "function": {"name": None, "arguments": '{"x":'}},
            {"index": 0, "id": "", "function": {"name": "", "arguments": "1}"}},
        ),
        calls=[A],
        ids=["c1"],
        reason="tool_calls",
    ),
    "arguments as an object": Dialect(
        calls(call("get_a", {"x": 1}, index=0, id="c1")),
        {"tool_calls": [call("get_a", {"x": 1}, id="c1")]},
        calls=[A],
        ids=["c1"],
        reason="tool_calls",
    ),
    "no arguments": Dialect(
        calls(call("get_a", "", index=0, id="c1"), call("get_b", None, index=1, id="c2")),
        {"tool_calls": [call("get_a", "", id="c1"), call("get_b", None, id="c2")]},
        calls=[("get_a", "{}"), ("get_b", "{}")],
        ids=["c1", "c2"],
        reason="tool_calls",
    ),
    "brackets and quotes in the arguments": Dialect(
        calls(
            call("get_a", "", index=0, id="c1"),
            call("get_b", "", index=1, id="c2"),
            call(None, '{"x":"}\\"', index=0),
            call(None, '{"y":[{}]', index=1),
            call(None, '{"}', index=0),
            call(None, "}", index=1),
        ),
        calls=[("get_a", '{"x":"}\\"{"}'), ("get_b", '{"y":[{}]}')],
        ids=["c1", "c2"],
        reason="tool_calls",
    ),
    "null and empty lists of calls": Dialect(
        [{"content": "Hi"}, {"tool_calls": None}, {"tool_calls": []}, *calls(call(*A, index=0, id="c1"))],
        {"content": "Hi", "tool_calls": [call(*A, id="c1")]},
        text="Hi",
        calls=[A],
        ids=["c1"],
        reason="tool_calls",
    ),
    "no calls at all": Dialect(
        [{"content": "Hi", "tool_calls": []}], {"content": "Hi", "tool_calls": None}, text="Hi"
    ),
    "an empty piece at the end": Dialect(
        calls(call(*A, index=0, id="c1"), {"index": 1}, {}), calls=[A], ids=["c1"], reason="tool_calls"
    ),
    "text after a call": Dialect(
        [{"content": "So. "}, *calls(call("get_a", '{"x":', index=0, id="c1")), {"content": "Well."}]
        + calls(call(None, "1}", index=0)),
        text="So. Well.",
        calls=[A],
        ids=["c1"],
        reason="tool_calls",
    ),
    "reason stop": Dialect(
        calls(call(*A, index=0, id="c1")), {"tool_calls": [call(*A, id="c1")]}, calls=[A], ids=["c1"]
    ),
    "no reason": Dialect(
        calls(call("get_a", None, index=0, id="c1")),
        {"tool_calls": [call("get_a", None, id="c1")]},
        calls=[("get_a", "{}")],
        ids=["c1"],
        reason=None,
    ),
}


def text(value: Any, kind: str = "text") -> dict[str, Any]:
    return {"type": kind, "text": value}


def contents(*pieces: Any, whole: Any = None) -> Dialect:
    """Pieces of content, and the whole content where it comes in one."""
    message = None if whole is None else {"content": whole}
    return Dialect([{"content": piece} for piece in pieces], message, text="Hello.")


def thoughts(*pieces: dict[str, Any], whole: dict[str, Any] | None = None) -> Dialect:
    """As given, and then the answer."""
    message = None if whole is None else {"content": "Hello.", **whole}
    return Dialect([*pieces, {"content": "Hello."}], message, text="Hello.", thought="hm")


HEL, LO, HELLO = text("Hel"), text("lo."), text("Hello.")
REFERENCE = {"type": "reference", "reference_ids": [1]}
CONTENT = {
    "a text": contents("Hel", "lo.", whole="Hello."),
    "null and empty": contents(None, "", "Hello.", None),
    "a list": contents([HEL], [LO], whole=[HEL, LO]),
    "a list after a text": contents("Hel", [LO]),
    "a text after a list": contents([HEL], "lo."),
    "a list of strings": contents(["Hel", "lo."], whole=["Hel", "lo."]),
    "a part alone": contents(HEL, "lo.", whole=HELLO),
    "output_text": contents([text("Hello.", "output_text")], whole=[text("Hello.", "output_text")]),
    "a text in an object": contents([text({"value": "Hello."})], whole=[text({"value": "Hello."})]),
    "empty lists and parts": contents([], [text(None), {"type": "text"}], [HELLO], whole=[text(""), HELLO]),
    "references among the parts": contents([HEL, REFERENCE, LO], whole=[HEL, REFERENCE, LO]),
    "late": Dialect([{}, {"role": "assistant"}, {"role": "assistant", "content": "Hello."}], text="Hello."),
    "roles repeated": Dialect(
        [{"role": "assistant", "content": "Hel"}, {"role": "assistant", "content": "lo."}], text="Hello."
    ),
}

THINK = {"type": "thinking", "thinking": [text("hm")]}
REASON = {"type": "reasoning", "summary": [text("hm", "summary_text")]}
THOUGHTS = {
    "reasoning_content": thoughts(
        {"reasoning_content": "h"}, {"reasoning_content": "m"}, whole={"reasoning_content": "hm"}
    ),
    "reasoning": thoughts({"reasoning": "hm", "content": ""}, whole={"reasoning": "hm"}),
    "both": thoughts(
        {"reasoning": "hm", "reasoning_content": "hm"}, whole={"reasoning": "hm", "reasoning_content": "hm"}
    ),
    "thinking": thoughts({"thinking": "hm"}, whole={"thinking": "hm"}),
    "null and empty": thoughts(
        {"reasoning_content": None, "content": ""},
        {"reasoning_content": ""},
        {"reasoning_content": "hm", "content": None},
        {"reasoning_content": None},
    ),
    "a list": thoughts({"reasoning_content": [text("hm")]}, whole={"reasoning_content": [text("hm")]}),
    "an object": thoughts({"reasoning": {"content": "hm"}}, whole={"reasoning": {"content": "hm"}}),
    "parts of the content": thoughts({"content": [THINK]}, whole={"content": [THINK, HELLO]}),
    "a string in a part": thoughts(
        {"content": [{"type": "thinking", "thinking": "hm"}]},
        whole={"content": [{"type": "thinking", "thinking": "hm"}, HELLO]},
    ),
    "a part of reasoning": thoughts({"content": [REASON]}, whole={"content": [REASON, HELLO]}),
}


def ends(*pieces: dict[str, Any], reason: str | None = None) -> Dialect:
    return Dialect(list(pieces), text="Hello.", reason=reason)


ENDS = {
    "repeated": ends({"content": "Hello."}, {"finish_reason": "stop"}, reason="stop"),
    "empty in every piece": ends(
        {"delta": {"content": "Hel"}, "finish_reason": ""},
        {"delta": {"content": "lo."}, "finish_reason": ""},
        reason="stop",
    ),
    "left out": Dialect([{"content": "Hello."}], {"content": "Hello."}, text="Hello.", reason=None),
    "with the last word": ends({"content": "Hel"}, {"delta": {"content": "lo."}, "finish_reason": "stop"}),
    "delta null": ends({"content": "Hello."}, {"delta": None, "index": 0}, reason="stop"),
    "index left out": ends(
        {"delta": {"content": "Hel"}, "index": None}, {"delta": {"content": "lo."}, "index": ...}
    ),
    "a message in place of a delta": ends({"message": {"content": "Hello."}}, reason="stop"),
}


CASES = {
    f"{family}: {name}": dialect
    for family, table in {"calls": TOOL_CALLS, "content": CONTENT, "thoughts": THOUGHTS, "ends": ENDS}.items()
    for name, dialect in table.items()
}

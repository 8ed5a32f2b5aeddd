"""Forced tool calls as text: the grammar, the calls read from what was written, tools told in words, the parsers."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import AsyncGenerator, Iterable
from typing import Any

import pytest

from heedful.server.engines.vllm import tool_parsers
from heedful.server.engines.vllm.tool_calls import FORMS, MOST, CallForm, Forced, Reader, joined
from heedful.server.engines.vllm.tool_prompt import written_out
from heedful.strategies import Chunk, EngineError, Event, Finish, RequestError, Usage, collect

CITY: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
ZONE: dict[str, Any] = {
    "type": "object",
    "properties": {"zone": {"$ref": "#/$defs/Z"}},
    "required": ["zone"],
    "$defs": {"Z": {"enum": ["CET", "UTC"]}},
}


def _tool(name: str, parameters: Any = None, **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters, **more}}


TOOLS = [_tool("get_weather", CITY), _tool("get_time", ZONE, strict=False)]
NAMED = {"type": "function", "function": {"name": "get_weather"}}


def _forced(**body: Any) -> Forced:
    forced = Forced.of({"tools": TOOLS, **body})
    assert forced is not None
    return forced


def _call(name: str, arguments: str, form: CallForm) -> str:
    return f'{form.begin}{{"name": "{name}", "{form.arguments}": {arguments}}}{form.end}'


# -- the grammar


def _accepts(forced: Forced, form: CallForm, text: str) -> bool:
    xgrammar = pytest.importorskip("xgrammar")
    grammar = xgrammar.Grammar.from_structural_tag(forced.structural_tag(form))
    return bool(xgrammar.testing._is_grammar_accept_string(grammar, text))


@pytest.mark.parametrize("parser", [*FORMS, "any other"])
def test_the_grammar_leaves_nothing_but_calls_by_their_schemas(parser: str) -> None:
    form = FORMS.get(parser, CallForm())
    paris, time = (
        _call("get_weather", '{"city": "Paris"}', form),
        _call("get_time", '{"zone": "UTC"}', form),
    )
    for forced in (_forced(tool_choice="required"), _forced(tool_choice=NAMED)):
        assert _accepts(forced, form, paris)
        for arguments in ('"Paris"', "{}", '{"city": 5}', '{"city": "a", "more": 1}', "null", "[]"):
            assert not _accepts(forced, form, _call("get_weather", arguments, form)), arguments
        for text in ("", "Well, " + paris, paris + " Done.", _call("other", "{}", form)):
            assert not _accepts(forced, form, text), text
    many = form.between.join([paris, time])
    assert _accepts(_forced(tool_choice="required"), form, many)
    assert not _accepts(_forced(tool_choice="required", parallel_tool_calls=False), form, many)
    assert not _accepts(_forced(tool_choice=NAMED), form, time)
    assert not _accepts(_forced(tool_choice="required"), form, _call("get_time", '{"zone": "PST"}', form))
    assert _accepts(_forced(tool_choice="required"), form, form.between.join([paris] * MOST))
    assert not _accepts(_forced(tool_choice="required"), form, form.between.join([paris] * (MOST + 1)))


def test_as_one_schema_for_other_grammars() -> None:
    """Definitions of the tools' own move along with what refers to them."""
    jsonschema = pytest.importorskip("jsonschema")
    weather = {"name": "get_weather", "arguments": {"city": "Paris"}}
    time = {"name": "get_time", "arguments": {"zone": "UTC"}}
    many = jsonschema.Draft202012Validator(_forced(tool_choice="required").json_schema())
    single = jsonschema.Draft202012Validator(_forced(tool_choice=NAMED).json_schema())
    assert many.is_valid([weather, time]) and single.is_valid(weather)
    for wrong in ([], [weather] * (MOST + 1), [{**time, "arguments": {"zone": "PST"}}], weather):
        assert not many.is_valid(wrong), wrong
    assert not single.is_valid(time) and not single.is_valid({**weather, "arguments": "Paris"})


@pytest.mark.parametrize("choice", [None, "auto", "none"])
def test_nothing_is_forced_where_nothing_is_asked_for(choice: Any) -> None:
    assert Forced.of({"tools": TOOLS, "tool_choice": choice}) is None


@pytest.mark.parametrize("parameters", [None, {}, {"properties": {}}, {"type": "object"}])
def test_arguments_are_an_object_even_where_the_schema_does_not_say(parameters: Any) -> None:
    forced = Forced.of({"tools": [_tool("f", parameters)], "tool_choice": "required"})
    assert forced and forced.tools["f"]["type"] == "object"


def test_arguments_of_another_type_are_refused() -> None:
    with pytest.raises(RequestError, match="arguments are an object, not 'string'") as refused:
        Forced.of({"tools": [TOOLS[0], _tool("f", {"type": "string"})], "tool_choice": "required"})
    assert refused.value.param == "tools.1.function.parameters"


# -- what was written


HARD = '{"a": "}\\"{[", "b": {"c": [1, {"d": "\\\\"}]}, "name": {"name": "x", "arguments": {}}}'


@pytest.mark.parametrize("step", [1, 2, 7, 10_000])
@pytest.mark.parametrize("parser", [*FORMS, "any other"])
def test_calls_are_read_in_pieces_of_any_size(parser: str, step: int) -> None:
    form = FORMS.get(parser, CallForm())
    text = form.between.join([_call("f", HARD, form), _call("g", "{}", form)])
    reader, deltas = Reader(), []
    for i in range(0, len(text), step):
        deltas += reader.feed(text[i : i + step])
    assert reader.whole
    calls = joined(deltas)
    assert [(c["function"]["name"], c["function"]["arguments"]) for c in calls] == [("f", HARD), ("g", "{}")]
    assert len({c["id"] for c in calls}) == 2 and all(c["type"] == "function" for c in calls)
    assert all(("id" in d) == bool(d["function"].get("name")) for d in deltas)


def test_a_schemas_json_is_read_too() -> None:
    """Written by another grammar: a list, with whatever white space it likes."""
    calls = joined(
        Reader().feed('[\n {"name" : "f",\n"arguments" : {"a": 1} } , {"name":"g","arguments":{}}]')
    )
    assert [(c["function"]["name"], c["function"]["arguments"]) for c in calls] == [
        ("f", '{"a": 1}'),
        ("g", "{}"),
    ]


async def _wrote(pieces: Iterable[str], reason: str, *, stream: bool) -> AsyncGenerator[Event, None]:
    """As vLLM answers: in JSON where it streams, whole otherwise."""
    if stream:
        raw = '{"id":"x","choices":[{"index":0,"delta":%s,"finish_reason":%s}]}'
        yield Chunk.from_json((raw % ('{"role":"assistant","content":""}', "null")).encode())
        for piece in pieces:
            yield Chunk.from_json((raw % (json.dumps({"content": piece}), "null")).encode())
        yield Chunk.from_json((raw % ('{"content":""}', json.dumps(reason))).encode())
    else:
        message = {"role": "assistant", "content": "".join(pieces)}
        yield Chunk([{"index": 0, "delta": message, "finish_reason": reason}])
    yield Finish(Usage(1, 2))


TEXT = _call("get_weather", '{"city": "Paris"}', FORMS["hermes"])


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("choice", "reason"), [("required", "tool_calls"), (NAMED, "stop")])
async def test_a_whole_call(stream: bool, choice: Any, reason: str) -> None:
    answer = await collect(
        _forced(tool_choice=choice).read(_wrote(TEXT, "stop", stream=stream), stream=stream)
    )
    (only,) = answer.choices
    (call,) = only.message["tool_calls"]
    assert call["function"] == {"name": "get_weather", "arguments": '{"city": "Paris"}'}
    assert "index" not in call and not only.text and only.finish_reason == reason


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("cut", "arguments"),
    [
        (20, None),
        (len(TEXT) - 20, '{"city": "P'),
        (TEXT.index('{"city') + 1, "{"),
        (len(TEXT), '{"city": "Paris"}'),
    ],
)
async def test_what_the_limit_cuts_off_is_told_as_it_is(
    stream: bool, cut: int, arguments: str | None
) -> None:
    """The call as far as it came and `length`: no text that looks like an answer, no call that looks whole."""
    events = _wrote(TEXT[:cut], "length", stream=stream)
    (only,) = (await collect(_forced(tool_choice="required").read(events, stream=stream))).choices
    calls = only.message.get("tool_calls") or []
    assert only.finish_reason == "length" and not only.text
    assert [c["function"]["arguments"] for c in calls] == ([] if arguments is None else [arguments])


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("text", ["", "Well, Paris is warm.", TEXT[:-20]])
async def test_no_call_is_no_answer(stream: bool, text: str) -> None:
    with pytest.raises(EngineError, match="before it was whole"):
        await collect(
            _forced(tool_choice="required").read(_wrote(text, "stop", stream=stream), stream=stream)
        )


async def test_arguments_are_streamed_as_they_are_written() -> None:
    events = _forced(tool_choice="required").read(_wrote(TEXT, "stop", stream=True), stream=True)
    chunks = [e async for e in events if isinstance(e, Chunk)]
    deltas = [c for chunk in chunks for c in chunk.choices[0]["delta"].get("tool_calls") or []]
    assert len(deltas) > 10 and all(len(d["function"]["arguments"]) <= 1 for d in deltas)
    assert all(chunk.raw and json.loads(chunk.raw)["id"] == "x" for chunk in chunks)


# -- tools in words


ASKED: list[Any] = [{"role": "user", "content": "Weather in Paris and Rome?"}]
CALLED: dict[str, Any] = {
    "role": "assistant",
    "content": None,
    "tool_calls": [
        {
            "id": c,
            "type": "function",
            "function": {"name": "get_weather", "arguments": json.dumps({"city": c})},
        }
        for c in ("Paris", "Rome")
    ],
}
RESULTS: list[Any] = [
    {"role": "tool", "tool_call_id": "Paris", "content": "sunny"},
    {"role": "tool", "tool_call_id": "Rome", "content": [{"type": "text", "text": "rain"}]},
]


def test_a_conversation_with_calls_as_turns_of_text() -> None:
    turns: list[Any] = written_out([*ASKED, CALLED, *RESULTS], [], has_system=True)
    assert [t["role"] for t in turns] == ["user", "assistant", "user"]
    assert all(isinstance(t["content"], str) and set(t) == {"role", "content"} for t in turns)
    assert joined(Reader().feed(turns[1]["content"]))[1]["function"]["arguments"] == '{"city": "Rome"}'
    assert turns[2]["content"] == (
        "<tool_response>\nsunny\n</tool_response>\n<tool_response>\nrain\n</tool_response>"
    )
    assert written_out(ASKED, [], has_system=True) == ASKED


def test_tools_are_told_where_the_template_has_room() -> None:
    own = {"role": "system", "content": "Be brief."}
    system, *rest = written_out([own, *ASKED], TOOLS, has_system=True)
    assert system["role"] == "system" and system["content"].endswith("\n\nBe brief.") and rest == ASKED
    assert all(json.dumps(t["function"]["name"]) in system["content"] for t in TOOLS)
    assert written_out(ASKED, TOOLS, has_system=True)[0]["role"] == "system"
    (user,) = written_out(ASKED, TOOLS, has_system=False)
    assert user["role"] == "user" and user["content"].endswith("\n\n" + ASKED[0]["content"])


# -- parsers


def _options(**given: Any) -> Namespace:
    return Namespace(**{"tool_call_parser": None, "enable_auto_tool_choice": None, **given})


CHATML = "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}{% endfor %}"


@pytest.mark.parametrize(
    ("template", "kind", "parser"),
    [
        ("{% if tools %}<tool_call>{% endif %} system", "qwen2", "hermes"),
        ("{% if tools %}<tool_call>\n<function={% endif %}", "qwen3_moe", "qwen3_coder"),
        ("{% if tools %}<tool_call><arg_key>{% endif %}", "glm4_moe", "glm45"),
        ("{% if tools %}<|start_header_id|>ipython{% endif %}", "llama", "llama3_json"),
        ("{% if tools %}[AVAILABLE_TOOLS] [TOOL_CALLS]{% endif %}", "mistral", "mistral"),
        ("{% if tools %}<｜tool▁calls▁begin｜>```json{% endif %}", "deepseek_v3", "deepseek_v3"),
        ("{% if tools %}<｜tool▁calls▁begin｜>{% endif %}", "deepseek_v3", "deepseek_v31"),
        ("{% if tools %}<tool_call>{% endif %}", "granitemoehybrid", "granite4"),
        (CHATML, "llama", "hermes"),
        ("{% if tools %}{{ tools }}{% endif %}", "unheard_of", None),
    ],
)
def test_the_template_tells_the_parser(template: str, kind: str, parser: str | None) -> None:
    tools = tool_parsers.choose(_options(), template, kind)
    assert (tools.parser, tools.automatic, tools.told) == (parser, parser is not None, template is CHATML)
    assert (parser or "name a --tool-call-parser") in tools.note


def test_vllms_own_options_win() -> None:
    assert tool_parsers.choose(_options(tool_call_parser="pythonic"), CHATML, "llama").parser == "pythonic"
    off = tool_parsers.choose(_options(enable_auto_tool_choice=False), CHATML, "llama")
    assert not off.automatic and off.note == "only calls that a request forces"
    base = tool_parsers.choose(_options(), None, "gemma3_text")
    assert (base.parser, base.automatic, base.told) == (None, False, False)


@pytest.mark.parametrize(
    ("template", "has"),
    [
        (CHATML, True),
        ("{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}", False),
        ("{{ raise_exception('roles must alternate user/assistant') }}", False),
    ],
)
def test_whether_a_template_takes_a_system_message(template: str, has: bool) -> None:
    assert tool_parsers.choose(_options(), template, "x").has_system is has

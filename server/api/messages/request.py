"""Anthropic's /v1/messages, translated once into the request that every strategy knows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from hashlib import sha256
from typing import Annotated, Any, Literal
from uuid import uuid4

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from heedful.server.access.client import Role
from heedful.server.api import bodies
from heedful.server.api.bodies import handled, ignored, objects, refused, travelling, typed, wants_stream
from heedful.server.api.messages.answer import MessagesWire
from heedful.server.api.messages.tools import function_of
from heedful.server.api.operation import Operation
from heedful.server.exchange import Body, Exchange, answer, respond
from heedful.server.service import Target
from heedful.strategies import Capability, ChatRequest, Message, MissingCapability, RequestError, Run

_CHOICE: dict[str, Any] = {"auto": "auto", "any": "required", "none": "none"}
_LONGEST_USER = 64  # as OpenAI has it


class TextBlock(msgspec.Struct):
    text: str


class Turn(msgspec.Struct):
    role: Literal["user", "assistant", "system"]
    content: str | bodies.PartsField


class ToolChoice(msgspec.Struct):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class Metadata(msgspec.Struct):
    user_id: str | None = None


class Thinking(msgspec.Struct):
    type: str | None = None
    budget_tokens: int | float | None = None


class JsonFormat(msgspec.Struct):
    type: Literal["json_schema"]
    schema: dict[str, Any]


class OutputConfig(msgspec.Struct):
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: JsonFormat | None = None


_TOOL = {"type": "object", "properties": {"name": {"type": "string"}, "input_schema": {"type": "object"}}}
_NOBODY_BILLED = "nobody is billed"


class CountBody(msgspec.Struct, kw_only=True):
    """Anthropic's messages, beta fields too, and what becomes of each (the table in docs/proxy.md)."""

    model: bodies.ModelField
    messages: Annotated[list[Turn], Meta(min_length=1)]
    max_tokens: Annotated[Any, Meta(extra_json_schema={"type": "integer"})] = None
    system: str | list[TextBlock] | None = None
    stop_sequences: list[str] | None = None
    stream: bool | None = None
    alignment: bodies.AlignmentField = None
    tools: Annotated[list[dict[str, Any]], Meta(extra_json_schema={"items": _TOOL})] | None = None
    tool_choice: ToolChoice | None = None
    metadata: Metadata | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    output_format: JsonFormat | None = None
    # Of OpenAI's API, and of theirs once.
    temperature: bodies.TemperatureField = None
    top_p: bodies.ShareField = None

    cache_control: Annotated[Any, ignored("the engine keeps prefixes by itself")] = None
    context_management: Annotated[
        Any,
        ignored("nothing is kept here between requests, so there is nothing to clear: what is sent is read"),
    ] = None
    service_tier: Annotated[Any, ignored("there are no tiers")] = None
    speed: Annotated[Any, ignored("there is one speed")] = None
    betas: Annotated[Any, ignored("what a beta allows is allowed or refused field by field")] = None
    diagnostics: Annotated[Any, ignored("no earlier request is kept to compare with")] = None
    billing_policy: Annotated[Any, ignored(_NOBODY_BILLED)] = None
    fallback_credit_token: Annotated[Any, ignored(_NOBODY_BILLED)] = None
    fallbacks: Annotated[
        Any,
        ignored(
            "this server declines nothing by itself; other models are the operator's choice (`fallbacks`)"
        ),
    ] = None
    user_profile_id: Annotated[Any, ignored("the operator's key speaks for all")] = None
    workspace_id: Annotated[Any, ignored("there are no workspaces")] = None

    container: Annotated[Any, refused("tools run at the client, not in containers here")] = None
    mcp_servers: Annotated[
        Any,
        refused("this server calls no tools; give them to the model as `tools` and run them at the client"),
    ] = None
    thread: Annotated[Any, refused("this server keeps no conversations; send all messages")] = None
    compaction: Annotated[
        Any, refused("this server summarizes no conversations; ask for a summary in a message")
    ] = None
    inference_geo: Annotated[Any, refused("this server can't promise where a model runs")] = None


class MessagesBody(CountBody, kw_only=True):
    """Anthropic's messages, to be answered."""

    max_tokens: Annotated[int, Meta(ge=1)]


class MessageObject(msgspec.Struct):
    id: str
    type: str
    content: list[dict[str, Any]]


async def messages(request: Request) -> Response:
    """POST /v1/messages"""
    return await answer(request, _messages, own=handled(MessagesBody))


async def _messages(body: Body, target: Target, run: Run) -> Response:
    chat = chat_request(body.fields, run.engine.model, run.engine.capabilities)
    wire = MessagesWire(id=f"msg_{uuid4().hex}", model=run.engine.model)
    return await respond(Exchange(target.plan.stream(chat, run), run, target, wire), stream=chat.stream)


def chat_request(
    fields: Mapping[str, Any], model: str, capabilities: Capability, *, to_count: bool = False
) -> ChatRequest:
    """Raises RequestError that names the field which can't be translated. `to_count`: nothing is to be written."""
    body = typed(fields, CountBody if to_count else MessagesBody, model=model)
    params = travelling(fields, CountBody)
    if not to_count:
        params["max_tokens"] = body.max_tokens
    if body.stop_sequences:
        params["stop"] = body.stop_sequences
    if body.tools:
        params["tools"] = [function_of(tool, i) for i, tool in enumerate(body.tools)]
        params |= _tool_choice(body.tool_choice)
    if body.metadata and body.metadata.user_id is not None:
        params["user"] = _user(body.metadata.user_id)
    if body.thinking:
        params |= _thinking(body.thinking)
    params |= _output(body)
    conversation = [message for i, turn in enumerate(body.messages) for message in _turn(turn, i)]
    if not conversation:
        raise RequestError("messages: there is nothing in them", param="messages")
    translated = [*_system(body.system), *conversation]
    if translated[-1]["role"] == "assistant":
        if Capability.PREFILL not in capabilities:
            raise MissingCapability(
                f"messages: the last is the assistant's, to be continued, and model {model!r} lacks prefill",
                param="messages",
            )
        params |= {"continue_final_message": True, "add_generation_prompt": False}
    return ChatRequest(model, tuple(translated), params, wants_stream(fields))


def _system(system: str | list[TextBlock] | None) -> list[Message]:
    if not system:
        return []
    text = system if isinstance(system, str) else "\n\n".join(block.text for block in system)
    return [{"role": "system", "content": text}]


def _turn(turn: Turn, i: int) -> Iterator[Message]:
    """A turn as one message, tool results before it as messages of their own."""
    where, role, content = f"messages.{i}", turn.role, turn.content
    if isinstance(content, str):
        yield {"role": role, "content": content}
        return
    parts: list[dict[str, Any]] = []
    calls: list[dict[str, Any]] = []
    thoughts: list[str] = []
    for j, block in enumerate(objects(content, f"{where}.content")):
        kind, at = block.get("type"), f"{where}.content.{j}"
        if kind == "tool_use":
            function = {
                "name": block.get("name"),
                "arguments": msgspec.json.encode(block.get("input") or {}).decode(),
            }
            calls.append({"id": block.get("id"), "type": "function", "function": function})
        elif kind == "tool_result":
            result, images = _tool_result(block.get("content"), f"{at}.content")
            yield {"role": "tool", "tool_call_id": block.get("tool_use_id"), "content": result}
            parts += images
        elif kind == "thinking":
            thoughts.append(str(block.get("thinking") or ""))
        elif kind != "redacted_thinking":
            parts += _parts(block, at)
    if not (parts or calls or thoughts):
        return
    message: dict[str, Any] = {"role": role, "content": _plain(parts)}
    if calls:
        message["tool_calls"] = calls
    if thoughts:
        message["reasoning_content"] = "\n".join(thoughts)
    yield message


def _plain(parts: list[dict[str, Any]]) -> Any:
    """Text alone as a string, which every model takes; None where there is nothing."""
    if all(p["type"] == "text" for p in parts):
        return "\n\n".join(p["text"] for p in parts) if parts else None
    return parts


def _parts(block: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    """A block as parts of a chat message."""
    kind = block.get("type")
    source = block.get("source")
    form = source.get("type") if isinstance(source, dict) else None
    if kind == "text" and isinstance(block.get("text"), str):
        return [{"type": "text", "text": block["text"]}]
    if kind == "search_result":
        return [_text(*(block.get(k) for k in ("title", "source")), *_texts(block.get("content"), where))]
    if kind == "image" and isinstance(source, dict) and form == "url":
        return [{"type": "image_url", "image_url": {"url": _string(source, "url", where)}}]
    if kind == "image" and isinstance(source, dict) and form == "base64":
        return [{"type": "image_url", "image_url": {"url": _data_url(source, where)}}]
    if kind == "document" and isinstance(source, dict):
        about = [block.get("title"), block.get("context")]
        if form == "text" and isinstance(source.get("data"), str):
            return [_text(*about, source["data"])]
        if form == "base64":
            file = {"filename": block.get("title") or "document.pdf", "file_data": _data_url(source, where)}
            return [{"type": "file", "file": file}]
        if form == "content" and isinstance(source.get("content"), str):
            return [_text(*about, source["content"])]
        if form == "content":
            inner = objects(source.get("content"), f"{where}.source.content")
            head = [_text(*about)] if any(about) else []
            return [
                *head,
                *(p for k, b in enumerate(inner) for p in _parts(b, f"{where}.source.content.{k}")),
            ]
    described = repr(kind) if form is None else f"{kind!r} with a source of type {form!r}"
    raise RequestError(f"{where}: a block of type {described} can't be passed on", param=where)


def _text(*texts: Any) -> dict[str, Any]:
    return {"type": "text", "text": "\n".join(t for t in texts if isinstance(t, str) and t)}


def _texts(blocks: Any, where: str) -> list[str]:
    return [str(b.get("text") or "") for b in objects(blocks or [], f"{where}.content")]


def _data_url(source: Mapping[str, Any], where: str) -> str:
    return f"data:{_string(source, 'media_type', where)};base64,{_string(source, 'data', where)}"


def _string(source: Mapping[str, Any], field: str, where: str) -> str:
    value = source.get(field)
    if not isinstance(value, str):
        raise RequestError(f"{where}.source.{field}: must be a string", param=f"{where}.source.{field}")
    return value


def _tool_result(content: Any, where: str) -> tuple[str, list[dict[str, Any]]]:
    """The text, and what is no text: chat APIs take images and files only from the user."""
    if content is None or isinstance(content, str):
        return content or "", []
    blocks = objects(content, where)
    parts = [p for k, b in enumerate(blocks) for p in _parts(b, f"{where}.{k}")]
    texts = [p["text"] for p in parts if p["type"] == "text"]
    return "\n".join(texts), [p for p in parts if p["type"] != "text"]


def _tool_choice(choice: ToolChoice | None) -> dict[str, Any]:
    if choice is None:
        return {}
    params: dict[str, Any] = {"tool_choice": _CHOICE.get(choice.type)}
    if choice.type == "tool":
        params["tool_choice"] = {"type": "function", "function": {"name": choice.name}}
    if choice.disable_parallel_tool_use:
        params["parallel_tool_calls"] = False
    return params


def _user(user: str) -> str:
    """Who asks, as chat APIs take it: an id longer than they allow goes on as its hash, the same each time."""
    return user if len(user) <= _LONGEST_USER else sha256(user.encode()).hexdigest()


def _thinking(thinking: Thinking) -> dict[str, Any]:
    """A thinking budget as the effort that chat APIs know."""
    if thinking.type in (None, "disabled"):
        return {}
    budget = thinking.budget_tokens
    if budget is None:
        return {"reasoning_effort": "medium"}
    return {"reasoning_effort": "low" if budget <= 2048 else "medium" if budget <= 8192 else "high"}


def _output(body: CountBody) -> dict[str, Any]:
    """What `output_config` asks, and `output_format`, its older form. An effort goes before a thinking budget."""
    config = body.output_config or OutputConfig()
    params: dict[str, Any] = {} if config.effort is None else {"reasoning_effort": config.effort}
    if (form := config.format or body.output_format) is None:
        return params
    schema = {"name": "output", "schema": form.schema, "strict": True}
    return params | {"response_format": {"type": "json_schema", "json_schema": schema}}


OPERATIONS = (
    Operation(
        "POST",
        "/v1/messages",
        messages,
        "Anthropic messages",
        body=MessagesBody,
        answer=MessageObject,
        streams=True,
        dialect="anthropic",
        role=Role.USER,
    ),
)

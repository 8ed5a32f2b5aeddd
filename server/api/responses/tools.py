"""The Responses API's tools as functions of the chat API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from heedful.server.api.bodies import objects
from heedful.server.api.responses.answer import CUSTOM_INPUT
from heedful.strategies import RequestError

# Run by the client, but in a form that the model must have learnt.
_CLIENTS = frozenset({"local_shell", "shell", "apply_patch", "computer", "computer_use_preview"})
_TEXT = {
    "type": "object",
    "properties": {CUSTOM_INPUT: {"type": "string", "description": "The tool's whole input, as plain text"}},
    "required": [CUSTOM_INPUT],
    "additionalProperties": False,
}


def function_of(tool: Mapping[str, Any], i: int) -> dict[str, Any]:
    """A tool as a function. Raises RequestError for one that can't be one."""
    kind, where = tool.get("type"), f"tools.{i}"
    if not isinstance(kind, str):
        raise RequestError(f"{where}.type: give it as a string", param=f"{where}.type")
    if kind == "function":
        return {"type": "function", "function": {k: v for k, v in tool.items() if k != "type"}}
    if kind == "custom":
        format = tool.get("format")
        form = format.get("type") if isinstance(format, dict) else format
        if form not in (None, "text"):
            raise RequestError(
                f"{where}.format: a custom tool's input can't be held to a {form} here; leave it free text, "
                "or give a function with a JSON schema",
                param=f"{where}.format",
            )
        function = {"name": tool.get("name"), "parameters": _TEXT}
        if tool.get("description") is not None:
            function["description"] = tool["description"]
        return {"type": "function", "function": function}
    if kind in _CLIENTS:
        told = (
            f"{where}: {kind!r} is a tool of the client's in a form that can't be told to this model; "
            "describe it as a function or a custom tool"
        )
    else:
        told = (
            f"{where}: a tool of type {kind!r} is not one that a client runs, and this server runs none; "
            "give a function"
        )
    raise RequestError(told, param=where)


def custom_names(tools: Any) -> frozenset[str]:
    """The names of the tools that take a text."""
    listed = tools if isinstance(tools, list) else []
    return frozenset(str(t.get("name")) for t in listed if isinstance(t, dict) and t.get("type") == "custom")


def choice_of(choice: Any, tools: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """`tool_choice` for the chat API; where only some tools are allowed, also those `tools`."""
    if choice in ("auto", "none", "required"):
        return {"tool_choice": choice}
    kind = choice.get("type") if isinstance(choice, dict) else None
    if kind in ("function", "custom"):
        return {"tool_choice": {"type": "function", "function": {"name": choice.get("name")}}}
    if kind == "allowed_tools" and choice.get("mode") in ("auto", "required"):
        names = [t.get("name") for t in objects(choice.get("tools"), "tool_choice.tools")]
        kept = [t for t in tools if t["function"].get("name") in names]
        if len(kept) < len(set(map(str, names))) or not kept:
            raise RequestError(
                "tool_choice.tools: allows a tool that is not among `tools`", param="tool_choice.tools"
            )
        return {"tool_choice": choice["mode"], "tools": kept}
    raise RequestError(
        "tool_choice: must be auto, none, required, or an object of type function, custom or allowed_tools",
        param="tool_choice",
    )

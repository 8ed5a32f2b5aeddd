"""Anthropic's tools as functions: the client's own, and those whose schema only Anthropic's models know by heart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from heedful.strategies import RequestError

Schema = dict[str, Any]

_STRING: Schema = {"type": "string"}
_LINE: Schema = {"type": "integer"}


def _commands(*commands: str, **fields: Schema) -> Schema:
    properties = {"command": {"type": "string", "enum": list(commands)}, **fields}
    return {"type": "object", "properties": properties, "required": ["command"]}


_EDITS = {
    "path": _STRING,
    "view_range": {"type": "array", "items": _LINE, "description": "First and last line to view"},
    "file_text": {"type": "string", "description": "The text of a file that is created"},
    "old_str": {"type": "string", "description": "The text to replace; must be in the file exactly once"},
    "new_str": {"type": "string", "description": "The text in its place"},
    "insert_line": {"type": "integer", "description": "The line after which to insert"},
    "insert_text": {"type": "string", "description": "The text to insert"},
}
_BASH = _commands() | {
    "properties": {
        "command": _STRING,
        "restart": {"type": "boolean", "description": "Starts the shell anew"},
    },
    "required": [],
}
_EDITOR = _commands("view", "create", "str_replace", "insert", **_EDITS)
_OLD_EDITOR = _commands("view", "create", "str_replace", "insert", "undo_edit", **_EDITS)
_MEMORY = _commands(
    "view",
    "create",
    "str_replace",
    "insert",
    "delete",
    "rename",
    **_EDITS,
    old_path=_STRING,
    new_path=_STRING,
)
# By type: what the client runs, with the words and the schema that its makers say the model knows.
_KNOWN: dict[str, tuple[str, Schema]] = {
    "bash": ("Runs a command in a shell that stays open between calls.", _BASH),
    "text_editor": ("Views, creates and edits text files.", _EDITOR),
    "memory": ("Keeps notes as files under /memories: views, writes, renames and deletes them.", _MEMORY),
}
# The client runs these too, but their schemas are the model's own knowledge and large.
_UNKNOWN = ("computer", "browser")


def function_of(tool: Mapping[str, Any], i: int) -> dict[str, Any]:
    """A tool as a function of the chat API. Raises RequestError for one that can't be one."""
    where = f"tools.{i}"
    callers = tool.get("allowed_callers")
    if isinstance(callers, list) and callers and "direct" not in callers:
        raise RequestError(
            f"{where}.allowed_callers: here the model itself calls tools (direct); no code that it writes is run",
            param=f"{where}.allowed_callers",
        )
    kind = tool.get("type")
    if kind in (None, "custom"):
        function = {"name": tool.get("name"), "parameters": tool.get("input_schema") or {"type": "object"}}
        if tool.get("description") is not None:
            function["description"] = tool["description"]
    else:
        name, _, version = str(kind).rpartition("_")
        if name not in _KNOWN or not version.isdigit():
            raise _refusal(kind, name, where)
        about, schema = _KNOWN[name]
        if name == "text_editor" and version < "20250429":
            schema = _OLD_EDITOR
        function = {"name": tool.get("name"), "description": about, "parameters": schema}
    if tool.get("strict") is not None:
        function["strict"] = tool["strict"]
    return {"type": "function", "function": function}


def _refusal(kind: Any, name: str, where: str) -> RequestError:
    if name.startswith(_UNKNOWN):
        told = (
            f"{where}: {kind!r} has no schema that could be told to this model; describe the tool as one of your own "
            "(name, description, input_schema)"
        )
    else:
        told = (
            f"{where}: a tool of type {kind!r} is not one that a client runs, and this server runs none; give a tool "
            "of your own (name, description, input_schema)"
        )
    return RequestError(told, param=where)

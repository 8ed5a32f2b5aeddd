"""What somebody needs of a prompt, and whether one has it: found out when it is named, not when it is rendered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec
from jinja2 import Environment, nodes

if TYPE_CHECKING:
    from heedful.prompts.library import Prompt


@dataclass(frozen=True, eq=False)
class Use:
    """`parts`: the blocks that are rendered, each with an example of the variables that it is given. `data`: the
    types of what is read of the front matter. Uses are constants, equal only to themselves.
    """

    parts: Mapping[str, Mapping[str, Any]]
    data: Mapping[str, Any] = field(default_factory=dict)


def unfit(prompt: Prompt, use: Use, environment: Environment) -> str | None:
    """Why a prompt can't be put to a use, or None where it can."""
    missing = set(use.parts) - set(prompt.parts) | set(use.data) - set(prompt.data)
    if missing:
        needs = f"the blocks {', '.join(use.parts)}"
        needs += f", and the data {', '.join(use.data)}" if use.data else ""
        return f"lacks {', '.join(sorted(missing))}: this use needs {needs}"
    for name, kind in use.data.items():
        try:
            msgspec.convert(prompt.data[name], kind)
        except msgspec.ValidationError as error:
            return f"has other data in {name!r} than this use needs: {error}"
    blocks = {block.name: block for block in environment.parse(prompt.body).find_all(nodes.Block)}
    for part, given in use.parts.items():
        for name in _read(blocks.get(part), environment):
            if name not in given and name not in prompt.data:
                return f"has in its block {part!r} the variable {name!r}, which this use does not give"
        try:
            prompt.render(part, **given)
        except Exception as error:  # a template may do anything
            return f"can't be rendered in its block {part!r} with what this use gives: {error}"
    return None


def _read(block: nodes.Block | None, environment: Environment) -> list[str]:
    """The variables that a block takes from outside."""
    if block is None:
        return []
    own = {"loop", "self", "caller", *environment.globals, *(m.name for m in block.find_all(nodes.Macro))}
    own |= {n.name for n in block.find_all(nodes.Name) if n.ctx != "load"}
    return [n.name for n in block.find_all(nodes.Name) if n.ctx == "load" and n.name not in own]

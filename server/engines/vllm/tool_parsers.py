"""Which of vLLM's parsers reads the tool calls of a model: told by its chat template, which writes them.

A fine-tuned model keeps its template's format whatever it is called, so the template says more than the name.
"""

from __future__ import annotations

import re
from argparse import Namespace
from dataclasses import dataclass

# What only one format's template has in it, the most special first; each with vLLM's name of the parser.
_MARKS = (
    (("<|tool_calls_section_begin|>",), "kimi_k2"),
    (("<｜tool▁calls▁begin｜>", "```json"), "deepseek_v3"),
    (("<｜tool▁calls▁begin｜>",), "deepseek_v31"),
    (("<longcat_tool_call>",), "longcat"),
    (("<minimax:tool_call>",), "minimax_m2"),
    (("<seed:tool_call>",), "seed_oss"),
    (("<start_function_call>",), "functiongemma"),
    (("<|tool_call>",), "gemma4"),
    (("<|tools_prefix|>",), "apertus"),
    (("<|tool_call_start|>",), "lfm2"),
    (("<|action_start|>",), "internlm"),
    (("[TOOL_CALLS]",), "mistral"),
    (("functools[",), "phi4_mini_json"),
    (("<|tool_call|>",), "granite"),
    (("<arg_key>",), "glm45"),
    (("<function=",), "qwen3_coder"),
    (("<tool_call>",), "hermes"),
    (("<|start_header_id|>",), "llama3_json"),
)
# Where the model's kind says it better: another format with the same marks, or tools that no template writes.
_KINDS = {
    "gpt_oss": "openai",
    "jamba": "jamba",
    "granitemoehybrid": "granite4",
    "hunyuan_v1_moe": "hunyuan_a13b",
    "llama4": "llama4_pythonic",
    "olmo3": "olmo3",
    "ernie4_5": "ernie45",
    "ernie4_5_moe": "ernie45",
}


@dataclass(frozen=True, slots=True)
class Tools:
    """How a model gets its tools.

    `parser`: vLLM's, if any. `automatic`: whether the model may call a tool unforced. `told`: in words, since the
    chat template has no place for tools; in a system message where the template `has_system`. `note`: for people.
    """

    parser: str | None
    automatic: bool
    told: bool
    has_system: bool
    note: str


def choose(args: Namespace, template: str | None, kind: str) -> Tools:
    """What vLLM's options leave open, decided by the chat template and the model's kind (its `model_type`)."""
    takes = template is None or kind == "gpt_oss" or re.search(r"\btools\b", template) is not None
    told, has_system = not takes, template is None or _has_system(template)
    parser = args.tool_call_parser
    if parser is None and template is not None:
        parser = "hermes" if told else parser_of(template, kind)
    why = "; the chat template has no place for tools, so they are told in words" if told else ""
    if args.enable_auto_tool_choice is False:
        return Tools(parser, False, told, has_system, "only calls that a request forces")
    if parser is not None:
        return Tools(parser, True, told, has_system, f"parser {parser}{why}")
    note = "none, without a chat template"
    if template is not None:
        note = "only calls that a request forces: this chat template's format is unknown, name a --tool-call-parser"
    return Tools(None, False, told, has_system, note)


def parser_of(template: str, kind: str) -> str | None:
    """vLLM's parser for the calls that a template writes, where it is known."""
    marked = (parser for marks, parser in _MARKS if all(m in template for m in marks))
    return _KINDS.get(kind) or next(marked, None)


def _has_system(template: str) -> bool:
    """Whether a template takes a system message: it names the role, or writes whatever role a message has."""
    if re.search(r"system role (is )?not supported", template, re.IGNORECASE):
        return False
    return "system" in template or "raise_exception" not in template

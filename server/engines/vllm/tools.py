"""Forced tool calls and chat templates, where they touch vLLM's own objects."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from heedful.server.engines.vllm.tool_calls import CallForm, Forced
from heedful.strategies import RequestError


def force(request: Any, forced: Forced, form: CallForm, backend: str) -> None:
    """Puts the grammar of the calls in place of a request's tool choice, and of what else would end or shape them.

    `backend`: the operator's choice of who enforces structure. Raises RequestError for a schema that nobody can.
    """
    from vllm.sampling_params import StructuredOutputsParams

    tags = _by_tags(forced, backend)
    grammar: dict[str, Any] = {"json": forced.json_schema()}
    if tags:
        grammar = {"structural_tag": forced.structural_tag(form)}
    request.structured_outputs = StructuredOutputsParams(**grammar)
    request.response_format = None
    request.tool_choice = "none"  # the prompt keeps the tools; vLLM's parser keeps out
    request.stop, request.stop_token_ids, request.ignore_eos, request.min_tokens = [], [], False, 0


def _by_tags(forced: Forced, backend: str) -> bool:
    """Whether xgrammar takes the schemas, in the form that the model knows.

    What it would leave unenforced (`multipleOf`, say) goes to llguidance as one JSON schema. What neither can enforce
    (`uniqueItems`) is left to the model, and all else of that schema is enforced.
    """
    from vllm.v1.structured_output.backend_xgrammar import has_xgrammar_unsupported_json_features

    if backend not in ("auto", "xgrammar"):
        return False
    for name, schema in forced.tools.items():
        _check(name, schema)
    if backend == "xgrammar" or not any(map(has_xgrammar_unsupported_json_features, forced.tools.values())):
        return True
    return not _guidance_takes(forced.json_schema())


def _check(name: str, schema: dict[str, Any]) -> None:
    """Raises RequestError for what is no JSON schema that a grammar can be made of."""
    from xgrammar import Grammar

    try:
        Grammar.from_json_schema(schema)
    except Exception as error:
        # xgrammar puts the place in its own source before its words.
        why = str(error).partition(": ")[2].strip() or str(error)
        raise RequestError(
            f"tools: a call of {name!r} can't be made to follow its parameters: {why}", param="tools"
        ) from error


def _guidance_takes(schema: dict[str, Any]) -> bool:
    from vllm.exceptions import VLLMValidationError
    from vllm.sampling_params import SamplingParams, StructuredOutputsParams
    from vllm.v1.structured_output.backend_guidance import validate_guidance_grammar

    try:
        validate_guidance_grammar(
            SamplingParams(structured_outputs=StructuredOutputsParams(json=schema)), None
        )
    except VLLMValidationError:
        return False
    return True


def chat_template(args: Namespace, tokenizer: Any) -> str | None:
    """The text of the template that conversations are written by."""
    from vllm.renderers.chat_utils import load_chat_template

    if args.chat_template:
        given: str = load_chat_template(args.chat_template)
        return given
    own = getattr(tokenizer, "chat_template", None)
    if isinstance(own, dict):  # several by name, of which vLLM takes this one where there are tools
        own = own.get("tool_use") or own.get("default")
    return own or None

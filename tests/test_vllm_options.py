"""What vLLM makes of the options that it is given, in the process that has loaded it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from heedful.server.engines.vllm import start, tool_parsers
from heedful.server.engines.vllm.tool_calls import FORMS

Here = Callable[..., tuple[int, str]]
INTEL: dict[str, Any] = {"architecture": "x86_64", "avx512_f": True, "avx512_bf16": False, "amx_bf16": False}


pytestmark = pytest.mark.usefixtures("loads_vllm")


@pytest.mark.engine
def test_the_processor_decides_on_the_dtype_unless_the_user_does(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("on a GPU the dtype is vLLM's to choose")

    def chosen(*options: str) -> str:
        return str(start.engine_arguments("m", "m", options).dtype)

    chosen()  # vLLM loads its kernels once, by what the processor really has
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: INTEL)
    assert chosen() == "float32" and chosen("--dtype", "bfloat16") == "bfloat16"
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    assert chosen() == "auto" and chosen("--dtype", "float32") == "float32"


@pytest.mark.engine
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["EMPTY"], "ensure the presence of a 'config.json'"),
        (["smollm2-135m-instruct", "--max-model-lenn", "3"], "unrecognized arguments: --max-model-lenn"),
    ],
)
def test_what_vllm_can_not_serve_is_told_without_a_traceback(
    tmp_path: Path, heedful_here: Here, arguments: list[str], told: str
) -> None:
    """As test_cli.py has it of a process of its own."""
    arguments = [str(tmp_path) if a == "EMPTY" else a for a in arguments]
    status, said = heedful_here("serve", *arguments, "--port", "0")
    assert status == 2, said
    assert told in said
    assert "Traceback" not in said


def test_every_parser_we_name_is_one_of_vllms() -> None:
    manager = pytest.importorskip("vllm.tool_parsers").ToolParserManager
    known = set(manager.list_registered())
    named = {p for _, p in tool_parsers._MARKS} | set(tool_parsers._KINDS.values()) | set(FORMS)
    assert named <= known

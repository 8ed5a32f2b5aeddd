"""`heedful chat`: a conversation in the terminal, streamed."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from heedful.server.terminal import plain, terminal

if TYPE_CHECKING:
    from openai import OpenAI
    from openai.types.chat import ChatCompletionMessageParam

console = terminal()
_HELP = "/alignment NAME · /reset · /trace · /quit"


def chat(
    url: Annotated[str, typer.Option(help="The server's base URL")] = "http://127.0.0.1:8000/v1",
    model: Annotated[str | None, typer.Option(help="Model; default: the server's first")] = None,
    alignment: Annotated[str | None, typer.Option(help="Alignment; default: the server's")] = None,
    trace: Annotated[bool, typer.Option(help="Show what each answer went through")] = False,
) -> None:
    """Talk to a running server."""
    from openai import APIError, OpenAI

    client = OpenAI(base_url=url, api_key=os.environ.get("HEEDFUL_API_KEY", "none"))
    try:
        listed = client.models.list().data
        if not (model := model or next((entry.id for entry in listed), None)):
            console.print(f"{url} has no models", style="red")
            raise SystemExit(1)
    except APIError as error:
        console.print(
            Text.assemble((f"no answer from {url}:", "red"), " ", plain(str(error))), soft_wrap=True
        )
        raise SystemExit(1) from error
    console.print(Text.assemble(plain(model, "bold"), f" · {_HELP}"), soft_wrap=True)
    messages: list[ChatCompletionMessageParam] = []
    while True:
        try:
            line = console.input(Text("you> ", "bold cyan")).strip()
        except (EOFError, KeyboardInterrupt):
            console.print()
            return
        command, _, rest = line.partition(" ")
        if command == "/quit":
            return
        if command == "/reset":
            messages.clear()
        elif command == "/trace":
            trace = not trace
            console.print(f"trace {'on' if trace else 'off'}")
        elif command == "/alignment":
            alignment = rest.strip() or None
            console.print(plain(f"alignment: {alignment or 'the default'}"), soft_wrap=True)
        elif line.startswith("/"):
            console.print(_HELP)
        elif line:
            _turn(client, model, messages, line, alignment, trace)


def _turn(
    client: OpenAI,
    model: str,
    messages: list[ChatCompletionMessageParam],
    line: str,
    alignment: str | None,
    trace: bool,
) -> None:
    from openai import APIError

    # What a terminal sends that is no UTF-8 comes as lone surrogates, which no request can hold.
    line = line.encode("utf-8", "replace").decode()
    messages.append({"role": "user", "content": line})
    wish: dict[str, Any] = {"trace": trace} | ({"name": alignment} if alignment else {})
    answer = ""
    try:
        stream = client.chat.completions.create(
            model=model,
            messages=messages,
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"alignment": wish},
        )
        for chunk in stream:
            if chunk.choices and (piece := chunk.choices[0].delta.content):
                answer += piece
                console.print(plain(piece), end="", soft_wrap=True)
            if chunk.usage:
                usage = chunk.usage
                cost = f"\n{usage.prompt_tokens} + {usage.completion_tokens} tokens"
                console.print(cost, style="dim", highlight=False, end="")
            if record := (chunk.model_extra or {}).get("alignment"):
                console.print()
                console.print_json(data=record)
    except KeyboardInterrupt:
        console.print(" (stopped)", style="dim", end="")
    except APIError as error:  # so is a connection that breaks in mid-stream
        messages.pop()
        console.print(plain(str(error) or type(error).__name__, "red"), soft_wrap=True)
        return
    console.print()
    messages.append({"role": "assistant", "content": answer})

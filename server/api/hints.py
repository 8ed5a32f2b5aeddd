"""What a client that asked for an unknown path most likely meant: a base URL is easily given wrong."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.routing import BaseRoute, Match


def meant(path: str, routes: Sequence[BaseRoute]) -> str | None:
    """The path of ours that an unknown one ends in, with or without its /v1; None where there is none.

    So `/v1/v1/models`, `/models`, `/api/v1/models` and `/v1/chat/completions/models` are all `/v1/models`.
    """
    segments = [s for s in path.split("/") if s]
    for start in range(len(segments)):
        rest = segments[start:]
        for candidate in ("/" + "/".join(rest), "/v1/" + "/".join(rest)):
            if candidate != path and candidate.startswith("/v1/") and _known(candidate, routes):
                return candidate
    return None


def hint(path: str, host: str, routes: Sequence[BaseRoute]) -> str:
    """A sentence for the 404 of an unknown path, or nothing."""
    ours = meant(path, routes)
    if ours is None and path.rstrip("/") != "/v1":
        return ""
    said = "that is the base URL itself;" if ours is None else f"did you mean {ours}?"
    return (
        f"; {said} OpenAI's clients take http://{host}/v1 as their base URL (with one /v1), "
        f"Anthropic's http://{host} (without)"
    )


def _known(path: str, routes: Sequence[BaseRoute]) -> bool:
    """Whether any method is answered there."""
    scope = {"type": "http", "path": path, "method": "GET", "headers": []}
    return any(route.matches(scope)[0] is not Match.NONE for route in routes)

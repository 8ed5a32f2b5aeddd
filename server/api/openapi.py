"""The API's OpenAPI document. Fields that are not listed are allowed everywhere: they travel on to the engine."""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

_STRING: Schema = {"type": "string"}
_FLAG: Schema = {"type": "boolean"}
_OBJECT: Schema = {"type": "object"}
_NUMBER: Schema = {"type": "number"}
_COUNT: Schema = {"type": "integer", "minimum": 1}


def _list(of: Schema, **more: Any) -> Schema:
    return {"type": "array", "items": of, **more}


def _object(required: tuple[str, ...] = (), **fields: Schema) -> Schema:
    return {"type": "object", "properties": fields, "required": list(required), "additionalProperties": True}


def _any(*kinds: Schema) -> Schema:
    return {"anyOf": list(kinds)}


_STEP = _any(_STRING, {"type": "object", "minProperties": 1, "maxProperties": 1})
_ALIGNMENT = _any(
    {"type": "string", "description": "A name, or several joined by '+'"},
    _list(_STEP),
    {
        "type": "object",
        "properties": {"name": _STRING, "pipeline": _list(_STEP), "trace": _FLAG},
        "additionalProperties": False,
    },
)
_COMMON: dict[str, Schema] = {
    "model": {"type": "string", "description": "A model, or MODEL@ALIGNMENT"},
    "stream": _FLAG,
    "alignment": _ALIGNMENT,
    "temperature": {"type": "number", "minimum": 0, "maximum": 2},
    "top_p": {"type": "number", "minimum": 0, "maximum": 1},
}
_PARTS = _list(_object(("type",), type=_STRING))
_CONTENT = _any(_STRING, _PARTS)
_MESSAGE = _object(("role",), role=_STRING, content=_any(_STRING, _PARTS, {"type": "null"}))
_ERROR = _object(("error",), error=_object(("message", "type"), message=_STRING, type=_STRING))
_ANTHROPIC_ERROR = _object(("type", "error"), type={"const": "error"}, error=_ERROR["properties"]["error"])

_CHAT = _object(
    ("model", "messages"),
    **_COMMON,
    messages=_list(_MESSAGE, minItems=1),
    max_tokens=_COUNT,
    max_completion_tokens=_COUNT,
    n=_COUNT,
    stop=_any(_STRING, _list(_STRING)),
    seed={"type": "integer"},
    logprobs=_FLAG,
    top_logprobs={"type": "integer", "minimum": 0, "maximum": 20},
    tools=_list(_object(("type", "function"), type=_STRING, function=_OBJECT)),
    tool_choice=_any(_STRING, _OBJECT),
    response_format=_OBJECT,
    stream_options=_object(include_usage=_FLAG),
    user=_STRING,
)
_COMPLETION = _object(
    ("model", "prompt"),
    **_COMMON,
    prompt=_any(_STRING, _list(_STRING), _list({"type": "integer"})),
    max_tokens=_COUNT,
    n=_COUNT,
    echo=_FLAG,
    suffix=_STRING,
    stop=_any(_STRING, _list(_STRING)),
    stream_options=_object(include_usage=_FLAG),
)
_RESPONSES = _object(
    ("model", "input"),
    **_COMMON,
    input=_any(_STRING, _list(_object(type=_STRING, role=_STRING, content=_CONTENT))),
    instructions=_STRING,
    max_output_tokens=_COUNT,
    tools=_list(_object(("type",), type=_STRING, name=_STRING, parameters=_OBJECT)),
    tool_choice=_any(_STRING, _OBJECT),
    top_logprobs={"type": "integer", "minimum": 0, "maximum": 20},
    include=_list(_STRING),
    reasoning=_object(effort=_STRING),
    text=_object(format=_OBJECT, verbosity=_STRING),
    metadata=_OBJECT,
)
_TO_COUNT = frozenset("model messages system tools tool_choice thinking output_config alignment".split())
_MESSAGES = _object(
    ("model", "messages", "max_tokens"),
    **_COMMON,
    messages=_list(
        _object(("role", "content"), role={"enum": ["user", "assistant"]}, content=_CONTENT), minItems=1
    ),
    max_tokens=_COUNT,
    system=_CONTENT,
    stop_sequences=_list(_STRING),
    tools=_list(_object(("name", "input_schema"), name=_STRING, description=_STRING, input_schema=_OBJECT)),
    tool_choice=_object(("type",), type={"enum": ["auto", "any", "tool", "none"]}, name=_STRING),
    thinking=_object(type=_STRING, budget_tokens=_COUNT),
    output_config=_object(format=_OBJECT, effort=_STRING),
    metadata=_object(user_id=_STRING),
)
_COUNTED = _object(
    ("model", "messages"), **{k: v for k, v in _MESSAGES["properties"].items() if k in _TO_COUNT}
)
_EMBEDDINGS = _object(
    ("model", "input"),
    model=_STRING,
    input=_any(_STRING, _list(_STRING), _list({"type": "integer"}), _list(_list({"type": "integer"})))
    | {"description": "Token ids: of an upstream's model only; the stores' own embedder takes texts."},
    dimensions=_COUNT,
    encoding_format={"enum": ["float", "base64"]},
    truncate_prompt_tokens={"description": "-1: of a text that is too long, embed the beginning"},
)
_SCORE = _object(
    ("model", "messages", "answers"),
    model=_COMMON["model"],
    alignment=_ALIGNMENT,
    messages=_list(_MESSAGE, minItems=1),
    answers=_list({"type": "string", "minLength": 1}, minItems=1, maxItems=64),
)
_SCORES = _object(
    ("object", "model", "answers", "usage"),
    object={"const": "alignment.score"},
    model=_STRING,
    answers=_list(
        _object(
            ("logprob", "tokens", "token_logprobs"),
            logprob=_NUMBER,
            tokens=_COUNT,
            token_logprobs=_list(_NUMBER),
        )
    ),
    usage=_OBJECT,
    alignment=_OBJECT,
)
_ITEM = _object(
    ("text",),
    text={"type": "string", "minLength": 1},
    answer=_STRING,
    kind={"enum": ["norm", "demo"]},
    id=_STRING,
    source=_STRING,
    scope=_STRING,
    tags=_list(_STRING),
    mandatory=_FLAG,
    valid_from=_STRING,
    valid_until=_STRING,
    meta=_OBJECT,
)
_SEARCH: Schema = {
    **_object(
        ("query",),
        query={"type": "string", "minLength": 1},
        k={"type": "integer", "minimum": 1, "maximum": 1000},
        kind={"enum": ["norm", "demo"]},
        scopes=_list(_STRING),
        tags=_list(_STRING),
        at=_STRING,
    ),
    "additionalProperties": False,
}
_USAGE = _object(prompt_tokens={"type": "integer"}, total_tokens={"type": "integer"})
_CHOICES = _list(_object(("index",), index={"type": "integer"}, finish_reason={"type": ["string", "null"]}))
_ANSWER = _object(("id", "object", "choices"), id=_STRING, object=_STRING, choices=_CHOICES, usage=_USAGE)
_MODEL = _object(("id", "object"), id=_STRING, object={"const": "model"})
_HEADER = {
    "name": "x-alignment",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "pattern": "^[A-Za-z0-9_.+-]+$"},
    "description": "An alignment's name; the body field goes before it, MODEL@ALIGNMENT after it",
}


def _json(schema: Schema, about: str) -> dict[str, Any]:
    return {"description": about, "content": {"application/json": {"schema": schema}}}


_MODERATION = _object(
    ("input",),
    input=_any(_STRING, _list(_STRING), _list(_OBJECT)),
    model=_STRING,
    verifiers=_list(_any(_STRING, _OBJECT)),
)
_MODERATED = _object(
    ("id", "model", "results"),
    id=_STRING,
    model=_STRING,
    results=_list(
        _object(
            ("flagged", "categories", "category_scores"),
            flagged=_FLAG,
            categories=_OBJECT,
            category_scores=_OBJECT,
        )
    ),
)


def _post(about: str, body: Schema, answer: Schema, error: Schema = _ERROR, *, streams: bool = True) -> Any:
    ok = _json(answer, "The answer")
    if streams:
        ok["content"]["text/event-stream"] = {"schema": {}}
    return {
        "post": {
            "summary": about,
            "parameters": [_HEADER] if streams else [],
            "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
            "responses": {
                "200": ok,
                "4XX": _json(error, "The request can't be served as it stands; the message says why"),
                "5XX": _json(error, "The engine or the upstream failed"),
            },
        }
    }


def _get(about: str, answer: Schema, *parameters: Any) -> Any:
    return {
        "get": {
            "summary": about,
            "parameters": list(parameters),
            "responses": {"200": _json(answer, about), "4XX": _json(_ERROR, "No such thing")},
        }
    }


def _path(name: str, **more: Any) -> Any:
    return {
        "name": name,
        "in": "path",
        "required": True,
        "schema": {"type": "string", "minLength": 1, **more},
    }


def _query(name: str, schema: Schema) -> Any:
    return {"name": name, "in": "query", "required": False, "schema": schema}


def _delete(about: str) -> Any:
    return {"delete": _get(about, _object(("deleted",), deleted=_FLAG))["get"]}


def _stores() -> dict[str, Any]:
    """The stores of norms and demonstrations."""
    store, item = _path("store", pattern="^[a-z0-9][a-z0-9_-]{0,63}$"), _path("id")
    listed = _object(("object", "data"), object={"const": "list"}, data=_list(_OBJECT))
    described = _object(("name", "items"), name=_STRING, items={"type": "integer"})
    written = _object(("added", "replaced", "unchanged"), added=_list(_STRING))
    counted = _object(("added", "replaced", "unchanged"), added={"type": "integer"})
    base = "/v1/alignment/stores"
    make = {"put": _get("Makes a store", described)["get"]}
    make["put"]["responses"]["201"] = _json(described, "It is new")
    page = (
        _query("after", {"type": "integer", "minimum": 0}),
        _query("limit", {"type": "integer", "minimum": 1, "maximum": 1000}),
        _query("as_of", _STRING),
    )
    add = _post(
        "Adds or replaces items: all of them or none",
        _any(_ITEM, _object(("items",), items=_list(_ITEM))),
        written,
        streams=False,
    )
    add["post"]["responses"]["201"] = _json(written, "Some are new")
    taken = _post("Imports a file", _STRING, counted, streams=False)
    taken["post"]["requestBody"]["content"] = {"text/plain": {"schema": _STRING}}
    taken["post"]["parameters"] = [
        _query("format", {"enum": ["jsonl", "csv", "markdown", "text"]}),
        _query("skip_bad", {"enum": ["true", "false"]}),
    ]
    exported = _get("All items as JSON lines", _STRING)
    exported["get"]["responses"]["200"]["content"] = {"application/jsonl": {"schema": _STRING}}
    paths = {
        base: _get("All stores", listed),
        f"{base}/{{store}}": _get("One store", described) | make | _delete("Drops it with its history"),
        f"{base}/{{store}}/items": _get("Items, a page at a time", listed, *page) | add,
        f"{base}/{{store}}/items/{{id}}": _get("One item", _ITEM) | _delete("Ends an item"),
        f"{base}/{{store}}/history/{{id}}": _get("All versions of an item", listed),
        f"{base}/{{store}}/search": _post("The nearest items", _SEARCH, listed, streams=False),
        f"{base}/{{store}}/import": taken,
        f"{base}/{{store}}/export": exported,
    }
    for path, operations in paths.items():
        for operation in operations.values():
            named = [p for p in (store, item) if f"{{{p['name']}}}" in path]
            operation["parameters"] = [*named, *operation["parameters"]]
    return paths


def document(version: str) -> dict[str, Any]:
    """The whole document."""
    name = _path("model")
    metrics = _get("Prometheus metrics", _STRING)
    metrics["get"]["responses"]["200"]["content"] = {"text/plain": {"schema": _STRING}}
    health = _get("Whether requests can be answered", _object(("status",), status=_STRING))
    health["get"]["responses"]["503"] = _json(_object(("status",), status=_STRING), "An engine has failed")
    message = _object(("id", "type", "content"), id=_STRING, type=_STRING, content=_list(_OBJECT))
    response = _object(("id", "object", "output"), id=_STRING, object=_STRING, output=_list(_OBJECT))
    return {
        "openapi": "3.1.0",
        "info": {"title": "heedful", "version": version, "description": "Models that heed norms."},
        "security": [{}, {"bearer": []}, {"key": []}],
        "components": {
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            }
        },
        "paths": {
            "/v1/chat/completions": _post("OpenAI chat completions", _CHAT, _ANSWER),
            "/v1/completions": _post("OpenAI legacy completions", _COMPLETION, _ANSWER),
            "/v1/responses": _post("OpenAI responses", _RESPONSES, response),
            "/v1/messages": _post("Anthropic messages", _MESSAGES, message, _ANTHROPIC_ERROR),
            "/v1/messages/count_tokens": _post(
                "What the model will see, counted",
                _COUNTED,
                _object(("input_tokens",), input_tokens={"type": "integer"}),
                _ANTHROPIC_ERROR,
                streams=False,
            ),
            "/v1/embeddings": _post("OpenAI embeddings", _EMBEDDINGS, _OBJECT, streams=False),
            "/v1/moderations": _post(
                "Verdicts of verifiers on texts", _MODERATION, _MODERATED, streams=False
            ),
            "/v1/models": _get("Models, each at every alignment", _object(("data",), data=_list(_MODEL))),
            "/v1/models/{model}": _get("One model", _MODEL, name),
            "/v1/alignment": _get("Alignments and strategies with their options", _OBJECT),
            "/v1/alignment/score": _post(
                "Log-likelihood of given answers under an alignment", _SCORE, _SCORES, streams=False
            ),
            **_stores(),
            "/health": health,
            "/metrics": metrics,
            "/version": _get("The server's version", _object(("version",), version=_STRING)),
        },
    }

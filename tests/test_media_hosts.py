"""Media that a request names by URL: the in-process engine fetches only from hosts that the operator lists."""

from __future__ import annotations

from base64 import b64decode
from typing import Any

import httpx
import pytest
from engine_fixtures import CHAT_MODEL, InProcess
from pydantic import ValidationError
from running import listening
from waiting import HANG

from heedful.server.config import Config
from heedful.server.engines.vllm import start as vllm
from heedful.server.engines.vllm.media import NO_HOST, MediaHosts
from heedful.strategies import RequestError

LISTED = ["images.example", "Files.Example:8443", "[::1]", "xn--bcher-kva.example"]
PIXEL = (
    "data:image/png;base64,"
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
)
METADATA = "http://169.254.169.254/latest/meta-data/"


def _conversation(*parts: Any, role: str = "user") -> list[dict[str, Any]]:
    return [{"role": role, "content": [{"type": "text", "text": "What is it?"}, *parts]}]


def _image(url: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


@pytest.mark.parametrize(
    "url",
    [
        "http://images.example/a.png",
        "https://images.example/a.png?size=1#x",
        "HTTPS://IMAGES.example",
        "https://images.example:443/a.png",
        "https://files.example:8443/a.png",
        "http://[::1]/a.png",
        "http://xn--bcher-kva.example/a.png",
        "http://images.example/ä @ b\\c.png",  # behind the host everybody reads a path
        PIXEL,
        PIXEL.replace("data:", "DATA:"),
    ],
)
def test_what_is_listed_is_fetched(url: str) -> None:
    MediaHosts.of(LISTED).check(_conversation(_image(url)))


@pytest.mark.parametrize(
    "url",
    [
        METADATA,
        "http://other.example/a.png",
        "http://images.example.evil.example/a.png",
        "http://evil-images.example/a.png",
        "http://images.example./a.png",
        "http://images.example:22/",
        "https://images.example:80/",
        "https://files.example/a.png",
        "http://images.example@evil.example/",
        "http://images.example:80@evil.example/",
        "http://me:secret@images.example/",
        "http://evil.example\\@images.example/",
        "http://images.example\\.evil.example/",
        "http:\\\\images.example/",
        "http:/images.example/",
        "http:images.example/",
        "http:///images.example/",
        "http:////images.example/",
        "//images.example/a.png",
        "images.example/a.png",
        "http://bücher.example/",
        "http://images。example/",
        "http://ｉmages.example/",
        "http://images.example%2eevil.example/",
        "http://images.example%00.evil.example/",
        "http://images.example\x00.evil.example/",
        "http://images.example\t.evil.example/",
        "http://images.example\n",
        "http://images.example /",
        " http://images.example/",
        "\nhttp://images.example/",
        "ht\ntp://images.example/",
        "httpx://images.example/",
        "ftp://images.example/",
        "gopher://images.example/",
        "file:///etc/passwd",
        "FILE:///etc/passwd",
        "file:/etc/passwd",
        "/etc/passwd",
        "http://2130706433/",
        "http://0x7f000001/",
        "http://0177.0.0.1/",
        "http://127.1/",
        "http://[::ffff:127.0.0.1]/",
        "http://[0:0:0:0:0:0:0:1]/",
        "http://[::1%25eth0]/",
        "http://localhost/",
        "http://images.example:99999999/",
        "http://images.example:/",
        " data:image/png;base64,AA==",
        "blob:http://images.example/1",
        "javascript:1",
        "",
    ],
)
def test_every_other_spelling_is_refused(url: str) -> None:
    with pytest.raises(RequestError, match="media_hosts") as refused:
        MediaHosts.of(LISTED).check(_conversation(_image(url)))
    assert (refused.value.status, refused.value.param) == (400, "image_url")


@pytest.mark.parametrize(
    ("part", "field"),
    [
        ({"type": "audio_url", "audio_url": {"url": METADATA}}, "audio_url"),
        ({"type": "video_url", "video_url": {"url": METADATA}}, "video_url"),
        ({"type": "input_image", "image_url": METADATA}, "image_url"),
        # vLLM goes by the fields where there is no type, or an id.
        ({"image_url": METADATA}, "image_url"),
        ({"type": "text", "text": "a", "uuid": "1", "audio_url": METADATA}, "audio_url"),
        ({"type": "image_pil", "image_pil": METADATA}, "image_pil"),
        ({"type": "tool_result", "content": [_image(METADATA)]}, "image_url"),
        ([[_image(METADATA)]], "image_url"),
        (_image({"url": METADATA}), "image_url"),
    ],
)
@pytest.mark.parametrize("role", ["user", "system", "tool", "assistant"])
def test_wherever_it_stands(part: Any, field: str, role: str) -> None:
    with pytest.raises(RequestError) as refused:
        MediaHosts.of(LISTED).check([*_conversation(_image(PIXEL)), *_conversation(part, role=role)])
    assert refused.value.param == field


def test_a_text_that_holds_a_url_is_a_text() -> None:
    MediaHosts.of([]).check(
        [{"role": "user", "content": METADATA}, *_conversation({"type": "text", "text": METADATA})]
    )


def test_files_are_vllms_to_judge_where_it_was_given_a_folder() -> None:
    MediaHosts.of([], files=True).check(_conversation(_image("file:///srv/media/a.png")))


@pytest.mark.parametrize(
    "host", ["bücher.example", "http://a.example", "a.example/x", "*.example", "a b", "", "::1", "."]
)
def test_what_is_no_host_is_refused_at_the_start(host: str) -> None:
    with pytest.raises(ValidationError, match="media_hosts"):
        Config(media_hosts=[host])
    assert Config(media_hosts=LISTED).media_hosts == LISTED


# -- with vLLM


@pytest.mark.engine
@pytest.mark.parametrize("alignment", ["direct", "principles", "best_of_n"])
@pytest.mark.parametrize("url", [METADATA, "file:///etc/passwd", "http://localhost:1/"])
def test_nothing_is_fetched_by_default(chat_server: str, url: str, alignment: str) -> None:
    image, messages = _image(url), _conversation(_image(url))
    source = {"type": "image", "source": {"type": "url", "url": url}}
    asked: dict[str, list[dict[str, Any]]] = {
        "chat/completions": [{"messages": messages}, {"messages": messages, "stream": True}],
        "responses": [
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": url}]}]},
            {
                "input": [
                    {"type": "function_call", "call_id": "1", "name": "look", "arguments": "{}"},
                    {
                        "type": "function_call_output",
                        "call_id": "1",
                        "output": [{"type": "input_image", "image_url": url}],
                    },
                ]
            },
        ],
        "messages": [
            {"messages": [{"role": "user", "content": [source]}], "max_tokens": 1},
            {
                "messages": [
                    {
                        "role": "assistant",
                        "content": [{"type": "tool_use", "id": "1", "name": "look", "input": {}}],
                    },
                    {
                        "role": "user",
                        "content": [{"type": "tool_result", "tool_use_id": "1", "content": [source]}],
                    },
                ],
                "max_tokens": 1,
            },
        ],
        "messages/count_tokens": [{"messages": [{"role": "user", "content": [source]}]}],
        "alignment/score": [
            {"messages": [{"role": "tool", "tool_call_id": "1", "content": [image]}], "answers": ["a", "b"]}
        ],
    }
    if alignment == "best_of_n":
        del asked["alignment/score"]  # which takes no decoder
    for path, bodies in asked.items():
        for body in bodies:
            wish = {"model": CHAT_MODEL, "alignment": alignment, **body}
            answer = httpx.post(f"{chat_server}/v1/{path}", json=wish, timeout=HANG)
            assert answer.status_code == 400, (path, answer.text)
            assert "media_hosts in heedful.yaml" in answer.json()["error"]["message"], (path, answer.text)
            if not path.startswith("messages"):  # Anthropic's errors name no field but in their text
                error = answer.json()["error"]
                assert (error["param"], error["code"]) == ("image_url", "media_host_not_allowed"), path


@pytest.mark.engine
def test_data_urls_reach_the_model(chat_server: str) -> None:
    """This one sees nothing, and says so in vLLM's words."""
    body = {"model": CHAT_MODEL, "messages": _conversation(_image(PIXEL))}
    answer = httpx.post(f"{chat_server}/v1/chat/completions", json=body, timeout=HANG)
    assert answer.status_code == 400 and "multimodal" in answer.text and "media_hosts" not in answer.text


@pytest.mark.engine
def test_vllm_looks_as_well(in_process: InProcess) -> None:
    assert in_process.engine._client.model_config.allowed_media_domains == [NO_HOST]


@pytest.mark.engine
async def test_a_listed_host_sends_nobody_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM's own fetching, as this server sets it up: the image is fetched, a redirect to the same host is not."""
    pytest.importorskip("vllm")
    monkeypatch.delenv("VLLM_MEDIA_URL_ALLOW_REDIRECTS", raising=False)
    args = vllm.engine_arguments("m", "m", [], media_hosts=["127.0.0.1:1"])
    from vllm.multimodal.media.connector import MediaConnector

    asked: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        asked.append(scope["path"])
        moved = scope["path"] == "/moved"
        headers = [(b"location", b"/a.png")] if moved else [(b"content-type", b"image/png")]
        await send({"type": "http.response.start", "status": 302 if moved else 200, "headers": headers})
        await send(
            {"type": "http.response.body", "body": b"" if moved else b64decode(PIXEL.partition(",")[2])}
        )

    connector = MediaConnector(allowed_media_domains=args.allowed_media_domains)
    async with listening(app) as url:
        image = await connector.fetch_image_async(f"{url}/a.png")
        assert image.size == (1, 1)
        with pytest.raises(Exception):  # noqa: B017  whatever vLLM makes of an answer without an image
            await connector.fetch_image_async(f"{url}/moved")
        with pytest.raises(ValueError, match="allowed domains"):
            await connector.fetch_image_async(url.replace("127.0.0.1", "localhost"))
    assert asked == ["/a.png", "/moved"]

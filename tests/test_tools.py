"""The tools for agents, called by the real client of the Model Context Protocol."""

import asyncio
import json
import time
import urllib.request
from contextlib import asynccontextmanager

import numpy as np
import pytest
from site_fixtures import (
    data_url,
    png,
    post,
    red_quarters,
    released,
    running,
    send,
    tiny_service,
)

mcp = pytest.importorskip("mcp", reason="the package mcp is not installed: pip install '.[mcp]'")

# Gradio and its server warn about their own dependencies; none of it is ours to fix.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
LIMITS = {"max_bytes": 20_000, "max_pixels": 200_000, "max_batch": 2, "time_limit": 5.0}


@pytest.fixture(scope="module")
def site():
    service = tiny_service(**LIMITS, max_request_bytes=90_000, workers=1, max_waiting=1)
    with running(service) as (url, parts):
        yield url, parts


@asynccontextmanager
async def session(url):
    from mcp.client.streamable_http import streamablehttp_client

    async with (
        streamablehttp_client(f"{url}gradio_api/mcp/") as (read, write, _),
        mcp.ClientSession(read, write) as client,
    ):
        await client.initialize()
        yield client


def listed(url):
    async def run():
        async with session(url) as client:
            return (await client.list_tools()).tools

    return asyncio.run(run())


def call(url, name, arguments):
    """Whether it failed, its text, and what it holds for programs."""

    async def run():
        async with session(url) as client:
            return await client.call_tool(name, arguments)

    result = asyncio.run(run())
    return result.isError, result.content[0].text, result.structuredContent


def refused(site, name, arguments):
    """The kind of the refusal; nothing of it remains and no path of the server is in it."""
    url, parts = site
    failed, text, answer = call(url, name, arguments)
    assert failed
    assert text == f"{answer['error']['kind']}: {answer['error']['message']}"
    assert "Traceback" not in text
    assert released(parts)
    return answer["error"]["kind"]


def test_the_tools_are_the_documented_endpoints_and_explain_their_arguments(site):
    tools = {tool.name: tool for tool in listed(site[0])}
    assert list(tools) == ["predict", "predict_batch", "classify_crop", "model_info"]
    for tool in tools.values():
        assert len(tool.description) > 50
        for name, schema in tool.inputSchema["properties"].items():
            assert schema["description"], name
    picture = tools["predict"].inputSchema["properties"]["picture"]["description"]
    assert "0.02 MB" in picture
    assert "no other address" in picture
    assert tools["predict"].inputSchema["required"] == ["picture"]


def test_a_tool_answers_as_the_plain_endpoint_does(site):
    url, parts = site
    content = png(red_quarters(1))
    failed, text, answer = call(url, "classify_crop", {"picture": data_url(content)})
    assert not failed
    assert json.loads(text) == answer
    _, plain = post(url, "api/v1/classify_crop", {}, [("picture", content)])
    assert answer["faces"] == plain["faces"]
    two = {"picture": data_url(png(red_quarters(2))), "min_face": 50, "detector": "default"}
    assert len(call(url, "predict", two)[2]["faces"]) == 2
    assert call(url, "model_info", {})[2] == send(f"{url}api/v1/model_info")[1]
    assert len(parts.inbox) == 0
    assert released(parts)


def test_a_batch_of_tools_puts_errors_in_place(site):
    pictures = [data_url(png(red_quarters(1))), data_url(b"no picture")]
    failed, _, answer = call(site[0], "predict_batch", {"pictures": pictures})
    assert not failed
    assert [(e["error"] or {}).get("kind") for e in answer["pictures"]] == [None, "bad_picture"]
    assert refused(site, "predict_batch", {"pictures": pictures * 2}) == "bad_request"


def test_an_uploaded_file_is_used_once_by_path_or_by_its_address(site):
    url, parts = site
    content = png(red_quarters(1))
    for prefix in ("", f"{url}gradio_api/file="):
        _, (path,) = post(url, "gradio_api/upload", {}, [("files", content)])
        assert len(call(url, "predict", {"picture": prefix + path})[2]["faces"]) == 1
        assert len(parts.inbox) == 0
        assert refused(site, "predict", {"picture": prefix + path}) == "bad_request"


NOISE = np.random.default_rng(0).integers(0, 256, (120, 120, 3), np.uint8)


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        ({"picture": data_url(b"<html>not a picture</html>")}, "bad_picture"),
        ({"picture": "data:image/png;base64,???"}, "bad_picture"),
        ({"picture": data_url(png(NOISE))}, "too_large"),
        ({"picture": data_url(png(np.zeros((500, 500), np.uint8)))}, "bad_picture"),
        ({"picture": "http://127.0.0.1/photo.jpg"}, "bad_request"),
        ({"picture": "https://example.com/photo.jpg"}, "bad_request"),
        ({"picture": "/etc/passwd"}, "bad_request"),
        ({"picture": 7}, "bad_request"),
        ({"picture": []}, "bad_request"),
        ({"picture": [data_url(png(NOISE[:9]))] * 2}, "bad_request"),
        ({"picture": data_url(png(NOISE[:9])), "mood": "good"}, "bad_request"),
        ({"picture": data_url(png(NOISE[:9])), "detector": ["magic"]}, "bad_request"),
        ({"picture": data_url(png(NOISE[:9])), "min_face": "large"}, "bad_request"),
        ({}, "bad_request"),
    ],
)
def test_limits_hold_for_tools(site, arguments, kind):
    assert refused(site, "predict", arguments) == kind


def test_only_the_tools_are_there(site):
    for name in ("explain", "show", "lambda", "show_whole"):
        assert refused(site, name, {"picture": data_url(png(NOISE[:9]))}) == "bad_request"
    url = site[0]
    assert send(f"{url}gradio_api/mcp/")[0] == 405
    for path in ("sse", "schema", "messages/", "http"):
        assert send(f"{url}gradio_api/mcp/{path}")[0] == 404
    for method in ("resources/read", "prompts/get", "completion/complete", "logging/setLevel"):
        status, answer = raw(url, {"jsonrpc": "2.0", "id": 1, "method": method, "params": {}})
        assert status == 200
        assert "error" in answer


def raw(url, message):
    body = message if isinstance(message, bytes) else json.dumps(message).encode()
    headers = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
    return send(urllib.request.Request(f"{url}gradio_api/mcp", body, headers))


def test_bodies_that_are_no_message_are_refused(site, caplog):
    url, parts = site
    picture = data_url(png(red_quarters(1)))
    request = {"jsonrpc": "2.0", "id": 1, "method": "tools/call"}
    assert raw(url, b"{no json")[0] == 400
    assert raw(url, b"[1, 2]")[0] == 400
    assert raw(url, b" " * 100_000)[0] == 413
    no_name, no_words = {"arguments": picture}, {"name": 3, "arguments": {"picture": picture}}
    nested = {"name": "predict", "arguments": [[[[[[1]]]]]]}
    for params in (nested, no_name, no_words, picture):
        _, answer = raw(url, {**request, "params": params})
        assert "result" not in answer
        assert "Traceback" not in json.dumps(answer)
    # What no tool was given goes with the next sweep; no picture is in the log.
    parts.inbox.sweep(older_than=-1)
    assert released(parts)
    assert picture[30:60] not in caplog.text


def test_a_full_queue_answers_busy(site, monkeypatch):
    url, parts = site
    monkeypatch.setattr(parts.gate, "pending", parts.gate.capacity)
    status, answer = raw(url, {"jsonrpc": "2.0", "id": 1, "method": "tools/list"})
    assert (status, answer["error"]["kind"]) == (503, "busy")


def test_a_slow_tool_ends_at_the_time_limit_and_an_error_of_ours_tells_nothing(site, monkeypatch):
    url, parts = site
    detector = parts.service.pipeline.detector
    picture = {"picture": data_url(png(red_quarters(1)))}
    monkeypatch.setattr(parts.gate, "_time_limit", 0.2)
    plain = detector.detect

    def slow(image, reduction=1):
        time.sleep(0.5)
        return plain(image)

    monkeypatch.setattr(detector, "detect", slow)
    assert refused(site, "predict", picture) == "timeout"

    def broken(*_):
        raise RuntimeError("/srv/secret is full")

    monkeypatch.setattr(parts.gate, "_time_limit", 5.0)
    monkeypatch.setattr(detector, "detect", broken)
    while parts.gate.pending:
        time.sleep(0.01)
    failed, text, _ = call(url, "predict", picture)
    assert failed
    assert text.startswith("internal: ")
    assert "secret" not in text

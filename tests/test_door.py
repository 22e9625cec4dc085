"""What strangers send and how it is refused: methods, fields, heads, prefixes, ports, floods."""

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from site_fixtures import (
    data_url,
    gradio_call,
    png,
    post,
    post_json,
    red_quarters,
    released,
    running,
    send,
    tiny_service,
)

import app
from page.server import bind

ROOT = Path(__file__).resolve().parents[1]
PICTURE = png(red_quarters(1))

# Gradio and its server warn about their own dependencies; none of it is ours to fix.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def url(site):
    return site[0]


def headers(url, method="GET", body=None, **given):
    request = urllib.request.Request(url, body, given, method=method)
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, answer.headers
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers


@pytest.mark.parametrize(
    ("path", "status", "kind"),
    [
        ("predict", 405, "not_allowed"),
        ("explain", 405, "not_allowed"),
        ("pridect", 404, "not_found"),
        ("", 404, "not_found"),
    ],
)
def test_what_the_api_has_not_is_said_in_its_own_words(url, path, status, kind):
    found, answer = send(f"{url}api/v1/{path}")
    assert (found, answer["error"]["kind"], answer["api_version"]) == (status, kind, "1")


def test_an_unknown_endpoint_of_gradios_protocol_is_refused(url):
    for way in ("run", "api", "call", "call/v2"):
        status, answer = post_json(url, f"gradio_api/{way}/pridect", {"data": []})
        assert (status, answer["error"]["kind"]) == (404, "not_found")


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("call/v2/predict", {"photo": 1}, "only these arguments: picture, detector, min_face"),
        ("call/v2/predict", {"picture": [data_url(PICTURE)] * 2}, "one picture, came more"),
        ("call/v2/model_info", {"x": 1}, "only these arguments: none"),
        ("call/v2/predict", ["x"], "a JSON object"),
        ("queue/join", {"data": [], "fn_index": 999, "session_hash": "a"}, "number of an event"),
        ("queue/join", {"data": [], "fn_index": [], "session_hash": "a"}, "number of an event"),
    ],
)
def test_calls_that_gradio_would_fail_at_are_refused_in_words(url, path, body, words):
    status, answer = post_json(url, f"gradio_api/{path}", body)
    assert (status, answer["error"]["kind"]) == (400, "bad_request")
    assert words in answer["error"]["message"]


def test_what_a_call_by_names_leaves_out_has_its_default(url):
    for body, event, words in (
        ({"picture": {"url": data_url(PICTURE)}}, b"event: complete", b'"faces"'),
        ({}, b"event: error", b"no picture came"),
        ({"picture": []}, b"event: error", b"expected one picture, came 0"),
    ):
        _, answer = post_json(url, "gradio_api/call/v2/predict", body)
        with urllib.request.urlopen(f"{url}gradio_api/call/predict/{answer['event_id']}") as found:
            text = found.read()
        assert event in text and words in text


def test_the_address_of_a_call_decides_what_is_called(url):
    for number in (0, 999):
        body = {"data": [], "fn_index": number}
        _, answer = post_json(url, "gradio_api/run/model_info", body)
        assert answer["data"][0]["api_version"] == "1"


def test_methods_that_nobody_needs_are_refused(url):
    for method in ("PUT", "DELETE", "PATCH"):
        request = urllib.request.Request(f"{url}api/v1/predict", method=method)
        assert send(request)[1]["error"]["kind"] == "not_allowed"
        assert headers(f"{url}login", method)[0] == 405
    assert headers(f"{url}login", "POST", b"x" * 1_000)[0] == 404


@pytest.mark.parametrize(
    ("name", "method", "allowed"),
    [
        ("predict", "GET", "POST"),
        ("predict", "PUT", "POST"),
        ("model_info", "POST", "GET, HEAD"),
        ("model_info", "DELETE", "GET, HEAD"),
        ("openapi.json", "POST", "GET, HEAD"),
    ],
)
def test_a_refused_method_is_answered_with_those_that_are_allowed(url, name, method, allowed):
    status, found = headers(f"{url}api/v1/{name}", method)
    assert (status, found["Allow"]) == (405, allowed)


def test_an_unknown_endpoint_is_answered_with_those_there_are(url):
    words = send(f"{url}api/v1/pridect")[1]["error"]["message"]
    named = words.removeprefix("expected an endpoint of: ").split(", ")
    assert named == ["predict", "predict_batch", "classify_crop", "explain", "model_info"]


def test_a_form_with_two_images_for_one_says_so(url):
    status, answer = post(url, "api/v1/predict", {}, [("picture", PICTURE)] * 2)
    assert status == 400
    assert "holds more than one file" in answer["error"]["message"]


@pytest.mark.parametrize("name", ["predict", "classify_crop"])
def test_unknown_form_fields_are_refused(url, name):
    status, answer = post(url, f"api/v1/{name}", {"minface": "3"}, [("picture", PICTURE)])
    assert (status, answer["error"]["kind"]) == (400, "bad_request")
    assert "'minface'" in answer["error"]["message"]
    status, _ = post(url, f"api/v1/{name}", {}, [("picture", PICTURE), ("mask", PICTURE)])
    assert status == 400


def test_text_in_the_field_of_a_picture_is_refused(url):
    status, answer = post(url, "api/v1/predict", {"picture": "text"}, [("picture", PICTURE)])
    assert (status, answer["error"]["kind"]) == (400, "bad_request")
    assert "a file in the field 'picture'" in answer["error"]["message"]


def test_every_answer_forbids_guessing_its_type(url):
    for path in ("", "health", "api/v1/predict", "gradio_api/info", "nothing/here", "theme.css"):
        assert headers(url + path)[1]["X-Content-Type-Options"] == "nosniff", path


def test_uploads_that_are_no_images_are_shown_as_bytes(url, site):
    _, (token,) = post(url, "gradio_api/upload", {}, [("files", b"<script>alert(1)</script>")])
    kind = headers(f"{url}gradio_api/file={token}")[1]["content-type"]
    assert kind == "application/octet-stream"
    site[1].inbox.drop(token)


def test_a_collection_is_uploaded_in_one_form(site):
    url, parts = site
    most = parts.service.limits.max_collection
    status, tokens = post(url, "gradio_api/upload", {}, [("files", PICTURE)] * most)
    assert (status, len(set(tokens))) == (200, most)
    assert post(url, "gradio_api/upload", {}, [("files", PICTURE)] * (most + 1))[0] == 400
    for token in tokens:
        parts.inbox.drop(token)
    assert released(parts)


def test_browsers_elsewhere_may_use_plain_http(url):
    status, found = headers(
        f"{url}api/v1/predict",
        "OPTIONS",
        **{"Origin": "https://a.test", "Access-Control-Request-Method": "POST"},
    )
    assert status == 200
    assert "POST" in found["Access-Control-Allow-Methods"]
    for path in ("api/v1/model_info", "api/v1/predict"):
        found = headers(url + path, Origin="https://a.test")[1]
        assert found["Access-Control-Allow-Origin"] == "*"
        assert "Access-Control-Allow-Credentials" not in found


def test_the_description_fits_what_is_served(url):
    jsonschema = pytest.importorskip("jsonschema")
    status, document = send(f"{url}api/v1/openapi.json")
    assert status == 200
    answers = {
        "predict": post(url, "api/v1/predict", {}, [("picture", PICTURE)]),
        "predict_batch": post(
            url, "api/v1/predict_batch", {}, [("pictures", PICTURE), ("pictures", b"none")]
        ),
        "classify_crop": post(url, "api/v1/classify_crop", {}, [("picture", PICTURE)]),
        "explain": post(url, "api/v1/explain", {"task": "age"}, [("picture", PICTURE)]),
        "Error": post(url, "api/v1/predict", {}, [("picture", b"none")]),
    }
    for name, (_, answer) in answers.items():
        schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
        jsonschema.validate(answer, schema)
    for path, methods in document["paths"].items():
        for method, entry in methods.items():
            status, _ = headers(
                url.rstrip("/") + path, method.upper(), b"" if method == "post" else None
            )
            assert status in (200, 400), path
            form = entry.get("requestBody")
            if form is None:
                continue
            schema = form["content"]["multipart/form-data"]["schema"]
            field = schema["required"][0]
            fields = {"task": "age"} if "task" in schema["properties"] else {}
            assert post(url.rstrip("/"), path, fields, [(field, PICTURE)])[0] == 200


@pytest.mark.parametrize(
    ("given", "root"),
    [("/faces", "/faces"), ("/a/b/", "/a/b"), ("", ""), ("faces", ""), ('/"><script>', "")],
)
def test_the_page_finds_itself_at_the_path_of_a_proxy(url, given, root):
    request = urllib.request.Request(url, headers={"X-Forwarded-Prefix": given})
    with urllib.request.urlopen(request) as answer:
        page = answer.read().decode()
    assert re.search(r'"root":"([^"]*)"', page)[1] == url.rstrip("/") + root
    request = urllib.request.Request(f"{url}config", headers={"X-Forwarded-Prefix": given})
    assert send(request)[1]["root"] == url.rstrip("/") + root


def test_uploads_and_calls_work_behind_a_prefix(url):
    given = {"X-Forwarded-Prefix": "/faces", "Content-Type": "application/json"}
    _, (token,) = post(url, "gradio_api/upload", {}, [("files", PICTURE)])
    body = json.dumps({"data": [{"path": token}]}).encode()
    status, answer = send(urllib.request.Request(f"{url}gradio_api/run/predict", body, given))
    assert (status, len(answer["data"][0]["faces"])) == (200, 1)
    _, health = send(urllib.request.Request(f"{url}health", headers=given))
    assert health["status"] == "ok"


def half_head(url, text=b"GET /health HTTP/1.1\r\nX-Slow: "):
    host, port = url.removeprefix("http://").rstrip("/").split(":")
    stream = socket.create_connection((host, int(port)), timeout=20)
    stream.sendall(text)
    return stream


def test_half_sent_heads_are_closed_and_others_served_meanwhile():
    with running(tiny_service(head_time=1.0)) as (url, _):
        streams = [half_head(url) for _ in range(50)] + [half_head(url, b"") for _ in range(5)]
        # An answered connection has its time anew for the next head.
        again = half_head(url, b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert again.recv(9_000).startswith(b"HTTP/1.1 200")
        again.sendall(b"GET /health HTTP/1.1\r\nX-Slow: ")
        assert send(f"{url}health")[0] == 200
        for stream in [*streams, again]:
            answer = stream.recv(9_000)
            while b"408" not in answer:
                more = stream.recv(9_000)
                assert more, "closed without a reason"
                answer += more
            assert stream.recv(10) == b""
            stream.close()
        assert post(url, "api/v1/predict", {}, [("picture", PICTURE)])[0] == 200


def test_a_body_may_take_longer_than_a_head():
    with running(tiny_service(head_time=1.0)) as (url, _):
        body = b"x" * 20
        head = f"POST /api/v1/predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        stream = half_head(url, head.encode())
        time.sleep(1.5)
        stream.sendall(body)
        assert stream.recv(9_000).startswith(b"HTTP/1.1 400")
        stream.close()


FLOODS = {
    "data URLs": {"data": [["data:image/png;base64,AAAA"] * 1_000]},
    "empty data URLs": {"data": [["data:,"] * 20_000]},
    "paths": {"data": [[{"path": "x"}] * 20_000]},
    "long strings": {"data": ["x" * 3_000_000]},
    "nested lists": {"data": json.loads("[" * 400 + "]" * 400)},
}


@pytest.mark.parametrize(
    ("endpoint", "for_urls", "for_nested"),
    # Gradio tells of an event's error later, of a direct call's as 500.
    [
        ("call/predict", 200, 400),
        ("call/predict_batch", 200, 400),
        ("run/predict", 500, 400),
        ("cancel", 422, 422),
    ],
)
@pytest.mark.parametrize("name", FLOODS)
def test_floods_of_json_hold_nothing_and_close_nothing(site, name, endpoint, for_urls, for_nested):
    url, parts = site
    status, answer = post_json(url, f"gradio_api/{endpoint}", FLOODS[name])
    assert status == {"data URLs": for_urls, "nested lists": for_nested}.get(name, 413)
    if status == 200:
        with urllib.request.urlopen(f"{url}gradio_api/{endpoint}/{answer['event_id']}") as stream:
            assert b"event: error" in stream.read()
    if status == 500:
        assert answer["error"] == "expected one picture, came more"
    assert released(parts)
    assert post(url, "gradio_api/upload", {}, [("files", PICTURE)])[0] == 200
    parts.inbox.sweep(older_than=-1)


def test_images_of_a_call_that_gradio_refuses_are_forgotten(site):
    url, parts = site
    body = {"data": [{"url": data_url(PICTURE)}], "fn_index": 10_000}
    assert post_json(url, "gradio_api/queue/join", body)[0] >= 400
    assert post_json(url, "gradio_api/call/no_such_thing", body)[0] >= 400
    assert released(parts)
    assert gradio_call(url, "predict", [data_url(PICTURE)])[0] == "complete"


@pytest.mark.parametrize("port", ["99999", "-1", "http", "7.5", "\u0663"])
def test_a_port_that_is_none_is_said_without_a_traceback(port, monkeypatch):
    monkeypatch.setenv("GRADIO_SERVER_PORT", port)
    with pytest.raises(SystemExit, match="^error: .*whole number from 0 to 65535"):
        app.main()


@pytest.mark.slow
def test_a_taken_port_is_said_before_anything_claims_to_serve():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match="address already in use; choose another"):
            bind("127.0.0.1", port)
        environment = {**os.environ, "GRADIO_SERVER_PORT": str(port)}
        done = subprocess.run(
            [sys.executable, "app.py"],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.splitlines()[-1].startswith(f"error: cannot serve on 127.0.0.1:{port}")

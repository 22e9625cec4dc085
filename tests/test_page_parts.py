"""Limits, gate, uploads and fetching, each alone; documents and scripts of the page."""

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from site_fixtures import data_url, png, red_quarters, tiny_service

import app
from faceattr.detection import MIN_FACE
from faceattr.hub import WeightsFiles, find_beside
from faceattr.labels import TASKS
from page import server
from page.admission.body import Body
from page.admission.gate import Gate
from page.admission.gradio_private import check
from page.admission.inbox import SAFE_S, Inbox
from page.admission.json_body import JsonBody
from page.calls import Calls
from page.endpoints import SCHEMAS
from page.errors import RequestError
from page.limits import Limits
from page.view.blocks import build_page
from page.view.report import read_licence, read_report
from page.view.texts import ADDRESS

ROOT = Path(__file__).resolve().parents[1]
NODE_MODULES = ROOT / "tests" / "node_modules"
SNIPPETS = {
    language: re.findall(
        rf"^```{language}\n(.*?)^```$", (ROOT / "docs" / "api.md").read_text(), re.M | re.S
    )
    for language in ("python", "bash", "js", "json")
}
"""What the document tells to copy, in its order."""

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def test_limits_come_from_the_environment():
    names = [f"FACEATTR_{item.name.upper()}" for item in fields(Limits)]
    document = (ROOT / "docs" / "api.md").read_text()
    assert all(f"| `{name}` |" in document for name in names)
    values = {"FACEATTR_TIME_LIMIT": "2.5"}
    limits = Limits.from_env({name: values.get(name, "7") for name in names})
    assert (limits.time_limit, limits.max_bytes) == (2.5, 7)
    assert Limits.from_env({"FACEATTR_MAX_BYTES": " "}) == Limits()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("FACEATTR_MAX_FACES", "many"),
        ("FACEATTR_MAX_FACES", "0"),
        ("FACEATTR_WORKERS", "-1"),
        ("FACEATTR_MAX_WAITING", "-1"),
        ("FACEATTR_TIME_LIMIT", "nan"),
    ],
)
def test_a_wrong_limit_is_named(name, text):
    with pytest.raises(ValueError, match=name):
        Limits.from_env({name: text})


def test_the_least_face_of_the_api_is_the_librarys():
    assert SCHEMAS["min_face"]["minimum"] == SCHEMAS["min_face"]["default"] == MIN_FACE


def test_the_gate_refuses_at_once_what_it_has_no_room_for():
    async def scenario():
        gate, release = Gate(1, 1, 100.0), threading.Event()
        running_, waiting = (asyncio.create_task(gate.run(release.wait)) for _ in range(2))
        await asyncio.sleep(0)
        with pytest.raises(RequestError, match="busy, try again"):
            await gate.run(lambda: None)
        assert not (running_.done() or waiting.done())
        release.set()
        assert await running_
        assert await waiting
        await asyncio.sleep(0.05)
        assert await gate.run(lambda: 3) == 3
        gate.close()

    asyncio.run(scenario())


def test_work_past_its_time_keeps_its_place_until_it_ends():
    async def scenario():
        gate, release = Gate(1, 0, 0.1), threading.Event()
        with pytest.raises(RequestError, match=r"no answer within 0\.1 s"):
            await gate.run(release.wait)
        assert gate.full
        release.set()
        assert await gate.drained(1.0)
        assert gate.full
        gate.close()

    asyncio.run(scenario())


def test_a_call_waits_as_long_as_the_line_moves():
    async def scenario():
        gate = Gate(1, 8, 0.3)
        # Together they take thrice the limit, each a third of it.
        answers = await asyncio.gather(*(gate.run(lambda: time.sleep(0.1) or 7) for _ in range(9)))
        assert answers == [7] * 9
        gate.close()

    asyncio.run(scenario())


def test_a_call_is_given_up_where_the_line_stands_still():
    async def scenario():
        gate, release = Gate(1, 1, 0.2), threading.Event()
        stuck, waiting = (asyncio.create_task(gate.run(release.wait)) for _ in range(2))
        for call in (stuck, waiting):
            with pytest.raises(RequestError, match=r"no answer within 0\.2 s"):
                await call
        release.set()
        assert await gate.drained(1.0)
        gate.close()

    asyncio.run(scenario())


def test_work_that_outlives_its_server_says_nothing(caplog):
    release = threading.Event()

    async def scenario():
        gate = Gate(1, 0, 5.0)
        asyncio.create_task(gate.run(release.wait))  # noqa: RUF006
        await asyncio.sleep(0.05)
        return gate

    gate = asyncio.run(scenario())
    gate.close()
    release.set()
    for thread in threading.enumerate():
        if thread.name.startswith("faces"):
            thread.join(10)
    assert caplog.text == ""


def test_uploads_are_read_once_and_swept():
    inbox = Inbox(Limits(max_bytes=100))
    token = inbox.put(b"abc")
    assert inbox.peek(token) == b"abc"
    assert inbox.take(token) == b"abc"
    with pytest.raises(RequestError, match="upload it again"):
        inbox.take(token)
    inbox.put(b"abc")
    inbox.sweep(older_than=60)
    assert len(inbox) == 1
    inbox.sweep(older_than=-1)
    assert (len(inbox), inbox.held) == (0, 0)
    with pytest.raises(RequestError, match="at most 100 bytes"):
        inbox.put(bytes(101))


def test_uploads_that_nobody_uses_make_room_for_others_after_a_while(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    inbox = Inbox(Limits(max_bytes=10_000, max_held_bytes=10_000))
    inbox.put(bytes(4_500))
    recent = inbox.put(bytes(4_500))
    with pytest.raises(RequestError, match="too many pictures"):
        inbox.put(bytes(4_500))
    now[0] = SAFE_S + 1
    inbox.put(bytes(4_500))
    assert inbox.peek(recent) is None
    assert inbox.held == 4_500


def test_uploads_of_a_request_that_waits_in_line_stay(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    inbox = Inbox(Limits(max_bytes=10_000, max_held_bytes=10_000))
    token = inbox.put(b"a" * 9_000)
    (source,) = inbox.sources({"path": token})
    now[0] = 1_000.0
    inbox.sweep()
    with pytest.raises(RequestError, match="too many pictures"):
        inbox.put(bytes(4_500))
    assert source() == b"a" * 9_000
    assert len(inbox) == 0


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        ("/etc/passwd", "upload the picture first"),
        ({"path": "upload-../../etc/passwd"}, "upload the picture first"),
        ({"url": "http://127.0.0.1/x.jpg"}, "fetches no pictures"),
        ("https://example.com/x.jpg", "fetches no pictures"),
        (None, "no picture came"),
        ({"path": 3}, "no picture came"),
    ],
)
def test_only_tokens_of_uploads_count_as_uploads(payload, words):
    inbox = Inbox(Limits())
    assert words in str(inbox.sources(payload)[0])


def letter(content, parts, most=2, limits=None):
    """A JSON body in parts of so many bytes: what is left of it, and the images it had."""
    limits = limits or Limits()
    inbox = Inbox(limits)
    pieces = [content[i : i + parts] for i in range(0, len(content), parts)]
    messages = [{"type": "http.request", "body": p, "more_body": True} for p in pieces]
    messages.append({"type": "http.request", "body": b"", "more_body": False})

    async def receive():
        return messages.pop(0)

    async def read():
        body = Body(receive, limits, inbox)
        found = JsonBody(body, inbox, most)
        return json.loads(await found.read()), found.tokens

    rest, tokens = asyncio.run(read())
    return rest, tokens, inbox


@pytest.mark.parametrize("parts", [1, 2, 3, 7, 1_000])
def test_images_are_taken_out_of_json_wherever_it_is_cut(parts):
    words = 'a "quoted" \\ data:x \u00fc'
    value = {"data": [data_url(b"one"), {"url": data_url(b"other"), "words": words}, 'data"']}
    rest, tokens, inbox = letter(json.dumps(value).encode(), parts)
    first, second = tokens
    assert rest == {"data": [first, {"url": second, "words": words}, 'data"']}
    assert [inbox.take(token) for token in tokens] == [b"one", b"other"]


def test_slashes_that_json_escapes_are_read():
    content = bytes(range(256)) * 3
    text = json.dumps({"data": [data_url(content)]}).replace("/", "\\/")
    _, (token,), inbox = letter(text.encode(), 50)
    assert inbox.take(token) == content


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"data": ["x" * 70_000]}, "at most 64,000 bytes of JSON"),
        ({"data": ["data:,"] * 3_000}, "at most 64,000 bytes of JSON"),
        ({"data": ['data:,a"b']}, "not valid base64"),
    ],
)
def test_json_that_is_too_much_is_refused_while_it_comes(value, words):
    with pytest.raises(RequestError, match=words):
        letter(json.dumps(value).encode(), 1_000)


def test_of_more_images_than_a_call_may_have_nothing_is_held():
    rest, tokens, inbox = letter(json.dumps([data_url(b"x" * 9)] * 5).encode(), 10)
    assert (len(rest), len(tokens), len(inbox)) == (5, 2, 2)
    with pytest.raises(RequestError, match="gone"):
        inbox.take(rest[4])


def test_json_that_ends_early_is_refused():
    for text in (b'{"data": ["data:image/png;base64,AAAA', b'{"data": ["x', b'{"data": "data'):
        with pytest.raises(RequestError, match="not JSON"):
            letter(text, 4)


def test_a_data_url_that_is_too_large_is_not_held():
    limits = Limits(max_bytes=600)
    _, (token,), inbox = letter(json.dumps([data_url(bytes(30_000))]).encode(), 64, limits=limits)
    with pytest.raises(RequestError, match="at most 600 bytes"):
        inbox.take(token)


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
        max_leaves=12,
    ),
    st.integers(1, 40),
    st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_json_without_images_stays_what_it_was(value, parts, ascii_only):
    text = json.dumps({"x": value}, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    if b"data:" not in text:
        assert letter(text, parts)[0] == json.loads(text)


def test_what_gradio_moved_is_named_with_the_version_to_install():
    demo = build_page(Calls(tiny_service(), None, Inbox(Limits())))
    check(demo)
    del demo._queue.event_ids_to_events
    with pytest.raises(RuntimeError, match=r"Queue.*event_ids_to_events.*gradio~=6\.31\.0"):
        check(demo)


def test_reports_and_licences_are_read_where_there_are_any(tmp_path):
    files = WeightsFiles(tmp_path / "config.json", tmp_path / "model.safetensors", "local")
    assert find_beside(files, "report.json") is None
    assert read_report(files) is None
    assert read_licence(files) is None
    (tmp_path / "report.json").write_text('{"overall": {}}')
    (tmp_path / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n")
    assert read_report(files) == {"overall": {}}
    assert read_licence(files) == "cc-by-4.0"
    for damaged in ("[1]", "{", "\ufffd"):
        (tmp_path / "report.json").write_text(damaged)
        assert read_report(files) is None


def example(text):
    return json.loads(re.search(r"<details>.*?```json\n(.*?)```", text, re.S)[1])


def without_example(text):
    return re.sub(r"<details>.*?</details>", "", text, flags=re.S)


@pytest.mark.slow
def test_the_api_document_is_what_the_command_writes(tmp_path):
    script = ROOT / "scripts" / "write_api_docs.py"
    output = tmp_path / "api.md"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("FACEATTR_")}
    command = [sys.executable, script, "--output", output]
    subprocess.run(command, check=True, env=environment)
    written, stored = output.read_text(), (ROOT / "docs" / "api.md").read_text()
    assert without_example(written) == without_example(stored)
    # Times differ from run to run, and probabilities a little from machine to machine.
    (face,), (shown,) = (example(text)["faces"] for text in (written, stored))
    for task in TASKS:
        shares = face[task.name]["probabilities"]
        assert shares == pytest.approx(shown[task.name]["probabilities"], abs=0.003)


def test_the_pages_help_names_every_variable_that_it_reads(capsys):
    with pytest.raises(SystemExit) as stopped:
        app.main(["--help"])
    assert stopped.value.code == 0
    out = capsys.readouterr().out
    named = set(re.findall(r"^  ((?:FACEATTR|GRADIO)_[A-Z_]+) ", out, re.M))
    asked = set()

    class Environment(dict):
        def get(self, name, default=None):
            asked.add(name)
            return super().get(name, default)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.environ", Environment(FACEATTR_DETECTOR="haar"))
        Limits.from_env(os.environ)
        app.load_pipeline()
        app.address()
    assert {name for name in asked if name.startswith(("FACEATTR_", "GRADIO_"))} == named


def test_the_page_takes_no_arguments_and_says_what_to_set_instead(capsys):
    with pytest.raises(SystemExit) as stopped:
        app.main(["--port", "80"])
    assert stopped.value.code == 2
    err = capsys.readouterr().err
    assert "expected no arguments, came --port 80; settings are environment variables" in err


@pytest.fixture(scope="module")
def address(site):
    return site[0].rstrip("/")


@pytest.fixture
def folder(tmp_path):
    for name in ("photo.jpg", "other.jpg", "face.jpg"):
        (tmp_path / name).write_bytes(png(red_quarters(2)))
    return tmp_path


def ran(command, folder, **options):
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, timeout=120, **options
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("installed", [None, "2.1.0"])
def test_without_a_fitting_mcp_the_page_runs_without_tools(monkeypatch, tmp_path, installed):
    def version(_):
        if installed is None:
            raise server.PackageNotFoundError
        return installed

    monkeypatch.setattr(server, "version", version)
    assert server.make_tools(Calls(tiny_service(), None, None)) is None


def test_the_python_snippet_runs_as_it_is(address, folder):
    code = SNIPPETS["python"][0].replace(ADDRESS, address)
    lines = ran([sys.executable, "-W", "ignore", "-c", code], folder).splitlines()
    assert [line.split()[0] for line in lines if line[0].isdigit()] == ["1", "2", "0", "1"]
    assert "0 2" in lines


def test_the_snippet_for_tools_runs_as_it_is(address, folder):
    pytest.importorskip("mcp", reason="the package mcp is not installed: pip install '.[mcp]'")
    code = SNIPPETS["python"][1].replace(ADDRESS, address)
    answer = json.loads(ran([sys.executable, "-W", "ignore", "-c", code], folder))
    assert len(answer["faces"]) == 2
    server = json.loads(SNIPPETS["json"][0])["mcpServers"]["faceattr"]["url"]
    assert f'"{server}"' in SNIPPETS["python"][1]


def test_the_curl_snippets_run_as_they_are(address, folder):
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    text = ran(["bash", "-c", SNIPPETS["bash"][0].replace(ADDRESS, address)], folder)
    answers = [json.loads(part) for part in re.sub(r"\}\{", "}\n{", text).splitlines()]
    assert len(answers[0]["faces"]) == 2
    assert [len(entry["faces"]) for entry in answers[1]["pictures"]] == [2, 2]
    assert answers[2]["faces"][0]["score"] is None
    assert "tasks" in answers[3]
    steps = ran(["bash", "-c", SNIPPETS["bash"][1].replace(ADDRESS, address)], folder)
    assert steps.startswith("event: complete")


def test_the_javascript_snippet_runs_as_it_is(address, folder):
    if shutil.which("node") is None or not (NODE_MODULES / "@gradio" / "client").is_dir():
        pytest.skip("@gradio/client is not installed; run: npm install --prefix tests")
    (folder / "node_modules").symlink_to(NODE_MODULES)
    (folder / "snippet.mjs").write_text(SNIPPETS["js"][0].replace(ADDRESS, address))
    lines = ran(["node", "snippet.mjs"], folder).splitlines()
    assert [line.split()[0] for line in lines] == ["1", "2"]


@pytest.mark.slow
def test_the_load_test_counts_answers_and_finds_none_wrong(address, folder):
    for way in ("http", "gradio"):
        command = [sys.executable, ROOT / "scripts" / "load_test.py", "photo.jpg", "other.jpg"]
        command += ["--url", address, "--way", way, "--clients", "4", "--requests", "24"]
        command += ["--warm-up", "4", "--pid", str(os.getpid()), "--output", "out.json"]
        ran(command, folder)
        result = json.loads((folder / "out.json").read_text())
        assert (result["answered"], result["wrong"], result["errors"]) == (24, 0, {})
        assert result["latency_ms"]["p50"] <= result["latency_ms"]["p99"]
        assert result["memory_mb"]["before"] > 0

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
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
from site_fixtures import png, red_quarters, tiny_service

from faceattr.hub import WeightsFiles, find_beside
from page import server
from page.admission import remote
from page.admission.body import Budget
from page.admission.gate import Gate
from page.admission.intake import Intake, to_source
from page.admission.uploads import Uploads
from page.errors import RequestError
from page.limits import Limits
from page.server import running
from page.view.report import read_licence, read_report
from page.view.snippets import ADDRESS, AGENT_PYTHON, AGENTS, GRADIO_CURL, SNIPPETS
from scripts.measure_batching import Together

ROOT = Path(__file__).resolve().parents[1]
NODE_MODULES = ROOT / "tests" / "node_modules"

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def test_limits_come_from_the_environment():
    names = {item.metadata["variable"]: item.name for item in fields(Limits)}
    values = {"FACEATTR_REMOTE_URLS": "on", "FACEATTR_TIME_LIMIT": "2.5"}
    limits = Limits.from_env({name: values.get(name, "7") for name in names})
    assert (limits.remote_urls, limits.time_limit, limits.max_bytes) == (True, 2.5, 7)
    assert Limits.from_env({"FACEATTR_MAX_BYTES": " "}) == Limits()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("FACEATTR_MAX_FACES", "many"),
        ("FACEATTR_MAX_FACES", "0"),
        ("FACEATTR_WORKERS", "-1"),
        ("FACEATTR_MAX_WAITING", "-1"),
        ("FACEATTR_TIME_LIMIT", "nan"),
        ("FACEATTR_REMOTE_URLS", "maybe"),
    ],
)
def test_a_wrong_limit_is_named(name, text):
    with pytest.raises(ValueError, match=name):
        Limits.from_env({name: text})


def test_the_gate_refuses_at_once_what_it_has_no_room_for():
    async def scenario():
        gate, release = Gate(1, 1, 5.0), threading.Event()
        running_, waiting = (asyncio.create_task(gate.run(release.wait)) for _ in range(2))
        await asyncio.sleep(0)
        start = time.perf_counter()
        with pytest.raises(RequestError, match="busy, try again"):
            await gate.run(lambda: None)
        assert time.perf_counter() - start < 0.05
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


def test_uploads_are_read_once_and_swept(tmp_path):
    uploads = Uploads(tmp_path / "up", 100, Budget(1_000_000))
    path = uploads.save(b"abc", "../../evil\\..\\na me.jpg")
    assert path.name == "na_me.jpg"
    assert uploads.holds(str(path))
    assert uploads.take(str(path)) == b"abc"
    with pytest.raises(RequestError, match="upload it again"):
        uploads.take(str(path))
    uploads.save(b"abc", "..")
    uploads.sweep(older_than=60)
    assert len(list(uploads.folder.iterdir())) == 1
    uploads.sweep(older_than=-1)
    assert list(uploads.folder.iterdir()) == []
    with pytest.raises(RequestError, match="at most 100 bytes"):
        uploads.save(bytes(101), "x")


@pytest.mark.parametrize("path", ["/etc/passwd", "x", "", "\0", "up", "up/a", "up/../secret/x"])
def test_only_paths_of_uploads_count_as_uploads(tmp_path, path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "x").write_text("secret")
    uploads = Uploads(tmp_path / "up", 100, Budget(1_000_000))
    assert not uploads.holds(path)
    with pytest.raises(RequestError, match="upload the picture first"):
        uploads.take(path)


def test_a_link_out_of_the_uploads_is_not_followed(tmp_path):
    uploads = Uploads(tmp_path / "up", 100, Budget(1_000_000))
    secret = tmp_path / "secret"
    secret.write_text("secret")
    path = uploads.save(b"abc", "picture")
    path.unlink()
    path.symlink_to(secret)
    with pytest.raises(RequestError):
        uploads.take(str(path))
    assert secret.exists()


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/",
        "http://localhost:80/",
        "http://[::1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://10.0.0.1/",
        "http://100.64.0.1/",
        "http://169.254.169.254/latest/meta-data",
        "http://0.0.0.0/",
        "http://2130706433/",
        "http://0x7f.1/",
        "http://224.0.0.1/",
        "https://192.168.1.1/x.jpg",
        "ftp://example.com/",
        "file:///etc/passwd",
        "http:///x",
        "http://no-such-host.invalid/",
    ],
)
def test_private_and_odd_addresses_are_refused(url):
    with pytest.raises(RequestError, match="the address cannot be used"):
        asyncio.run(remote.fetch(url, 100))


class Pictures(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/to/"))
            self.end_headers()
            return
        content = {"/ok": png(red_quarters(1)), "/large": bytes(50_000)}.get(self.path)
        self.send_response(200 if content else 404)
        self.end_headers()
        self.wfile.write(content or b"")

    def log_message(self, *_):
        pass


@pytest.fixture
def web(monkeypatch):
    """A server that counts as public: its name stands for the loopback address."""
    with HTTPServer(("127.0.0.1", 0), Pictures) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        real = remote.public_address

        async def address(host):
            return "127.0.0.1" if host == "public.test" else await real(host)

        monkeypatch.setattr(remote, "public_address", address)
        yield f"http://public.test:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_a_public_address_is_fetched_with_a_cap_and_checked_redirects(web):
    assert asyncio.run(remote.fetch(f"{web}/ok", 20_000)).startswith(b"\x89PNG")
    assert asyncio.run(remote.fetch(f"{web}/to//ok", 20_000)).startswith(b"\x89PNG")
    with pytest.raises(RequestError, match="at most 20,000 bytes"):
        asyncio.run(remote.fetch(f"{web}/large", 20_000))
    for path, reason in (
        ("/gone", "HTTP 404"),
        ("/to/http://127.0.0.1:1/", "only public hosts"),
        ("/to/file:///etc/passwd", "expected http"),
        (f"/to/{web}/to/{web}/to/{web}/to/{web}/ok", "redirects"),
    ):
        with pytest.raises(RequestError, match=reason):
            asyncio.run(remote.fetch(f"{web}{path}", 20_000))


def test_addresses_become_uploads_where_they_are_allowed(web, tmp_path):
    uploads = Uploads(tmp_path, 20_000, Budget(1_000_000))
    body = json.dumps({"data": [{"url": f"{web}/ok"}, {"path": f"{web}/gone"}]}).encode()
    allowed = Intake(uploads, Limits(remote_urls=True, max_bytes=20_000))
    first, second = json.loads(asyncio.run(allowed.rewrite(body)))["data"]
    assert to_source(first, uploads)().startswith(b"\x89PNG")
    assert "HTTP 404" in str(to_source(second, uploads))
    closed = json.loads(asyncio.run(Intake(uploads, Limits()).rewrite(body)))["data"]
    assert all("fetches no pictures" in entry["url"] for entry in closed)


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


def without_example(text):
    return re.sub(r"<details>.*?</details>", "", text, flags=re.S)


def test_the_api_document_is_what_the_command_writes(tmp_path):
    script = ROOT / "scripts" / "write_api_docs.py"
    output = tmp_path / "api.md"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("FACEATTR_")}
    command = [sys.executable, script, "--output", output]
    subprocess.run(command, check=True, env=environment)
    stored = (ROOT / "docs" / "api.md").read_text()
    assert without_example(output.read_text()) == without_example(stored)


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("uploads")))
        with running(tiny_service()) as (url, _):
            yield url.rstrip("/")


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


def test_a_file_that_cannot_be_written_is_not_counted(tmp_path, monkeypatch):
    budget = Budget(1_000)
    uploads = Uploads(tmp_path / "up", 100, budget)

    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="no space"):
        uploads.save(b"abc", "x")
    assert budget.held == 0
    assert list(uploads.folder.iterdir()) == []


@pytest.mark.parametrize("installed", [None, "2.1.0"])
def test_without_a_fitting_mcp_the_page_runs_without_tools(monkeypatch, tmp_path, installed):
    def version(_):
        if installed is None:
            raise server.PackageNotFoundError
        return installed

    monkeypatch.setattr(server, "version", version)
    assert server.make_tools(tiny_service(), None, None) is None


class Counting:
    """Answers with the mean of each picture."""

    config, name = None, "counting"

    def __init__(self):
        self.calls = 0

    def probabilities(self, pixels):
        self.calls += 1
        return {"mean": pixels.mean((1, 2, 3))}


def test_faces_that_are_collected_get_their_own_answers():
    counting = Counting()
    together = Together(counting, wait=0.2)
    chips = [np.full((1 + i % 3, 2, 2, 3), i, np.uint8) for i in range(8)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(together.probabilities, chips))
    for i, answer in enumerate(answers):
        assert answer["mean"].tolist() == [i] * len(chips[i])
    assert counting.calls < 8


def test_the_python_snippet_runs_as_it_is(address, folder):
    code = SNIPPETS["Python"].replace(ADDRESS, address)
    lines = ran([sys.executable, "-W", "ignore", "-c", code], folder).splitlines()
    assert [line.split()[0] for line in lines if line[0].isdigit()] == ["1", "2", "0", "1"]
    assert "0 2" in lines


def test_the_snippet_for_tools_runs_as_it_is(address, folder):
    pytest.importorskip("mcp", reason="the package mcp is not installed: pip install '.[mcp]'")
    code = AGENT_PYTHON.replace(ADDRESS, address)
    answer = json.loads(ran([sys.executable, "-W", "ignore", "-c", code], folder))
    assert len(answer["faces"]) == 2
    server = json.loads(AGENTS)["mcpServers"]["faceattr"]["url"]
    assert f'"{server}"' in AGENT_PYTHON


def test_the_curl_snippets_run_as_they_are(address, folder):
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    text = ran(["bash", "-c", SNIPPETS["curl"].replace(ADDRESS, address)], folder)
    answers = [json.loads(part) for part in re.sub(r"\}\{", "}\n{", text).splitlines()]
    assert len(answers[0]["faces"]) == 2
    assert [len(entry["faces"]) for entry in answers[1]["pictures"]] == [2, 2]
    assert answers[2]["faces"][0]["score"] is None
    assert "tasks" in answers[3]
    steps = ran(["bash", "-c", GRADIO_CURL.replace(ADDRESS, address)], folder)
    assert steps.startswith("event: complete")


def test_the_javascript_snippet_runs_as_it_is(address, folder):
    if shutil.which("node") is None or not (NODE_MODULES / "@gradio" / "client").is_dir():
        pytest.skip("@gradio/client is not installed; run: npm install --prefix tests")
    (folder / "node_modules").symlink_to(NODE_MODULES)
    (folder / "snippet.mjs").write_text(SNIPPETS["JavaScript"].replace(ADDRESS, address))
    lines = ran(["node", "snippet.mjs"], folder).splitlines()
    assert [line.split()[0] for line in lines] == ["1", "2"]


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

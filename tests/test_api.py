"""The API through every way in: plain HTTP, Gradio's protocol, its Python client."""

import gc
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from gradio.state_holder import SessionState
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from gradio_client.utils import QueueError
from site_fixtures import (
    data_url,
    gradio_call,
    png,
    post,
    post_json,
    red_cells,
    red_quarters,
    released,
    running,
    send,
    tiny_service,
)

from faceattr import labels

ROOT = Path(__file__).resolve().parents[1]
SNAPSHOTS = Path(__file__).parent / "snapshots"

# Gradio and its server warn about their own dependencies; none of it is ours to fix.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def server(site):
    return site[0]


@pytest.fixture(scope="module")
def inbox(site):
    return site[1].inbox


@pytest.fixture(scope="module")
def client(server):
    return Client(server, verbose=False)


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "photo.png"
    path.write_bytes(png(red_quarters(2)))
    return path


def timeless(answer):
    return {name: value for name, value in answer.items() if name != "timing_ms"}


def same(value, expected, path=""):
    """Equal in keys and types; numbers within 1e-4, since builds of torch differ there."""
    assert type(value) is type(expected), path
    if isinstance(expected, dict):
        assert list(value) == list(expected), path
        for name, item in expected.items():
            same(value[name], item, f"{path}/{name}")
    elif isinstance(expected, list):
        assert len(value) == len(expected), path
        for index, item in enumerate(expected):
            same(value[index], item, f"{path}/{index}")
    elif isinstance(expected, float):
        assert value == pytest.approx(expected, abs=1e-4), path
    else:
        assert value == expected, path


def frozen(name, value):
    """Compare with a stored file; UPDATE_SNAPSHOTS=1 writes it, for a reviewed change."""
    path = SNAPSHOTS / f"{name}.json"
    if os.environ.get("UPDATE_SNAPSHOTS"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n")
    same(value, json.loads(path.read_text()))


def test_the_schema_is_frozen(client):
    endpoints = client.view_api(return_format="dict")["named_endpoints"]
    assert list(endpoints) == [
        "/predict",
        "/predict_batch",
        "/classify_crop",
        "/explain",
        "/model_info",
    ]
    frozen("schema", endpoints)


@pytest.mark.parametrize(
    ("name", "files", "fields"),
    [
        ("predict", [("picture", png(red_quarters(1)))], {}),
        ("predict_batch", [("pictures", png(red_quarters(1))), ("pictures", b"no picture")], {}),
        ("classify_crop", [("picture", png(red_quarters(1)))], {}),
    ],
)
def test_the_answers_are_frozen(server, name, files, fields):
    status, answer = post(server, f"api/v1/{name}", fields, files)
    assert status == 200
    assert answer.pop("timing_ms").keys() == {"decode", "predict"}
    frozen(name, answer)


def test_model_info_is_frozen_and_names_all_classes(server):
    status, answer = send(f"{server}api/v1/model_info")
    assert status == 200
    for task in labels.TASKS:
        assert answer["tasks"][task.name]["classes"] == list(task.classes)
    frozen("model_info", answer)


def test_an_explanation_is_a_picture_of_the_answer_with_its_caveat(server):
    chip = [("picture", png(red_quarters(3)))]
    status, answer = post(server, "api/v1/explain", {"task": "race"}, chip)
    assert status == 200
    assert answer["heat_map"].startswith("data:image/jpeg;base64,")
    assert answer["label"] in labels.RACE.classes
    assert "not why" in answer["note"]
    status, refusal = post(server, "api/v1/explain", {"task": "mood"}, chip)
    assert (status, refusal["error"]["kind"]) == (400, "bad_request")


def test_every_way_in_gives_the_same_answer(server, client, picture):
    content = picture.read_bytes()
    _, plain = post(server, "api/v1/predict", {}, [("picture", content)])
    assert len(plain["faces"]) == 2
    assert plain["faces"][0]["landmarks"]["nose"] == [50.0, 40.0]
    kind, url_answer = gradio_call(server, "predict", [{"url": data_url(content)}])
    assert kind == "complete"
    _, text_answer = gradio_call(server, "predict", [data_url(content)])
    direct_status, direct = post_json(
        server, "gradio_api/run/predict", {"data": [{"url": data_url(content)}]}
    )
    assert direct_status == 200
    _, named = post_json(
        server, "gradio_api/call/v2/predict", {"picture": {"url": data_url(content)}}
    )
    address = f"{server}gradio_api/call/predict/{named['event_id']}"
    with urllib.request.urlopen(address) as stream:
        named_answer = json.loads(stream.read().decode().split("data: ")[1].splitlines()[0])
    answers = [
        url_answer[0],
        text_answer[0],
        direct["data"][0],
        named_answer[0],
        client.predict(handle_file(picture), api_name="/predict"),
    ]
    for answer in answers:
        assert timeless(answer) == timeless(plain)


def test_a_batch_keeps_its_order_and_puts_errors_in_place(server, client, picture, tmp_path):
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"<html>not a picture</html>")
    pictures = [handle_file(p) for p in (picture, bad, picture)]
    answer = client.predict(pictures, api_name="/predict_batch")
    assert [entry["index"] for entry in answer["pictures"]] == [0, 1, 2]
    assert [len(entry.get("faces", [])) for entry in answer["pictures"]] == [2, 0, 2]
    assert answer["pictures"][1]["error"]["kind"] == "bad_picture"
    assert answer["pictures"][0]["error"] is None
    content = picture.read_bytes()
    _, mixed = gradio_call(
        server,
        "predict_batch",
        [[{"url": data_url(content)}, {"url": "http://127.0.0.1/x"}, {"path": "/etc/passwd"}, 7]],
    )
    kinds = [(e["error"] or {}).get("kind") for e in mixed[0]["pictures"]]
    assert kinds == [None, "bad_request", "bad_request", "bad_request"]


def test_options_change_what_is_found(server):
    files = [("picture", png(red_quarters(2)))]
    _, answer = post(server, "api/v1/predict", {"min_face": "101"}, files)
    assert answer["faces"] == []
    _, answer = post(server, "api/v1/predict", {"detector": "haar"}, files)
    assert (answer["detector"], answer["faces"]) == ("haar", [])


@pytest.mark.parametrize(
    "fields",
    [
        {"detector": "magic"},
        {"detect": "slow"},
        {"min_face": "large"},
        {"min_face": "23"},
        {"min_face": "nan"},
    ],
)
def test_bad_options_are_refused(server, fields):
    files = [("picture", png(red_quarters(1)))]
    status, answer = post(server, "api/v1/predict", fields, files)
    assert (status, answer["error"]["kind"]) == (400, "bad_request")


def test_requests_without_a_picture_are_refused(server):
    for files in ([], [("other", b"x")]):
        status, answer = post(server, "api/v1/predict", {}, files)
        assert (status, answer["error"]["kind"]) == (400, "bad_request")
    request = urllib.request.Request(f"{server}api/v1/predict", b"{}")
    assert send(request)[0] == 400
    assert gradio_call(server, "predict", [])[0] == "error"
    assert gradio_call(server, "predict", [None])[0] == "error"
    assert gradio_call(server, "predict", [1, 2, 3, 4, 5])[0] == 400
    assert post_json(server, "gradio_api/call/predict", [1])[0] == 400
    request = urllib.request.Request(f"{server}gradio_api/call/predict", b"{no json")
    assert send(request)[0] == 400


def test_a_form_cut_off_is_refused(server):
    body = b'--edge\r\nContent-Disposition: form-data; name="picture"; filename="p"\r\n\r\nabc'
    headers = {"Content-Type": "multipart/form-data; boundary=edge"}
    status, answer = send(urllib.request.Request(f"{server}api/v1/predict", body, headers))
    assert status == 400
    assert "Traceback" not in json.dumps(answer)


def test_an_upload_cut_off_leaves_nothing(server, inbox):
    host, port = server.removeprefix("http://").rstrip("/").split(":")
    with socket.create_connection((host, int(port))) as connection:
        head = "POST /gradio_api/upload HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n"
        connection.sendall(f"{head}Content-Type: multipart/form-data; boundary=e\r\n\r\n".encode())
        connection.sendall(b'--e\r\nContent-Disposition: form-data; name="files"; filename="p"\r\n')
    time.sleep(0.2)
    assert len(inbox) == 0
    assert send(f"{server}health")[0] == 200


def test_the_python_client_gets_the_reason_and_no_path(client, tmp_path):
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"<html>not a picture</html>")
    with pytest.raises(AppError) as error:
        client.predict(handle_file(bad), api_name="/predict")
    assert "JPEG" in str(error.value)
    assert str(tmp_path) not in str(error.value)
    assert "Traceback" not in str(error.value)


FILE = {"_type": "gradio.FileData"}


@pytest.mark.parametrize("meta", [{}, {"meta": {"_type": "other"}}, {"meta": FILE}])
@pytest.mark.parametrize("endpoint", ["call", "run"])
def test_a_path_of_the_server_is_refused(server, tmp_path, meta, endpoint):
    path = tmp_path / "secret.png"
    path.write_bytes(png(red_quarters(1)))
    data = [{"path": str(path), **meta}]
    if endpoint == "call":
        kind, answer = gradio_call(server, "predict", data)
        assert kind == "error"
    else:
        status, answer = post_json(server, "gradio_api/run/predict", {"data": data})
        assert status == 500
    assert "upload the picture first" in json.dumps(answer)
    assert str(tmp_path) not in json.dumps(answer)
    assert path.exists()


@pytest.mark.parametrize("field", ["url", "path"])
def test_addresses_are_not_fetched(server, field):
    kind, answer = gradio_call(server, "predict", [{field: f"{server}health", "meta": FILE}])
    assert kind == "error"
    assert "fetches no pictures" in answer["error"]


def test_an_upload_is_used_once_and_gone(server, inbox, picture):
    content = picture.read_bytes()
    status, (path,) = post(server, "gradio_api/upload", {}, [("files", content)])
    assert status == 200
    with urllib.request.urlopen(f"{server}gradio_api/file={path}") as shown:
        assert shown.read() == content
    assert gradio_call(server, "predict", [{"path": path, "meta": FILE}])[0] == "complete"
    assert len(inbox) == 0
    kind, answer = gradio_call(server, "predict", [{"path": path, "meta": FILE}])
    assert kind == "error"
    assert "upload it again" in answer["error"]


def test_equal_uploads_do_not_take_each_other_away(server, picture):
    files = [("files", picture.read_bytes())] * 2
    _, paths = post(server, "gradio_api/upload", {}, files)
    assert len(set(paths)) == 2
    for path in paths:
        assert gradio_call(server, "predict", [{"path": path}])[0] == "complete"


def test_nothing_remains_after_good_and_bad_requests(server, client, inbox, picture):
    client.predict(handle_file(picture), api_name="/predict")
    with pytest.raises(AppError):
        client.predict(handle_file(picture), detector="magic", api_name="/predict")
    client.predict([handle_file(picture)] * 3, api_name="/predict_batch")
    gradio_call(server, "predict", [{"url": data_url(b"no picture")}])
    gradio_call(server, "classify_crop", [{"url": data_url(picture.read_bytes())}])
    assert len(inbox) == 0


def test_gradio_keeps_no_input_and_no_result():
    with running(tiny_service()) as (url, site):
        picture = [{"url": data_url(png(red_quarters(2)))}]
        for _ in range(3):
            assert gradio_call(url, "predict", picture)[0] == "complete"
        gc.collect()
        kept = [o for o in gc.get_objects() if type(o) is SessionState]
        assert [state for state in kept if state.blocks_config.root_block is site.demo] == []
        assert site.inside.app.state_holder.session_data == {}
        assert site.inside.app.iterators == {}
        queue = site.inside.queue
        assert len(queue.event_ids_to_events) == 0
        assert len(queue.event_analytics) <= 1
        # An answer that nobody fetches goes after a while, one in progress stays.
        status, values = post_json(url, "gradio_api/call/predict", {"data": picture})
        while values["event_id"] in queue.event_ids_to_events or site.gate.pending:
            time.sleep(0.01)
        site.inside.forget_answers(kept=60)
        assert values["event_id"] in queue.pending_messages_per_session
        site.inside.forget_answers(kept=0)
        assert dict(queue.pending_messages_per_session) == {}
        assert dict(queue.pending_event_ids_session) == {}
        assert send(f"{url}gradio_api/call/predict/{values['event_id']}")[0] == 404
        assert gradio_call(url, "predict", picture)[0] == "complete"


@pytest.mark.parametrize(
    "path",
    [
        "gradio_api/file=/etc/passwd",
        "gradio_api/file=http://example.com/",
        "gradio_api/proxy=http://example.com/",
        "gradio_api/vibe-edit/",
        "gradio_api/queue/status",
        "gradio_api/runs",
        "gradio_api/call/predict/unknown",
        "gradio_api/queue/data?session_hash=unknown",
        "monitoring/summary",
        "docs",
        "openapi.json",
    ],
)
def test_what_is_not_needed_is_closed(server, path):
    assert send(f"{server}{path}")[0] in (403, 404)


def test_health_names_the_model(server):
    status, answer = send(f"{server}health")
    assert status == 200
    assert answer == {"status": "ok", "model": "unnamed", "pending": 0}


def test_faces_beyond_the_limit_are_left_out_and_said_so():
    service = tiny_service(max_faces=3)
    answer = service.predict(png(red_cells(5)))
    assert len(answer["faces"]) == 3
    assert answer["truncated"]
    assert not service.predict(png(red_cells(3)))["truncated"]


@pytest.fixture
def strict():
    """A server with small limits."""
    limits = {"max_bytes": 20_000, "max_pixels": 40_000, "max_batch": 2, "time_limit": 1.0}
    service = tiny_service(**limits, max_request_bytes=90_000, workers=1, max_waiting=1)
    with running(service) as (url, site):
        yield url, site


def upload(url, content, times):
    return [post(url, "gradio_api/upload", {}, [("files", content)])[1][0] for _ in range(times)]


def test_limits_hold_for_every_way_in(strict):
    url, site = strict
    noise = np.random.default_rng(0).integers(0, 256, (120, 120, 3), np.uint8)
    heavy, large, good = png(noise), png(np.zeros((201, 200, 3), np.uint8)), png(red_quarters(1))
    assert len(heavy) > 20_000
    for content, kind in ((heavy, "too_large"), (large, "bad_picture")):
        status, answer = post(url, "api/v1/predict", {}, [("picture", content)])
        assert (status, answer["error"]["kind"]) == ({"too_large": 413}.get(kind, 422), kind)
        assert gradio_call(url, "predict", [{"url": data_url(content)}])[1]["title"] == kind
        _, batch = post(url, "api/v1/predict_batch", {}, [("pictures", c) for c in (content, good)])
        errors = [entry["error"] for entry in batch["pictures"]]
        assert errors[0]["kind"] == kind
        assert errors[1] is None
    assert post(url, "gradio_api/upload", {}, [("files", heavy)])[0] == 413
    status, paths = post(url, "gradio_api/upload", {}, [("files", large)])
    assert gradio_call(url, "predict", [{"path": paths[0]}])[1]["title"] == "bad_picture"
    assert post(url, "api/v1/predict", {}, [("picture", bytes(100_000))])[0] == 413
    assert gradio_call(url, "predict_batch", [[data_url(good)] * 3])[1]["title"] == "bad_request"
    many = [{"path": path} for path in upload(url, good, 3)]
    assert gradio_call(url, "predict_batch", [many])[1]["title"] == "bad_request"
    site.inbox.sweep(older_than=-1)
    status, _ = post(url, "api/v1/predict_batch", {}, [("pictures", good)] * 3)
    assert status == 400
    assert len(site.inbox) == 0


@pytest.fixture
def small():
    """A server with one worker and room for one request that waits."""
    with running(tiny_service(workers=1, max_waiting=1, time_limit=120.0)) as (url, site):
        yield url, site


def test_a_full_queue_answers_busy_at_once_and_accepted_requests_succeed(small):
    url, site = small
    release, plain = threading.Event(), site.service.pipeline.detector.detect

    def slow(image, reduction=1):
        release.wait(100)
        return plain(image)

    site.service.pipeline.detector.detect = slow
    results = []
    files = [("picture", png(red_quarters(1)))]

    def call():
        results.append(post(url, "api/v1/predict", {}, files)[0])

    threads = [threading.Thread(target=call) for _ in range(2)]
    for thread in threads:
        thread.start()
    while site.gate.pending < 2:
        time.sleep(0.01)
    status, answer = post(url, "api/v1/predict", {}, files)
    assert (status, answer["error"]["kind"]) == (503, "busy")
    status, answer = post_json(url, "gradio_api/call/predict", {"data": []})
    assert status == 503
    assert "busy, try again" in answer["detail"]
    with pytest.raises(QueueError):
        Client(url, verbose=False).predict(api_name="/model_info")
    # The two that fill it have not ended yet.
    assert results == []
    release.set()
    for thread in threads:
        thread.join()
    assert results == [200, 200]
    assert post(url, "api/v1/predict", {}, files)[0] == 200


def test_a_slow_request_ends_at_the_time_limit(strict):
    url, site = strict
    plain, release = site.service.pipeline.detector.detect, threading.Event()

    ended = []

    def slow(image, reduction=1):
        ended.append(release.wait(100))
        return plain(image)

    site.service.pipeline.detector.detect = slow
    files = [("picture", png(red_quarters(1)))]
    start = time.perf_counter()
    status, answer = post(url, "api/v1/predict", {}, files)
    assert time.perf_counter() - start > 0.9
    assert (status, answer["error"]["kind"]) == (504, "timeout")
    assert ended == []
    release.set()
    assert post(url, "api/v1/predict", {}, files)[0] == 200


FORM = "multipart/form-data; boundary=e"
PART = b"--e\r\nContent-Disposition: form-data; "
SLOW_WAYS = [
    ("api/v1/predict", FORM, PART + b'name="picture"; filename="p"\r\n\r\n'),
    ("gradio_api/upload", FORM, PART + b'name="files"; filename="p"\r\n\r\n'),
    ("gradio_api/call/predict", "application/json", b'{"data": ["data:image/png;base64,'),
]


def slowly(url, path, kind, start):
    """Send a body byte by byte until the server answers: its status, and after how many seconds."""
    host, port = url.removeprefix("http://").rstrip("/").split(":")
    begun = time.monotonic()
    with socket.create_connection((host, int(port))) as connection:
        connection.settimeout(0.05)
        head = f"POST /{path} HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n"
        connection.sendall(f"{head}Content-Type: {kind}\r\n\r\n".encode() + start)
        while time.monotonic() < begun + 60:
            try:
                answer = connection.recv(4096)
            except TimeoutError:
                connection.sendall(b"x")
                continue
            return int(answer.split()[1]), time.monotonic() - begun
    raise AssertionError("the server never answered")


def test_slow_bodies_are_refused_in_time_and_others_are_served_meanwhile():
    with running(tiny_service(body_time=3.0, workers=1, max_waiting=1)) as (url, site):
        picture = png(red_quarters(1))
        with ThreadPoolExecutor(12) as pool:
            slow = [pool.submit(slowly, url, *way) for way in SLOW_WAYS * 4]
            time.sleep(0.3)
            assert post(url, "api/v1/predict", {}, [("picture", picture)])[0] == 200
            assert gradio_call(url, "predict", [data_url(picture)])[0] == "complete"
            assert not any(future.done() for future in slow)
            results = [future.result() for future in slow]
        assert {status for status, _ in results} == {408}
        assert min(took for _, took in results) > 2.9
        assert released(site)
        assert len(site.inbox) == 0


def test_all_pictures_together_are_bounded():
    noise = png(np.random.default_rng(0).integers(0, 256, (100, 100, 3), np.uint8))
    assert 30_000 < len(noise) < 31_000
    with running(tiny_service(max_held_bytes=85_000)) as (url, site):
        files = [("files", noise)]
        (path,), _ = (post(url, "gradio_api/upload", {}, files)[1] for _ in range(2))
        status, answer = post(url, "gradio_api/upload", {}, files)
        assert (status, answer["error"]["kind"]) == (429, "too_much")
        picture = [{"url": data_url(noise)}]
        assert gradio_call(url, "predict", picture)[0] == 429
        assert post(url, "api/v1/predict", {}, [("picture", noise * 2)])[0] == 429
        # One picture is used, which makes room for another.
        assert gradio_call(url, "predict", [{"path": path}])[0] == "complete"
        assert post(url, "gradio_api/upload", {}, files)[0] == 200
        site.inbox.sweep(older_than=-1)
        assert gradio_call(url, "predict", picture)[0] == "complete"
        assert released(site)
        assert len(site.inbox) == 0


def test_an_upload_of_which_one_file_is_refused_leaves_nothing(strict):
    url, site = strict
    files = [("files", png(red_quarters(1))), ("files", bytes(20_001))]
    assert post(url, "gradio_api/upload", {}, files)[0] == 413
    assert len(site.inbox) == 0
    assert released(site)


def test_an_upload_without_room_counts_no_longer(strict):
    url, site = strict
    full = site.service.limits.max_held_bytes - 3_000
    site.inbox.hold(full)
    assert post(url, "gradio_api/upload", {}, [("files", bytes(2_000))])[0] == 429
    site.inbox.let_go(full)
    assert released(site)


def test_an_error_of_ours_tells_a_client_nothing(strict, caplog):
    url, site = strict

    def broken(*_):
        raise RuntimeError("/srv/secret is full")

    site.service.pipeline.detector.detect = broken
    content = png(red_quarters(1))
    status, answer = post(url, "api/v1/predict", {}, [("picture", content)])
    assert (status, answer["error"]["kind"]) == (500, "internal")
    kind, event = gradio_call(url, "predict", [{"url": data_url(content)}])
    assert kind == "error"
    assert "secret" not in json.dumps([answer, event])
    assert "secret" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_what_is_in_flight_be_answered_and_stops_cleanly(tmp_path, sent):
    code = f"""
import os, sys, threading, time
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests")!r}]
from site_fixtures import tiny_service
from page.server import Site, bind, make_server
service = tiny_service()
plain = service.pipeline.detector.detect
def slow(image, reduction=1):
    open(os.environ["STARTED"], "w").close()
    time.sleep(1.0)
    return plain(image)
service.pipeline.detector.detect = slow
make_server(Site(service)).run([bind("127.0.0.1", int(sys.argv[1]))])
"""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    started, temp = tmp_path / "started", tmp_path / "temp"
    temp.mkdir()
    environment = {**os.environ, "STARTED": str(started), "TMPDIR": str(temp)}
    command = [sys.executable, "-c", code, str(port)]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        url, results = f"http://127.0.0.1:{port}/", []
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            try:
                if send(f"{url}health")[0] == 200:
                    break
            except OSError:
                time.sleep(0.1)

        def call():
            results.append(post(url, "api/v1/predict", {}, [("picture", png(red_quarters(1)))]))

        # The page asks for its examples' faces while it is built.
        started.unlink(missing_ok=True)
        thread = threading.Thread(target=call)
        thread.start()
        while not started.exists():
            time.sleep(0.01)
        process.send_signal(sent)
        time.sleep(0.2)
        assert send(f"{url}health")[0] == 503
        thread.join()
        assert process.wait(20) == 0
        assert "Traceback" not in process.stderr.read()
    assert results[0][0] == 200
    assert len(results[0][1]["faces"]) == 1
    assert list(temp.glob("faceattr-*")) == []

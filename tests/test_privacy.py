"""What a prediction does beyond its answer: no look-up, no connection, no file; seen by strace."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PHOTO = ROOT / "page" / "view" / "static" / "examples" / "collins.jpg"
STRACE = shutil.which("strace")
CALLS = "connect,sendto,sendmsg,sendmmsg,openat,open,creat,mkdir,mkdirat,rename,unlink,unlinkat"

LIBRARY = f"""
from faceattr import FacePipeline
assert FacePipeline.from_pretrained()({str(PHOTO)!r})
"""
COMMAND = f"""
import sys
from faceattr.__main__ import main
sys.exit(main(["predict", {str(PHOTO)!r}]))
"""
PAGE = f"""
import os, signal, socket, sys, threading, time
sys.path.insert(0, {str(ROOT / "tests")!r})
import app
from site_fixtures import data_url, gradio_call, post, send

with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    port = str(probe.getsockname()[1])

def visit():
    url = f"http://127.0.0.1:{{port}}/"
    while True:
        try:
            if send(url + "health")[0] == 200:
                break
        except OSError:
            time.sleep(0.1)
    photo = open({str(PHOTO)!r}, "rb").read()
    assert send(url)[0] == 200
    assert len(post(url, "api/v1/predict", {{}}, [("picture", photo)])[1]["faces"]) == 1
    (token,) = post(url, "gradio_api/upload", {{}}, [("files", photo)])[1]
    for picture in ({{"path": token}}, data_url(photo, "image/jpeg")):
        assert gradio_call(url, "predict", [picture])[0] == "complete"
    os.kill(os.getpid(), signal.SIGTERM)

os.environ["GRADIO_SERVER_PORT"] = port
threading.Thread(target=visit, daemon=True).start()
app.main()
"""


def traced(code, home):
    """The system calls of a Python program in a fresh home, as strace writes them."""
    if STRACE is None:
        pytest.skip("strace is not installed; install it to watch what a prediction does")
    home.mkdir()
    (home / "tmp").mkdir()
    log = home.with_suffix(".strace")
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(home),
        "TMPDIR": str(home / "tmp"),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = [STRACE, "-f", "--seccomp-bpf", "-s", "300", "-e", f"trace={CALLS}", "-o", str(log)]
    done = subprocess.run(
        [*command, sys.executable, "-W", "ignore", "-c", code],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    if "PTRACE" in done.stderr and done.returncode:
        pytest.skip(f"strace may not watch here: {done.stderr.splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    return log.read_text(errors="replace").splitlines()


def looked_up_or_connected(lines):
    """Calls that ask for a name or reach beyond this machine."""
    wanted = re.compile(r"resolv\.conf|/nscd/|sin6?_port=htons\(53\)")
    foreign = re.compile(r"connect\(.*sa_family=AF_INET6?\b(?!.*(\"127\.|::1\"))")
    return [line for line in lines if wanted.search(line) or foreign.search(line)]


def made(lines, home):
    """Files and folders that were made anywhere else, or made here and left."""
    paths = []
    for line in lines:
        writes = re.search(r"O_CREAT|O_TMPFILE|\bcreat\(|\bmkdir", line)
        path = re.search(r'"([^"]*)"', line)
        if writes and path and "= -1 " not in line:
            paths.append(path[1])
    outside = [path for path in paths if not path.startswith((f"{home}/tmp/", "/dev/"))]
    return outside, sorted(str(p) for p in home.rglob("*") if p != home / "tmp")


@pytest.mark.parametrize(
    "code",
    [
        pytest.param(LIBRARY, id="library"),
        pytest.param(COMMAND, id="command line"),
        pytest.param(PAGE, id="page", marks=pytest.mark.slow),
    ],
)
def test_a_prediction_asks_nobody_and_leaves_no_file(code, tmp_path):
    lines = traced(code, tmp_path / "home")
    assert any(PHOTO.name in line for line in lines)
    assert looked_up_or_connected(lines) == []
    assert made(lines, tmp_path / "home") == ([], [])


def test_the_watch_sees_a_look_up_a_connection_and_a_file(tmp_path):
    code = """
import os, socket
try:
    socket.getaddrinfo("name.invalid", 80)
except OSError:
    pass
open(os.path.expanduser("~/left"), "w").close()
stream = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
try:
    stream.connect(("192.0.2.1", 9))
except OSError:
    pass
"""
    lines = traced(code, tmp_path / "home")
    seen = "\n".join(looked_up_or_connected(lines))
    assert "192.0.2.1" in seen
    assert "resolv.conf" in seen or "nscd" in seen
    outside, left = made(lines, tmp_path / "home")
    assert outside == left == [str(tmp_path / "home" / "left")]

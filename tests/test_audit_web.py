"""Images from web addresses, from a server here that stands for a public one."""

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

import pytest

from faceattr.audit import web


class Answers(BaseHTTPRequestHandler):
    """`/drip` comes byte by byte, `/ü/moved` redirects in raw UTF-8, all else tells its path."""

    def do_GET(self):
        path = unquote(self.path)
        self.send_response(302 if path == "/ü/moved" else 200)
        if path == "/ü/moved":
            self.send_header("Location", "/ü/new place".encode().decode("latin-1"))
        self.end_headers()
        if path.endswith("drip"):
            try:
                for _ in range(40):
                    self.wfile.write(b"x")
                    time.sleep(0.1)
            except OSError:
                return
        else:
            self.wfile.write(f"{self.headers['Host']} {path}".encode())

    def log_message(self, *_):
        pass


@pytest.fixture
def port(monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(web, "public_address", lambda host, port: "127.0.0.1")
    yield server.server_port
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ("a.test:{}/my photo.jpg?of=Zoë", "a.test:{} /my photo.jpg?of=Zoë"),
        ("a.test:{}/my%20photo.jpg", "a.test:{} /my photo.jpg"),
        ("bücher.test:{}/ü/moved", "xn--bcher-kva.test:{} /ü/new place"),
    ],
)
def test_addresses_may_have_spaces_and_any_letters(port, asked, told):
    assert web.fetch(f"http://{asked.format(port)}", 100).decode() == told.format(port)


def test_an_answer_that_comes_byte_by_byte_ends_in_time(port, monkeypatch):
    monkeypatch.setattr(web, "TIMEOUT_S", 0.5)
    start = time.monotonic()
    with pytest.raises(web.AddressError, match=r"took longer than 0\.5 s"):
        web.fetch(f"http://a.test:{port}/drip", 100)
    assert time.monotonic() - start < 2

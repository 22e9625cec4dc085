"""A small deterministic network and detector behind the real server."""

import base64
import http.client
import http.server
import io
import json
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from urllib.parse import urlparse

import numpy as np
import torch
from PIL import Image

from faceattr.model import LightweightMTLNet224, ModelConfig
from faceattr.pipeline import FacePipeline
from faceattr.preprocessing import Preprocessing
from faceattr.results import Detection, FaceBox
from page.limits import Limits
from page.service import FaceService


class ColourDetector:
    """Finds a face wherever a cell of a grid over the picture is red.

    The grid has two rows and columns, or more where the picture is larger than 400 pixels.
    """

    name = "colour"

    def detect(self, image, reduction=1):
        rows, columns = (max(2, side // 200) for side in image.shape[:2])
        height, width = image.shape[0] // rows, image.shape[1] // columns
        found = []
        for y in range(0, rows * height, max(1, height)):
            for x in range(0, columns * width, max(1, width)):
                cell = image[y : y + height, x : x + width]
                mean = cell.mean((0, 1)) if cell.size else np.zeros(3)
                if mean[0] > 200 and mean[1] < 80:
                    left, top, right, down = (n * reduction for n in (x, y, width, height))
                    box = FaceBox(left, top, right, down)
                    points = tuple((left + right * a, top + down * b) for a, b in POINTS)
                    found.append(Detection(box, 1.0, points, self.name))
        return found


POINTS = ((0.3, 0.3), (0.7, 0.3), (0.5, 0.5), (0.35, 0.7), (0.65, 0.7))


def red_quarters(count, size=(200, 160)):
    image = np.zeros((size[1], size[0], 3), np.uint8)
    for index in range(count):
        y, x = divmod(index, 2)
        image[y * 80 : y * 80 + 80, x * 100 : x * 100 + 100, 0] = 255
    return image


def red_cells(count, columns=10):
    """A picture in which `ColourDetector` finds so many faces."""
    rows = max(2, -(-count // columns))
    image = np.zeros((rows * 200, columns * 200, 3), np.uint8)
    for index in range(count):
        y, x = divmod(index, columns)
        image[y * 200 : y * 200 + 200, x * 200 : x * 200 + 200, 0] = 255
    return image


def png(image):
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    return stream.getvalue()


def data_url(content, kind="image/png"):
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def tiny_pipeline():
    torch.manual_seed(0)
    config = ModelConfig(
        sizes={"widths": (4, 4, 4, 8, 8, 8, 8), "hidden": 8},
        preprocessing=Preprocessing(image_size=32),
        thresholds={"gender": 0.4, "age": 0.9, "race": 0.9},
    )
    return FacePipeline(LightweightMTLNet224(config), ColourDetector())


def tiny_service(**limits):
    return FaceService(tiny_pipeline(), Limits(**limits))


@contextmanager
def running(service):
    """A server on a free port of the loopback interface: its address and parts."""
    # Gradio makes folders where it is imported, which is the caller's to choose.
    from page.server import Site, bind, make_server

    site, at = Site(service), bind("127.0.0.1", 0)
    server = make_server(site)
    thread = threading.Thread(target=server.run, args=([at],), daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server did not start"
        time.sleep(0.02)
    try:
        yield f"http://127.0.0.1:{at.getsockname()[1]}/", site
    finally:
        server.should_exit = True
        thread.join(10)


class _Proxy(http.server.BaseHTTPRequestHandler):
    """Serves another server's page under a path, as nginx does with `proxy_pass …/`."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        prefix, (host, port) = self.server.prefix, self.server.behind
        if not self.path.startswith(prefix + "/"):
            self.send_error(404)
            return
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        given = {k: v for k, v in self.headers.items() if k.lower() != "host"}
        given |= {"X-Forwarded-Prefix": prefix, "X-Forwarded-Host": self.headers["Host"]}
        connection = http.client.HTTPConnection(host, port)
        connection.request(self.command, self.path.removeprefix(prefix), body or None, given)
        answer = connection.getresponse()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "connection", "date", "server"):
                self.send_header(name, value)
        self.send_header("Connection", "close")
        self.end_headers()
        while part := answer.read1():
            self.wfile.write(part)
        connection.close()
        self.close_connection = True

    do_POST = do_GET

    def log_message(self, *_):
        pass


class _ProxyServer(http.server.ThreadingHTTPServer):
    # A browser opens dozens of connections at once; beyond the backlog each waits for seconds.
    request_queue_size = 256


@contextmanager
def behind_proxy(url, prefix):
    """The address at which a reverse proxy shows a server under a path of its own."""
    parts = urlparse(url)
    with _ProxyServer(("127.0.0.1", 0), _Proxy) as proxy:
        proxy.prefix, proxy.behind = prefix, (parts.hostname, parts.port)
        thread = threading.Thread(target=proxy.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{proxy.server_port}{prefix}/"
        finally:
            proxy.shutdown()
            thread.join()


def released(site):
    """Whether nothing is held any more; a body counts until just after its answer is out."""
    end = time.monotonic() + 5
    while site.inbox.held and time.monotonic() < end:
        time.sleep(0.01)
    return site.inbox.held == 0


def post(url, path, fields, files):
    """A form over plain HTTP: status and JSON."""
    edge = "edge"
    parts = [
        f'--{edge}\r\nContent-Disposition: form-data; name="{k}"\r\n\r\n{v}\r\n'.encode()
        for k, v in fields.items()
    ]
    for name, content in files:
        head = f'--{edge}\r\nContent-Disposition: form-data; name="{name}"; filename="p"\r\n\r\n'
        parts.append(head.encode() + content + b"\r\n")
    body = b"".join(parts) + f"--{edge}--\r\n".encode()
    headers = {"Content-Type": f"multipart/form-data; boundary={edge}"}
    return send(urllib.request.Request(f"{url}{path}", body, headers))


def send(request):
    """Status and JSON (or text) of a request, whatever the status."""
    try:
        with urllib.request.urlopen(request) as answer:
            status, text = answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            status, text = error.code, error.read().decode()
    try:
        return status, json.loads(text)
    except ValueError:
        return status, text


def post_json(url, path, values):
    headers = {"Content-Type": "application/json"}
    return send(urllib.request.Request(f"{url}{path}", json.dumps(values).encode(), headers))


def gradio_call(url, name, data):
    """Gradio's two steps: the kind of the last event, and its data."""
    status, values = post_json(url, f"gradio_api/call/{name}", {"data": data})
    if status != 200:
        return status, values
    address = f"{url}gradio_api/call/{name}/{values['event_id']}"
    with urllib.request.urlopen(address) as answer:
        kind, _, text = answer.read().decode().strip().split("\n\n")[-1].partition("\n")
    return kind.removeprefix("event: "), json.loads(text.removeprefix("data: "))

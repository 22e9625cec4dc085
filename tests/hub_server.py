"""A Hub on the loopback interface, in memory, for the real huggingface_hub client.

It speaks what publishing, loading and deploying need: repositories of models and Spaces,
branches, commits (regular and LFS files), files at any commit, Space variables, tokens. Faults
are injected with `fail_next` (an HTTP error), `cut_next` (a connection that breaks) and `hang`
(no answer at all).

    with HubServer() as hub:
        subprocess.run(..., env=hub.environment(home))  # a client process
        hub.admit(monkeypatch)  # or this process, with `endpoint=hub.url` and `token=hub.token`
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from huggingface_hub.utils import close_session

LFS_SUFFIXES = (".safetensors", ".onnx", ".bin", ".png")
LICENSES = {"apache-2.0", "cc-by-4.0", "mit", "other"}
"""A few of those the Hub knows."""

FRONT_MATTER = re.compile(r"\A---\r?\n(.*?)\r?\n---(\r?\n|\Z)", re.DOTALL)


@dataclass
class Repo:
    """A repository: every commit's files by commit hash, and where the branches are."""

    id: str
    type: str
    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)

    def commit(self, branch: str, files: Mapping[str, bytes]) -> str:
        """Add a commit with exactly `files` on top of `branch`; returns its hash."""
        sha = hashlib.sha1(f"{self.type} {self.id} {len(self.commits)}".encode()).hexdigest()
        self.commits[sha] = dict(files)
        self.branches[branch] = sha
        return sha

    def resolve(self, revision: str) -> str | None:
        """The commit hash a branch or a full hash stands for."""
        return self.branches.get(revision, revision if revision in self.commits else None)

    def files(self, revision: str = "main") -> dict[str, bytes]:
        """Content by path at a revision."""
        return self.commits[self.branches.get(revision, revision)]


@dataclass
class Fault:
    """What happens to the next `times` requests that match, instead of the right answer.

    `status` answers an error. Otherwise the connection is cut: before anything is done when
    `after` is None, else after the work is done and `after` bytes of the answer's body are out.
    """

    method: str
    path: re.Pattern[str]
    times: int
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    after: int | None = None


class Answer(Exception):
    """An HTTP answer; raised by the checks to leave a route early."""

    def __init__(self, status: int, body: Any = None, headers: Mapping[str, str] | None = None):
        super().__init__(status)
        self.status = status
        self.headers = dict(headers or {})
        if isinstance(body, bytes):
            self.body = body
        else:
            self.body = b"" if body is None else json.dumps(body).encode()
            self.headers.setdefault("Content-Type", "application/json")


def refusal(status: int, message: str, code: str | None = None) -> Answer:
    """An error as the Hub words it: the message in a header and the body, the code in a header."""
    headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
    return Answer(status, {"error": message}, headers)


def git_oid(content: bytes) -> str:
    """Git's hash of a blob."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def is_lfs(path: str) -> bool:
    """Whether the Hub keeps a file of that name in large file storage."""
    return path.endswith(LFS_SUFFIXES)


def oid(path: str, content: bytes) -> str:
    """The hash by which the client tells whether a file has changed."""
    return hashlib.sha256(content).hexdigest() if is_lfs(path) else git_oid(content)


@dataclass
class Request:
    """One request: its parts and its body, read whole."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body or b"null")


class HubServer:
    """The server; `requests` lists what was asked for as (method, path)."""

    token = "hf_loopback"
    """Accepted for reading everything and writing to `namespaces`."""

    def __init__(self, namespaces: tuple[str, ...] = ("user",)) -> None:
        self.namespaces = namespaces
        self.repos: dict[tuple[str, str], Repo] = {}
        self.lfs: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self._faults: list[Fault] = []
        self._hanging = threading.Event()
        self._closed = threading.Event()
        self._lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> HubServer:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        close_session()
        self._closed.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def admit(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let this process's client talk to the server, with no token lying around.

        The client reads its endpoint at import, so calls still need `endpoint=hub.url`. Xet is
        off: there is no Xet storage here.
        """
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", os.devnull)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)

    def environment(self, home: Path, token: str | None = token) -> dict[str, str]:
        """Environment of a client process: this server, a cache of its own, a token or none."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
        tokens = {"HF_TOKEN": token} if token else {}
        mine = {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
        return kept | mine | tokens

    def repo(self, repo_id: str, repo_type: str = "model") -> Repo:
        """A repository that exists."""
        return self.repos[repo_type, repo_id]

    def add_repo(self, repo_id: str, repo_type: str = "model", private: bool = False) -> Repo:
        """Create a repository; like the Hub's it starts with one commit."""
        repo = self.repos[repo_type, repo_id] = Repo(repo_id, repo_type, private)
        repo.commit("main", {".gitattributes": b"*.safetensors filter=lfs\n"})
        return repo

    def fail_next(
        self,
        method: str,
        path: str,
        status: int,
        headers: Mapping[str, str] | None = None,
        body: Any = None,
        times: int = 1,
    ) -> None:
        """Answer the next `times` requests whose path contains the regex `path` with an error."""
        body = {"error": f"injected {status}"} if body is None else body
        self._faults.append(
            Fault(method, re.compile(path), times, status, dict(headers or {}), body)
        )

    def cut_next(self, method: str, path: str, after: int | None = None, times: int = 1) -> None:
        """Cut the connection of the next `times` matching requests; see `Fault` for `after`."""
        self._faults.append(Fault(method, re.compile(path), times, after=after))

    def hang(self) -> None:
        """Accept every request from now on and answer none."""
        self._hanging.set()

    def wait_if_hanging(self) -> bool:
        """Whether requests are not to be answered; returns when the server closes."""
        return self._hanging.is_set() and self._closed.wait(300)

    def heal(self) -> None:
        """Take away the faults that are still to come."""
        with self._lock:
            self._faults.clear()

    def asked(self, method: str, path: str) -> int:
        """How many requests of that method had a path that contains the regex `path`."""
        return sum(m == method and bool(re.search(path, p)) for m, p in self.requests)

    def take_fault(self, request: Request) -> Fault | None:
        """The fault due for this request, counted down."""
        with self._lock:
            self.requests.append((request.method, request.path))
            for fault in self._faults:
                if fault.method == request.method and fault.path.search(request.path):
                    fault.times -= 1
                    if fault.times == 0:
                        self._faults.remove(fault)
                    return fault
        return None

    def answer(self, request: Request) -> Answer:
        """Route a request."""
        for method, pattern, route in ROUTES:
            match = re.fullmatch(pattern, request.path)
            if match and request.method in method.split("|"):
                parts = {k: unquote(v) for k, v in match.groupdict().items() if v is not None}
                with self._lock:
                    try:
                        return Answer(200, route(self, request, **parts))
                    except Answer as answer:
                        return answer
        return refusal(404, f"the loopback Hub has no route {request.method} {request.path}")

    def check_writer(self, request: Request, namespace: str) -> None:
        """Refuse a write without the right token or to somebody else's namespace."""
        sent = request.headers.get("Authorization")
        if sent is None:
            raise refusal(401, "Invalid username or password.")
        if sent != f"Bearer {self.token}":
            raise refusal(401, "Invalid credentials in Authorization header")
        if namespace not in self.namespaces:
            raise refusal(
                403, f'You don\'t have the rights to write to the namespace "{namespace}"'
            )

    def find(self, request: Request, kind: str | None, repo: str, write: bool = False) -> Repo:
        """The repository a path names; `kind` is "models", "spaces" or None for a model."""
        known = request.headers.get("Authorization") == f"Bearer {self.token}"
        found = self.repos.get(((kind or "models").removesuffix("s"), repo))
        if found is None or (found.private and not known):
            raise refusal(404 if known else 401, "Repository not found", "RepoNotFound")
        if write:
            self.check_writer(request, repo.split("/")[0])
        return found


def at_revision(repo: Repo, revision: str) -> tuple[str, dict[str, bytes]]:
    """Commit hash and files of a revision."""
    sha = repo.resolve(revision)
    if sha is None:
        raise refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
    return sha, repo.commits[sha]


def create_repo(hub: HubServer, request: Request) -> Any:
    wanted = request.json()
    namespace = wanted.get("organization") or hub.namespaces[0]
    hub.check_writer(request, namespace)
    repo_id, repo_type = f"{namespace}/{wanted['name']}", wanted.get("type") or "model"
    prefix = "" if repo_type == "model" else f"{repo_type}s/"
    url = {"url": f"{hub.url}/{prefix}{repo_id}"}
    if (repo_type, repo_id) in hub.repos:
        raise Answer(409, {"error": "You already created this repo"} | url)
    hub.add_repo(repo_id, repo_type, wanted.get("visibility") == "private")
    return url


def index_errors(index: Any) -> list[str]:
    """What the Hub's rules for `model-index` find wrong: what each part must have."""
    if not isinstance(index, list):
        return ['"model-index" must be an array']
    found = []
    for place, model in enumerate(index):
        where = f'"model-index[{place}]'
        if not isinstance(model.get("name"), str):
            found.append(f'{where}.name" is required')
        for number, result in enumerate(model.get("results", [])):
            needed = {"task": ("type",), "dataset": ("type", "name")}
            for part, keys in needed.items():
                missing = [key for key in keys if not result.get(part, {}).get(key)]
                found += [f'{where}.results[{number}].{part}.{key}" is required' for key in missing]
            for metric in result.get("metrics", [{}]):
                missing = [key for key in ("type", "value") if metric.get(key) is None]
                found += [
                    f'{where}.results[{number}].metrics.{key}" is required' for key in missing
                ]
    return found


def validate_yaml(hub: HubServer, request: Request) -> Any:
    match = FRONT_MATTER.match(request.json()["content"])
    data = yaml.safe_load(match[1]) if match else {}
    errors = [
        {"message": f'"{key}" must be a string'}
        for key in ("license", "pipeline_tag", "sdk")
        if key in data and not isinstance(data[key], str)
    ]
    if data.get("license", "other") not in LICENSES:
        errors.append({"message": f'"license" must be one of {sorted(LICENSES)}'})
    if not isinstance(data.get("tags", []), list):
        errors.append({"message": '"tags" must be an array'})
    errors += [{"message": message} for message in index_errors(data.get("model-index", []))]
    if errors:
        raise Answer(400, {"errors": errors, "warnings": []})
    return {"errors": [], "warnings": []}


def repo_info(
    hub: HubServer, request: Request, kind: str, repo: str, revision: str = "main"
) -> Any:
    found = hub.find(request, kind, repo)
    sha, files = at_revision(found, revision)
    siblings = [{"rfilename": path} for path in sorted(files)]
    return {"id": repo, "sha": sha, "private": found.private, "siblings": siblings, "tags": []}


def tree(hub: HubServer, request: Request, kind: str, repo: str, revision: str) -> Any:
    """Every file of a revision, always recursive."""
    _, files = at_revision(hub.find(request, kind, repo), revision)
    rows: list[dict[str, Any]] = []
    for path, content in sorted(files.items()):
        row: dict[str, Any] = {"type": "file", "path": path, "size": len(content)}
        row["oid"] = git_oid(content)
        if is_lfs(path):
            row["lfs"] = {"oid": oid(path, content), "size": len(content), "pointerSize": 128}
        rows.append(row)
    return rows


def create_branch(hub: HubServer, request: Request, kind: str, repo: str, branch: str) -> Any:
    found = hub.find(request, kind, repo, write=True)
    if branch in found.branches:
        raise refusal(409, f"Reference already exists: {branch}")
    start = (request.json() or {}).get("startingPoint", "main")
    found.branches[branch] = at_revision(found, start)[0]
    return {}


def preupload(hub: HubServer, request: Request, kind: str, repo: str, revision: str) -> Any:
    _, files = at_revision(hub.find(request, kind, repo, write=True), revision)
    answers = []
    for wanted in request.json()["files"]:
        path = wanted["path"]
        known = {"oid": oid(path, files[path])} if path in files else {}
        mode = "lfs" if is_lfs(path) else "regular"
        answers.append({"path": path, "uploadMode": mode, "shouldIgnore": False} | known)
    return {"files": answers}


def lfs_batch(hub: HubServer, request: Request, repo: str, kind: str | None = None) -> Any:
    hub.find(request, kind, repo, write=True)
    objects = []
    for wanted in request.json()["objects"]:
        row = {"oid": wanted["oid"], "size": wanted["size"]}
        if wanted["oid"] not in hub.lfs:
            upload = {"href": f"{hub.url}/lfs/{wanted['oid']}"}
            row["actions"] = {"upload": upload, "verify": {"href": f"{hub.url}/lfs-verify"}}
        objects.append(row)
    return {"transfer": "basic", "objects": objects}


def lfs_put(hub: HubServer, request: Request, sha256: str) -> Any:
    if hashlib.sha256(request.body).hexdigest() != sha256:
        raise refusal(400, "the content does not have the hash it was announced with")
    hub.lfs[sha256] = request.body


def lfs_verify(hub: HubServer, request: Request) -> Any:
    wanted = request.json()
    if len(hub.lfs.get(wanted["oid"], b"")) != wanted["size"]:
        raise refusal(404, "no such object")


def commit(hub: HubServer, request: Request, kind: str, repo: str, branch: str) -> Any:
    """Apply a commit sent as ndjson: one header line, then one line per operation."""
    found = hub.find(request, kind, repo, write=True)
    parent, files = at_revision(found, branch)
    files = dict(files)
    for line in request.body.splitlines():
        key, value = (item := json.loads(line))["key"], item["value"]
        if key == "header":
            if value.get("parentCommit", parent) != parent:
                raise refusal(412, "A commit has happened since. Please refresh and try again.")
        elif key == "file":
            files[value["path"]] = base64.b64decode(value["content"])
        elif key == "lfsFile":
            if value["oid"] not in hub.lfs:
                raise refusal(400, f"LFS object {value['oid']} was not uploaded")
            files[value["path"]] = hub.lfs[value["oid"]]
        elif key == "deletedFile":
            if files.pop(value["path"], None) is None:
                raise refusal(404, "A file with this name doesn't exist", "EntryNotFound")
        else:
            raise refusal(400, f"the loopback Hub does not know the operation {key!r}")
    sha = found.commit(branch, files)
    return {"commitUrl": f"{hub.url}/{repo}/commit/{sha}", "commitOid": sha}


def resolve(
    hub: HubServer, request: Request, repo: str, revision: str, path: str, kind: str | None = None
) -> Any:
    """A file at a revision, whole or from an offset (`Range: bytes=N-`)."""
    sha, files = at_revision(hub.find(request, kind, repo), revision)
    if path not in files:
        missing = refusal(404, "Entry not found", "EntryNotFound")
        missing.headers["X-Repo-Commit"] = sha
        raise missing
    content = files[path]
    headers = {"X-Repo-Commit": sha, "ETag": f'"{oid(path, content)}"', "Accept-Ranges": "bytes"}
    if is_lfs(path):
        headers |= {"X-Linked-Etag": headers["ETag"], "X-Linked-Size": str(len(content))}
    wanted = re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range", ""))
    if wanted is None:
        raise Answer(200, content, headers)
    start = int(wanted[1])
    headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
    raise Answer(206, content[start:], headers)


def variables(hub: HubServer, request: Request, repo: str) -> Any:
    found = hub.find(request, "spaces", repo, write=True)
    if request.method == "POST":
        found.variables[request.json()["key"]] = request.json()["value"]
    return {key: {"value": value} for key, value in found.variables.items()}


_API = r"/api/(?P<kind>models|spaces)/(?P<repo>[^/]+/[^/]+)"
_GIT = r"/(?:(?P<kind>spaces)/)?(?P<repo>[^/]+/[^/]+)"
ROUTES = (
    ("POST", r"/api/repos/create", create_repo),
    ("POST", r"/api/validate-yaml", validate_yaml),
    ("GET|POST", r"/api/spaces/(?P<repo>[^/]+/[^/]+)/variables", variables),
    ("GET", _API, repo_info),
    ("GET", _API + r"/revision/(?P<revision>[^/]+)", repo_info),
    ("GET", _API + r"/tree/(?P<revision>[^/]+)", tree),
    ("POST", _API + r"/branch/(?P<branch>[^/]+)", create_branch),
    ("POST", _API + r"/preupload/(?P<revision>[^/]+)", preupload),
    ("POST", _API + r"/commit/(?P<branch>[^/]+)", commit),
    ("POST", _GIT + r"\.git/info/lfs/objects/batch", lfs_batch),
    ("PUT", r"/lfs/(?P<sha256>[0-9a-f]{64})", lfs_put),
    ("POST", r"/lfs-verify", lfs_verify),
    ("GET|HEAD", _GIT + r"/resolve/(?P<revision>[^/]+)/(?P<path>.+)", resolve),
)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: HubServer

    def log_message(self, format: str, *args: object) -> None:
        """Keep the tests' output clean; `HubServer.requests` holds the log."""

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _cut(self) -> None:
        self.close_connection = True
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)

    def _handle(self) -> None:
        path = urlsplit(self.path).path
        request = Request(self.command, path, self.headers, self._body())
        fault = self.hub.take_fault(request)
        if self.hub.wait_if_hanging():
            self._cut()
        elif fault and fault.status is not None:
            self._send(Answer(fault.status, fault.body, fault.headers))
        elif fault and fault.after is None:
            self._cut()
        else:
            self._send(self.hub.answer(request), cut_after=fault.after if fault else None)

    def _send(self, answer: Answer, cut_after: int | None = None) -> None:
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body[:cut_after])
        if cut_after is not None:
            self._cut()

    do_GET = do_HEAD = do_POST = do_PUT = _handle

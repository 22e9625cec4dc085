"""Images from web addresses: only public hosts, few redirects, a limit on bytes and time."""

from __future__ import annotations

import http.client
import io
import ipaddress
import socket
import ssl
import time
from typing import Any, cast
from urllib.parse import quote, urljoin, urlsplit

MAX_REDIRECTS = 3
TIMEOUT_S = 20.0
"""Longest wait in seconds for a whole image, redirects included."""
_CHUNK = 65_536


class AddressError(Exception):
    """An address that may not be asked, or that gave no image."""


def public_address(host: str, port: int) -> str:
    """One IP address of a host, all of whose addresses are public.

    Raises:
        AddressError: for an unknown host, and one with an address of a private network.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise AddressError(f"the host {host!r} is unknown") from None
    addresses = [str(entry[4][0]).partition("%")[0] for entry in found]
    for text in addresses:
        address = ipaddress.ip_address(text)
        mapped = getattr(address, "ipv4_mapped", None) or address
        if not mapped.is_global or mapped.is_multicast:
            raise AddressError(f"the host {host!r} lies in a private network")
    return addresses[0]


def fetch(url: str, max_bytes: int) -> bytes:
    """The content of a public http or https address; each redirect is checked like the first.

    Args:
        url: whole address.
        max_bytes: most bytes that are read.

    Raises:
        AddressError: saying why there is no content.
    """
    deadline = time.monotonic() + TIMEOUT_S
    for _ in range(MAX_REDIRECTS + 1):
        try:
            content, url = _step(url, max_bytes, deadline)
        except TimeoutError as error:
            raise AddressError(f"the answer took longer than {TIMEOUT_S:g} s") from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise AddressError(f"the address gave no answer ({type(error).__name__})") from error
        if content is not None:
            return content
    raise AddressError(f"the address redirects more than {MAX_REDIRECTS} times")


def _quoted(part: str) -> str:
    """A part of an address in the letters that HTTP knows; what is quoted already stays so."""
    return quote(part, safe="%/:=&?~+!$,;'@()*[]")


def _left(deadline: float) -> float:
    """Seconds until the deadline.

    Raises:
        TimeoutError: when there are none.
    """
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


class _TimedStream(io.RawIOBase):
    """What a socket receives until the deadline, by however few bytes it comes."""

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self._sock, self._deadline = sock, deadline
        self._stream = sock.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(_left(self._deadline))
        return self._stream.readinto(buffer)

    def close(self) -> None:
        self._stream.close()
        super().close()


class _TimedSocket:
    """As much of a socket as `http.client` uses of it, each step ending by the deadline."""

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self._sock, self._deadline = sock, deadline

    def sendall(self, content: bytes) -> None:
        self._sock.settimeout(_left(self._deadline))
        self._sock.sendall(content)

    def makefile(self, _: str) -> io.BufferedReader:
        return io.BufferedReader(_TimedStream(self._sock, self._deadline))

    def close(self) -> None:
        self._sock.close()


def _connection(url: str, deadline: float) -> tuple[http.client.HTTPConnection, str]:
    """An open connection to the address that was checked, and what to ask for."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise AddressError("expected an address with http:// or https:// and a host")
    secure = parts.scheme == "https"
    port = parts.port or (443 if secure else 80)
    kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
    host = parts.hostname.encode("idna").decode("ascii")
    connection = kind(host, port)
    # Connected here: the name must not be looked up again, it could stand for another host then.
    address = public_address(host, port)
    sock = socket.create_connection((address, port), _left(deadline))
    if secure:
        sock.settimeout(_left(deadline))
        sock = ssl.create_default_context().wrap_socket(sock, server_hostname=host)
    connection.sock = cast(socket.socket, _TimedSocket(sock, deadline))
    return connection, _quoted(parts.path or "/") + (
        f"?{_quoted(parts.query)}" if parts.query else ""
    )


def _step(url: str, max_bytes: int, deadline: float) -> tuple[bytes | None, str]:
    """One request: the content, or the address that it redirects to."""
    connection, path = _connection(url, deadline)
    try:
        connection.request("GET", path, headers={"User-Agent": "faceattr"})
        answer = connection.getresponse()
        if answer.status in (301, 302, 303, 307, 308):
            # http.client reads each byte as one character.
            target = answer.headers.get("Location", "").encode("latin-1", "replace")
            return None, urljoin(url, target.decode("utf-8", "replace"))
        if answer.status != 200:
            raise AddressError(f"the address answered HTTP {answer.status}")
        content = bytearray()
        while chunk := answer.read(_CHUNK):
            content += chunk
            if len(content) > max_bytes:
                raise AddressError(f"expected at most {max_bytes:,} bytes, came more")
        return bytes(content), url
    finally:
        connection.close()

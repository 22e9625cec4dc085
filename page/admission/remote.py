"""Pictures from public web addresses: capped in size, never from a private network."""

from __future__ import annotations

import asyncio
import ipaddress
import socket

import httpx
from safehttpx import AsyncSecureTransport

from page.errors import RequestError

MAX_REDIRECTS = 3
TIMEOUT_S = 10.0


def _refused(reason: str) -> RequestError:
    return RequestError("bad_request", f"the address cannot be used: {reason}")


async def public_address(host: str) -> str:
    """One public IP address of a host.

    Raises:
        RequestError: when the name has no address, or any that is not public.
    """
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise _refused("its host is unknown") from None
    addresses = [str(entry[4][0]).partition("%")[0] for entry in found]
    for text in addresses:
        address = ipaddress.ip_address(text)
        mapped = getattr(address, "ipv4_mapped", None) or address
        if not mapped.is_global or mapped.is_multicast:
            raise _refused("only public hosts are allowed")
    return addresses[0]


async def fetch(url: str, max_bytes: int) -> bytes:
    """The content of a public http or https address; each redirect is checked like the first.

    Raises:
        RequestError: "bad_request" or "too_large".
    """
    try:
        return await asyncio.wait_for(_follow(url, max_bytes), TIMEOUT_S)
    except (httpx.HTTPError, httpx.InvalidURL, asyncio.TimeoutError):
        raise _refused("it did not answer properly") from None


async def _follow(url: str, max_bytes: int) -> bytes:
    for _ in range(MAX_REDIRECTS + 1):
        content, url = await _step(httpx.URL(url), max_bytes)
        if content is not None:
            return content
    raise _refused(f"more than {MAX_REDIRECTS} redirects")


async def _step(url: httpx.URL, max_bytes: int) -> tuple[bytes | None, str]:
    """One request: the content, or the address that it redirects to."""
    if url.scheme not in ("http", "https") or not url.host:
        raise _refused("expected http:// or https://")
    # The connection goes to the address that was checked, whatever the name stands for later.
    transport = AsyncSecureTransport(await public_address(url.host))
    async with (
        httpx.AsyncClient(transport=transport, trust_env=False, timeout=TIMEOUT_S) as client,
        client.stream("GET", url, follow_redirects=False) as answer,
    ):
        if answer.is_redirect:
            return None, str(url.join(answer.headers.get("location", "")))
        if answer.status_code != 200:
            raise _refused(f"it answered HTTP {answer.status_code}")
        content = bytearray()
        async for chunk in answer.aiter_bytes():
            content += chunk
            if len(content) > max_bytes:
                raise RequestError(
                    "too_large", f"expected at most {max_bytes:,} bytes a picture, came more"
                )
        return bytes(content), str(url)

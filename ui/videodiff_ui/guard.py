"""What stands between the network and Gradio: which hosts, which origins, how much may be uploaded, which headers.

A page of another site can reach a server on this machine in two ways. By rebinding its own name to a loopback address
(the Host header then names that site), or by sending a form (the Origin header then names it). Both are refused before
anything is read. An upload is refused before it is written where it would go over the quota.
"""

import re
import secrets
import threading
from collections.abc import Callable
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from videodiff.errors import OutOfResources

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
SAFE = ("GET", "HEAD", "OPTIONS")
UPLOADS = "/gradio_api/upload"

# Gradio's page has inline scripts and makes functions of the js of its events; its trimmer is a worker from a blob.
# No outside host is named anywhere, so even a script that got in could fetch and send nothing.
POLICY = {
    "default-src": "'self'",
    "script-src": "'self' 'unsafe-inline' 'unsafe-eval' blob:",
    "style-src": "'self' 'unsafe-inline'",
    "img-src": "'self' data: blob:",
    "media-src": "'self' data: blob:",
    "font-src": "'self' data:",
    "connect-src": "'self' data: blob:",
    "worker-src": "'self' blob:",
    "object-src": "'none'",
    "base-uri": "'self'",
    "form-action": "'self'",
}
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "geolocation=(), microphone=(), payment=(), usb=()",
}


COOKIE = "videodiff-visitor"
COOKIE_RULES = "Path=/; Max-Age=604800; HttpOnly; Secure; SameSite=None; Partitioned"
"""A Space is shown in a frame of another site, where only such a cookie is kept: for that site alone."""


class Quota:
    """Room for uploads, given out before they are written.

    `check(size)` raises OutOfResources where there is no room for so many bytes, of which `most` may be kept in all.
    """

    def __init__(self, most: int, check: Callable[[int], None]) -> None:
        self.most, self.check = most, check
        self._lock, self._promised = threading.Lock(), 0

    def take(self, size: int) -> bool:
        """Whether there is room for `size` bytes; if so they are set aside until `give`."""
        with self._lock:
            try:
                self.check(self._promised + size)
            except OutOfResources:
                return False
            self._promised += size
            return True

    def give(self, size: int) -> None:
        """The upload has ended: what it left counts from now on by what lies in the folders."""
        with self._lock:
            self._promised -= size


class Guard:
    """ASGI middleware around the whole app.

    `hosts` are the names the server goes by; it may grow, as the name of a share link is known only after the start.
    `addresses` accepts any host written as an address, which no site can rebind: for servers beyond loopback.
    `most` bytes an upload. `framed` allows other sites to show the app in a frame, as a Space must; visitors of such a
    server are told apart by a cookie.
    """

    def __init__(self, app: ASGIApp, hosts: set[str], addresses: bool, quota: Quota, most: int, framed: bool) -> None:
        self.app, self.hosts, self.addresses, self.quota, self.most = app, hosts, addresses, quota, most
        policy = POLICY if framed else {**POLICY, "frame-ancestors": "'self'"}
        self.visitors = framed
        self.headers = {**HEADERS, "Content-Security-Policy": "; ".join(" ".join(row) for row in policy.items())}
        if framed:
            del self.headers["Cross-Origin-Resource-Policy"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            # Nothing here speaks by web socket; the start and end of the server's life pass.
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        refusal = self._refusal(scope["method"], scope["path"], headers)
        if refusal is not None:
            await self._answer(refusal, scope, receive, send)
        elif scope["method"] == "POST" and scope["path"].rstrip("/") == UPLOADS:
            await self._upload(headers, scope, receive, send)
        else:
            visitor = _visitor(headers) if self.visitors and scope["path"] == "/" else ""
            await self.app(scope, receive, self._sealed(send, visitor))

    def _refusal(self, method: str, path: str, headers: Headers) -> PlainTextResponse | None:
        host = headers.get("host", "").lower()
        if _name(host) not in self.hosts and not (self.addresses and _is_address(_name(host))):
            return PlainTextResponse("This server does not answer to that host name.", 400)
        if method in SAFE:
            return None
        if path.rstrip("/") != UPLOADS and ("transfer-encoding" in headers or _length(headers) > MOST_BODY):
            return PlainTextResponse(f"A request may have {MOST_BODY / 1e6:.0f} MB, and states its length.", 413)
        origin = headers.get("origin")  # programs send none; browsers do with everything but GET and HEAD
        ours = origin is None or urlsplit(origin).netloc.lower() == host
        if not ours or headers.get("sec-fetch-site") == "cross-site":
            return PlainTextResponse("Requests from other sites are refused.", 403)
        return None

    async def _upload(self, headers: Headers, scope: Scope, receive: Receive, send: Send) -> None:
        given = headers.get("content-length", "")
        if not given.isdecimal() or "transfer-encoding" in headers:  # of the two the latter would count
            await self._answer(PlainTextResponse("State the length of the upload.", 411), scope, receive, send)
            return
        size = int(given)
        if size > self.most + FORM_ROOM:
            text = f"The upload has {size / 1e6:.0f} MB, and at most {self.most / 1e6:.0f} MB are taken (--max-upload)."
            await self._answer(PlainTextResponse(text, 413), scope, receive, send)
            return
        if not await run_in_threadpool(self.quota.take, size):
            text = (
                f"No room for this upload: clips put in may take {self.quota.most / 1e9:.1f} GB in all (--quota). "
                "Empty the folders cache and uploads of the data folder, or allow more."
            )
            await self._answer(PlainTextResponse(text, 413), scope, receive, send)
            return
        try:
            await self.app(scope, receive, self._sealed(send))
        finally:
            self.quota.give(size)

    async def _answer(self, response: PlainTextResponse, scope: Scope, receive: Receive, send: Send) -> None:
        await response(scope, receive, self._sealed(send))

    def _sealed(self, send: Send, visitor: str = "") -> Send:
        """`send` with our headers on every answer, and the cookie of a visitor where one is given."""

        async def sealed(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self.headers.items():
                    headers[name] = value
                if visitor:
                    headers.append("set-cookie", f"{COOKIE}={visitor}; {COOKIE_RULES}")
            await send(message)

        return sealed


MOST_BODY = 16_000_000
"""Bytes of a request that is no upload: the largest are painted masks, of one bit a pixel."""
FORM_ROOM = 64_000
"""Bytes a form takes around the file it carries."""


def _name(host: str) -> str:
    """A Host header, or the host part of an origin, without its port."""
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdecimal() else host).lower()


def _length(headers: Headers) -> int:
    given = headers.get("content-length", "")
    return int(given) if given.isdecimal() else 0


def _visitor(headers: Headers) -> str:
    """Who a visitor was the last time, or is from now on."""
    found = re.search(rf"(?:^|;)\s*{COOKIE}=([A-Za-z0-9_-]{{32}})\s*(?:;|$)", headers.get("cookie", ""))
    return found[1] if found else secrets.token_urlsafe(24)


def _is_address(name: str) -> bool:
    try:
        ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True

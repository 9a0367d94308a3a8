"""Who may ask, and what every answer says: in front of all that the server does."""

import hashlib
import ipaddress
import secrets
from collections.abc import Collection
from urllib.parse import parse_qsl, quote, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})
OPEN = "/healthz"
"""Answers whoever asks, for it says nothing but that the server is there."""
_HEADERS = {
    "content-security-policy": "; ".join(
        (
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "img-src 'self' blob: data:",
            "connect-src 'self'",
            "font-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}


def is_loopback(host: str) -> bool:
    """Say whether an address is one that only this machine reaches."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Guard:
    """Lets requests through that come from the page itself or bring the token.

    Without a token the name by which the server was asked has to be one of `hosts`, else a page of
    somebody else's whose name leads to this machine could read the answers (DNS rebinding).
    """

    def __init__(self, app: ASGIApp, token: str | None, hosts: Collection[str] = LOOPBACK) -> None:
        self._app, self._token, self._hosts = app, token, hosts
        # Browsers send the cookies of one server to all others on the machine.
        digest = hashlib.blake2b((token or "").encode(), digest_size=4).hexdigest()
        self._cookie = f"lookalike-{digest}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or hand it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
                headers.setdefault("cache-control", "no-cache")  # there may be a newer version
            await send(message)

        answer: ASGIApp = self._refusal(scope, Headers(scope=scope)) or self._app
        await answer(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope, headers: Headers) -> Response | None:
        navigates = headers.get("sec-fetch-mode") == "navigate" and scope["method"] == "GET"
        if headers.get("sec-fetch-site") == "cross-site" and not navigates:
            return _problem(403, "another site's page may not ask: open this address itself")
        if self._token is None:
            host = headers.get("host", "").lower()
            name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
            if name not in self._hosts:
                return _problem(
                    403,
                    "not this server's name: open the address it printed, or start it with a token",
                )
            return None
        return None if scope["path"] == OPEN else self._without_token(scope, headers)

    def _without_token(self, scope: Scope, headers: Headers) -> Response | None:
        asked = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        if scope["method"] == "GET" and self._is_token(dict(asked).get("token", "")):
            # The token leaves the address, and with it the history and what is passed on.
            rest = urlencode([(name, value) for name, value in asked if name != "token"])
            last = scope["path"].rpartition("/")[2]
            answer = RedirectResponse(f"./{quote(last)}{'?' if rest else ''}{rest}", 303)
            assert self._token is not None  # it was found equal
            # Lax, or a link in a letter would lead to nothing.
            answer.set_cookie(self._cookie, self._token, httponly=True, samesite="lax")
            return answer
        kind, _, bearer = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and self._is_token(bearer.strip()):
            return None
        if self._is_token(cookie_parser(headers.get("cookie", "")).get(self._cookie, "")):
            return None
        return _problem(
            401,
            "open the address that `lookalike serve` printed, or send its token "
            "(Authorization: Bearer TOKEN)",
            {"www-authenticate": "Bearer"},
        )

    def _is_token(self, given: str) -> bool:
        return secrets.compare_digest(given.encode(), (self._token or "").encode()) and bool(given)


def _problem(status: int, text: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error": text}, status, headers)

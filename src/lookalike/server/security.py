"""Access control and security headers, in front of all routes."""

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
HEALTH_PATH = "/healthz"
"""This route needs no token: it only tells that the server runs."""
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
    """Tell whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Guard:
    """ASGI middleware that passes requests with the token, or from the page itself.

    Without a token, the host name of the request has to be one of `hosts`: a page of another site
    whose name resolves to this machine could read responses otherwise (DNS rebinding).
    """

    def __init__(self, app: ASGIApp, token: str | None, hosts: Collection[str] = LOOPBACK) -> None:
        self._app, self._token, self._hosts = app, token, hosts
        # Browsers send a cookie to all servers of a machine: give each token its own cookie name.
        digest = hashlib.blake2b((token or "").encode(), digest_size=4).hexdigest()
        self._cookie = f"lookalike-{digest}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse a request, or pass it to the application."""
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
            return _error_response(
                403, "requests of other sites are refused: open this address directly"
            )
        if self._token is None:
            host = headers.get("host", "").lower()
            name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
            if name not in self._hosts:
                return _error_response(
                    403,
                    "unknown host name: open the address that the server printed, or start it "
                    "with a token",
                )
            return None
        return None if scope["path"] == HEALTH_PATH else self._check_token(scope, headers)

    def _check_token(self, scope: Scope, headers: Headers) -> Response | None:
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        if scope["method"] == "GET" and self._is_token(dict(query).get("token", "")):
            # Remove the token from the address, so that it is not in the history or in links.
            rest = urlencode([(name, value) for name, value in query if name != "token"])
            last = scope["path"].rpartition("/")[2]
            answer = RedirectResponse(f"./{quote(last)}{'?' if rest else ''}{rest}", 303)
            assert self._token is not None  # `_is_token` has compared it
            # Lax: links from other sites, such as mail, must work.
            answer.set_cookie(self._cookie, self._token, httponly=True, samesite="lax")
            return answer
        kind, _, bearer = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and self._is_token(bearer.strip()):
            return None
        if self._is_token(cookie_parser(headers.get("cookie", "")).get(self._cookie, "")):
            return None
        return _error_response(
            401,
            "open the address that `lookalike serve` printed, or send its token "
            "(Authorization: Bearer TOKEN)",
            {"www-authenticate": "Bearer"},
        )

    def _is_token(self, given: str) -> bool:
        return secrets.compare_digest(given.encode(), (self._token or "").encode()) and bool(given)


def _error_response(status: int, text: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error": text}, status, headers)

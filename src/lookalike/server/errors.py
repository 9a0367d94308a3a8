"""Errors as responses: `{"error": "one line that says what to do"}`."""

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from lookalike.errors import LookalikeError
from lookalike.server.refresher import log

_OF_FASTAPI = "There was an error parsing the body"
_NO_JSON = "the body is no JSON: send an object, in UTF-8"


def add_error_handlers(app: FastAPI) -> None:
    """Add the handlers that turn errors into responses of one line."""

    @app.exception_handler(HTTPException)
    async def refused(_: Request, error: HTTPException) -> Response:
        text = _NO_JSON if error.detail == _OF_FASTAPI else str(error.detail)
        return JSONResponse({"error": text}, error.status_code, error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"][1:]) or "the request"
        return JSONResponse({"error": f"{name}: {first['msg']}"}, 422)

    @app.exception_handler(ClientDisconnect)
    async def gone(_: Request, error: ClientDisconnect) -> Response:
        return JSONResponse({"error": "the client has disconnected"}, 400)

    @app.exception_handler(LookalikeError)
    async def wrong(_: Request, error: LookalikeError) -> Response:
        log.error("%s", error)  # it names files: not for the response
        return JSONResponse({"error": "not available now: see the log of the server"}, 503)

    @app.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> Response:
        return JSONResponse({"error": "internal error: see the log of the server"}, 500)

"""What went wrong at a store, in one line that says what to do."""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

from lookalike.errors import LookalikeError

_MAX_LETTERS = 300

_TRIES = re.compile(
    r" in [\d.]+\w+(, after \d+ retries, max_retries: \d+, retry_timeout: \d+\w+)? *-"
)

_OF_STORE = (  # also where the request was about one object
    (
        r"169\.254\.169\.254|metadata\.google|[Mm]issing ?[Cc]redential|MissingAccessKey|"
        r"Account must be specified|MissingAccount|InstanceMetadata|NoCredentialProviders",
        "no credentials for {where}: set {credentials}",
    ),
    (
        r"ExpiredToken|TokenExpired|RequestExpired|token (has|is|included in the request is) "
        r"expired|AuthenticationFailed.*expired",
        "the credentials for {where} have expired: renew them, and run the same command again",
    ),
    (
        r"InvalidAccessKeyId|SignatureDoesNotMatch|InvalidToken|InvalidClientTokenId|"
        r"AuthenticationFailed|UnauthenticatedError|invalid_grant",
        "{where} refuses the credentials: check {credentials}",
    ),
    (
        r"NoSuchBucket|ContainerNotFound|specified (bucket|container) does not exist|"
        r"InvalidBucketName|InvalidResourceName",
        "no such bucket: {root}: check its name, and the endpoint that the environment sets",
    ),
)
_OF_REQUESTS = (
    (
        r"PermanentRedirect|AuthorizationHeaderMalformed|IllegalLocationConstraint|"
        r"redirect without LOCATION",
        "{root} lies in another region: set AWS_REGION to the region of the bucket",
    ),
    (
        r"http://.* builder error|URL scheme is not allowed|BadScheme",
        "the endpoint of {root} has no TLS: set AWS_ALLOW_HTTP=true to use it as it is",
    ),
    (
        r"NotImplemented|501 Not Implemented|NotSupported|not (yet )?(supported|implemented)",
        "{where} cannot do that ({reason}): use a store that can, which for writing means "
        "conditional puts",
    ),
    (
        r"SlowDown|TooManyRequests|InternalError|code: (429|50\d)",
        "{where} is overloaded or broken ({reason}): run the same command again later",
    ),
    (
        r"tim(ed?|e) ?out|deadline",
        "{where} does not answer in time ({reason}): run the same command again later",
    ),
    (
        r"error sending request|dns error|[Cc]onnection|connect error|error trying to connect|"
        r"body error|decoding response body",
        "{where} cannot be reached ({reason}): check the network, and the endpoint that the "
        "environment sets",
    ),
    (
        r"code: 400",
        "{where} refuses the request ({reason}): check the credentials, which may have expired",
    ),
    (
        r"empty path segment|illegal character sequence|parse path|invalid path",
        "{where} holds a name with an empty part or a control character ({reason}): rename that "
        "object, or give a folder without it",
    ),
)

_CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE "
    "(AWS_SKIP_SIGNATURE=true for a public bucket)",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS (GOOGLE_SKIP_SIGNATURE=true for a public bucket)",
    "hdfs": "HADOOP_USER_NAME",
}
_AZURE = "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY"
_PAST_THE_END = re.compile(r"Invalid ?[Rr]ange|code: 416|416 R|[Rr]ange was invalid")
_PANIC = "PanicException"  # of Rust: pyo3 does not make it an `Exception`
_MISSING = ("FileNotFoundError", "NotFoundError")
_EXISTING = ("FileExistsError", "AlreadyExistsError", "PreconditionError")
_DENIED = ("PermissionError", "PermissionDeniedError")


class StoreError(LookalikeError):
    """A store as a whole failed: it says nothing about one of its objects."""


@contextmanager
def explained(where: str, name: str | None = None) -> Iterator[None]:
    """Turn errors of a backend in the block into one line.

    Parameters
    ----------
    where
        The URI of the store.
    name
        The object, None if the block is about all of the store.

    Raises
    ------
    FileNotFoundError, FileExistsError, PermissionError
        If there is no such object, there is one already, or it may not be read.
    StoreError
        For all else.

    """
    try:
        yield
    except (LookalikeError, MemoryError):
        raise
    except Exception as error:  # each backend has errors of its own
        raise _meaning(error, where, name) from None
    except BaseException as error:
        if type(error).__name__ != _PANIC:
            raise
        raise _meaning(RuntimeError(str(error)), where, name) from None


def is_past_the_end(error: Exception) -> bool:
    """Tell whether a range was wanted that begins where the object ends, or later."""
    return _PAST_THE_END.search(str(error)) is not None


def _meaning(error: Exception, where: str, name: str | None) -> Exception:
    kind, reason = type(error).__name__, _reason(error)
    place = where if name is None else f"{where}/{name}"
    if message := _found(_OF_STORE, f"{kind} {reason}"):
        return _store_error(message, reason, where)
    if kind in _MISSING or (name is not None and "parse path" in reason):
        return FileNotFoundError(errno.ENOENT, "no such object", place)
    if kind in _EXISTING:
        return FileExistsError(errno.EEXIST, "the object exists", place)
    if kind in _DENIED or (name is None and re.search("code: 403|AccessDenied", reason)):
        if name is not None:
            return PermissionError(errno.EACCES, "access denied", place)
        return StoreError(f"{where} may not be listed: ask its owner for the right to")
    if message := _found(_OF_REQUESTS, f"{kind} {reason}"):
        return _store_error(message, reason, where)
    return StoreError(f"{place} cannot be read ({reason}): see to that and try again")


def _found(meanings: tuple[tuple[str, str], ...], said: str) -> str | None:
    return next((message for pattern, message in meanings if re.search(pattern, said)), None)


def _store_error(message: str, reason: str, where: str) -> StoreError:
    scheme, _, rest = where.partition("://")
    return StoreError(
        message.format(
            where=where,
            root=f"{scheme}://{rest.partition('/')[0]}",
            credentials=_CREDENTIALS.get(scheme, _AZURE),
            reason=reason,
        )
    )


def _reason(error: Exception) -> str:
    """Return an error in one line, without the dump of its parts that obstore adds."""
    text = _TRIES.sub(":", str(error).split("\n\nDebug source")[0])
    text = text.replace("Server returned non-2xx status ", "")
    line = " ".join(text.split()).removesuffix(".")
    return line[:_MAX_LETTERS] or type(error).__name__

"""Errors of Spark in one line."""

import re

MAX_ERROR_CHARS = 400
# The line of an error in Java or Python; the last one is the cause.
_ERROR_LINE = re.compile(r"(?:Caused by: |: )?([\w.$]+(?:Error|Exception)\b.*: .*)")
_MISSING_MODULE = re.compile(r"No module named '?(\w+)")
_OF_PYTHON = re.compile(r"Error from python worker:\s+\S+: No module named '?(\w+)")


def short_error(error: BaseException) -> str:
    """Return the cause of a Spark error in one line, without its stack traces."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    named = [
        found[1]
        for line in lines
        if (found := _ERROR_LINE.match(line)) and not line.endswith("(most recent call last):")
    ]
    cause = named[-1] if named else lines[0] if lines else type(error).__name__
    if missing := _MISSING_MODULE.search(cause) or _OF_PYTHON.search(str(error)):
        return (
            f"the Python of Spark's workers has no package {missing[1]!r}: install "
            "lookalike[spark] there, or set PYSPARK_PYTHON to a Python that has it"
        )
    return cause[:MAX_ERROR_CHARS]


def is_spark_error(error: BaseException) -> bool:
    """Tell whether an error comes from Spark or Java."""
    return type(error).__module__.startswith(("pyspark", "py4j", "grpc"))

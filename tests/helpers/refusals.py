"""A call that has to be refused, with a message for whoever made it."""

import re
from collections.abc import Callable

import pytest

from lookalike import LookalikeError


def refusal(call: Callable[[], object], pattern: str) -> None:
    """Check that a call raises `LookalikeError` with one line that says what it should."""
    with pytest.raises(LookalikeError) as caught:
        call()
    message = str(caught.value)
    assert message.isprintable(), message
    assert re.search(pattern, message), message

"""The one exception that lookalike raises on purpose."""


class LookalikeError(Exception):
    """A problem the caller can solve. The message is one line and says what to do next."""

"""Ctrl-C stays Ctrl-C on its way up through pydantic."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

INTERRUPTED = 130  # exit status that shells expect after Ctrl-C
HIDING = "PydanticSerializationError"  # by its name: commands start without pydantic


@contextlib.contextmanager
def keep_ctrl_c() -> Iterator[None]:
    """Raise ``KeyboardInterrupt`` where Ctrl-C came while pydantic called a serializer.

    pydantic makes a ``PydanticSerializationError`` of whatever rises in a serializer, and keeps the
    name of what it was in its text alone.

    Raises:
        KeyboardInterrupt: Ctrl-C came there.

    Example:
        >>> with keep_ctrl_c():
        ...     1 + 1
        2
    """
    try:
        yield
    except Exception as error:
        if type(error).__name__ == HIDING and KeyboardInterrupt.__name__ in str(error):
            raise KeyboardInterrupt from error
        raise

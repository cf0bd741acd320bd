"""Ctrl-C stays Ctrl-C on its way up through libraries."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

INTERRUPTED = 130  # exit status that shells expect after Ctrl-C


@contextlib.contextmanager
def keep_ctrl_c() -> Iterator[None]:
    """Raise ``KeyboardInterrupt`` where Ctrl-C came, whatever error compiled code made of it.

    If Ctrl-C comes while pydantic calls a serializer, pydantic raises a
    ``PydanticSerializationError``, which looks like a fault of this program.

    Raises:
        KeyboardInterrupt: An error rose out of the context after Ctrl-C.

    Example:
        >>> with keep_ctrl_c():
        ...     1 + 1
        2
    """
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return
    seen = False

    def noticed(number: int, frame: FrameType | None) -> None:
        nonlocal seen
        seen = True
        before(number, frame)

    signal.signal(signal.SIGINT, noticed)
    try:
        yield
    except Exception as error:
        if seen:
            raise KeyboardInterrupt from error
        raise
    finally:
        signal.signal(signal.SIGINT, before)

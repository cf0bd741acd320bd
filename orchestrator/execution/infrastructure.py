"""Failures of disk, host and Ray, told apart from failures of a recipe, in one line each."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator

from trainables.text.redaction import redact

DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO})
# Libraries that write files raise errors of their own: safetensors (Rust), NumPy, torch, sqlite.
DISK_TEXT = re.compile(
    r"[^\n]*(?:No space left on device|Disk quota exceeded|File too large"
    r"|Read-only file system|\d+ requested and \d+ written"
    r"|PytorchStreamWriter failed writing file|database or disk is full)[^\n]*"
)
RAY_ERRORS = ("LocalRayletDiedError", "RaySystemError", "RaySyncError", "RpcError")


class InfrastructureError(RuntimeError):
    """Disk, host or Ray failed, not a recipe; one line that says what.

    What was recorded before is kept, and the same command goes on when the failure is mended.
    """


def infrastructure_fault(error: BaseException) -> str | None:
    """Return in one line what failed, if disk, host or Ray did; ``None`` for any other error.

    Errors that the error was raised from, or that a Ray task wraps, are looked at too.

    Example:
        >>> infrastructure_fault(OSError(28, "No space left on device", "runs/sweep.json"))
        "no space left on device: 'runs/sweep.json'"
        >>> infrastructure_fault(FloatingPointError("classify: loss is nan at step 40")) is None
        True
    """
    for one in _chain(error):
        if isinstance(getattr(one, "cause", None), BaseException):
            continue  # what wraps another error has a page of text
        if isinstance(one, InfrastructureError):
            return str(one)
        if isinstance(one, OSError) and one.errno in DISK:
            place = f": '{one.filename}'" if one.filename else ""
            reason = one.strerror or "the disk fails"
            return f"{reason[0].lower()}{reason[1:]}{place}"
        if type(one).__name__ in RAY_ERRORS:
            return f"Ray ended while the sweep ran ({one_line(one)})"
    found = DISK_TEXT.search(str(error))
    return " ".join(found.group().split())[:300] if found else None


def one_line(error: BaseException) -> str:
    r"""Return type and message of an error in one line of at most 300 characters.

    Of an error that a Ray task raised, this is the error inside the task.

    Example:
        >>> one_line(ValueError("loss is\nnan"))
        'ValueError: loss is nan'
    """
    inner = getattr(error, "cause", None)
    if isinstance(inner, BaseException):
        return one_line(inner)
    text = redact(" ".join(str(error).split()))
    return f"{type(error).__name__}: {text}"[:300] if text else type(error).__name__


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, then those that it wraps or was raised from."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        one = waiting.pop(0)
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        inner = (getattr(one, "cause", None), one.__cause__, one.__context__)
        waiting += [e for e in inner if isinstance(e, BaseException)]

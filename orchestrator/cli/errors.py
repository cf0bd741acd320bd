"""How a command fails: one line on standard error, and its exit status."""

from __future__ import annotations

import errno
import sys
from typing import Any, NoReturn

import typer

WRONG_INPUT, FAILED = 2, 1
# Of paths that a user gave, or of what lies below them.
PLACES = (errno.EACCES, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EPERM)
# typer has no public name for the base class of what is wrong with a command's words
USAGE_ERRORS: tuple[type[Any], ...] = typer.BadParameter.__bases__
# Libraries between us and the tracker's database or server.
TRACKER_LIBRARIES = ("alembic", "mlflow", "requests", "sqlalchemy", "urllib3")


def fail(error: Exception) -> NoReturn:
    """Leave with one line that explains an error.

    The status is 2 for what a user got wrong, and 1 for a failure of disk, host, Ray or MLflow.

    Raises:
        Exception: The error itself, if it is a fault of this program.
    """
    if isinstance(error, USAGE_ERRORS):
        _fail_usage(error)
    reason = _wrong_input(error)
    if reason is not None:
        _leave(reason, WRONG_INPUT)
    reason = _failure(error)
    if reason is not None:
        _leave(reason, FAILED)
    raise error


def _fail_usage(error: Any) -> NoReturn:
    """Leave because of a command's words."""
    if type(error).__name__ == "NoArgsIsHelpError":  # the message is the help text
        error.show()
        sys.exit(WRONG_INPUT)
    command = error.ctx.command_path if error.ctx else "orchestrator"
    _leave(f"{error.format_message().rstrip('.')}; see {command} --help", WRONG_INPUT)


def _wrong_input(error: Exception) -> str | None:
    """Return what a user got wrong; ``None`` for any other error."""
    from pydantic import ValidationError

    from trainables.errors import ConfigError, short

    if isinstance(error, ConfigError):
        return str(error)
    if type(error).__name__ == "UnsupportedModelRegistryStoreURIException":
        return f"MLflow: {error}"
    if not (isinstance(error, ValidationError) and error.title in ("SweepOptions", "FitOptions")):
        return None
    first = error.errors()[0]
    option, reason = str(first["loc"][0]).replace("_", "-"), first["msg"]
    if "error" in first.get("ctx", {}):  # raised by a check of ours
        reason = str(first["ctx"]["error"])
    if reason.startswith("--"):
        return reason
    return f"--{option}: {reason}; received {short(first['input'])}"


def _failure(error: Exception) -> str | None:
    """Return what failed of disk, host, Ray or MLflow; ``None`` for any other error."""
    from orchestrator.execution.infrastructure import infrastructure_fault

    fault = infrastructure_fault(error)
    if fault is None and isinstance(error, OSError) and error.errno in PLACES and error.filename:
        fault = f"{error.strerror}: {error.filename}"
    if fault is None and type(error).__module__.partition(".")[0] in TRACKER_LIBRARIES:
        fault = f"MLflow: {' '.join(str(error).split())[:300]}"
    return fault


def _leave(text: str, status: int) -> NoReturn:
    from trainables.errors import readable
    from trainables.text.redaction import print_error

    print_error(readable(text))
    sys.exit(status)

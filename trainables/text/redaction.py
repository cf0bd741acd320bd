"""Texts without passwords, and errors on the terminal."""

from __future__ import annotations

import re
import sys

from trainables.errors import readable

_USER_INFO = re.compile(r"(?<!sqlite)://[^\s'\"]*@")
_SECRETS = re.compile(r"((?:password|passwd|pwd|token|secret)=)[^&\s'\"]+", re.IGNORECASE)


def redact(text: str) -> str:
    """Return a text in which user and password of addresses are replaced by ``***``.

    Example:
        >>> redact("no answer from https://ann:s3cret@mlflow.example:5000/api")
        'no answer from https://***@mlflow.example:5000/api'
        >>> redact("postgresql://db/mlflow?password=s3cret&sslmode=require")
        'postgresql://db/mlflow?password=***&sslmode=require'
        >>> redact("sqlite:////home/ann@work/mlflow.db")
        'sqlite:////home/ann@work/mlflow.db'
    """
    return _SECRETS.sub(r"\1***", _USER_INFO.sub("://***@", text))


def print_error(text: str) -> None:
    """Write an error to standard error, without control characters and passwords."""
    lines = [readable(line) for line in redact(text).split("\n")]
    sys.stderr.write("error: " + "\n".join(lines) + "\n")

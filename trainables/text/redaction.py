"""Texts without passwords, and errors on the terminal.

Credentials stand in addresses and in variables of the environment. What a user's own files and
classes are called stays as it is, also where it looks like one (``token=abc.jpg``).
"""

from __future__ import annotations

import re
import sys

from trainables.errors import readable

# addresses of files have no user, and an @ may be in a file's name
_ADDRESS = re.compile(r"\b(?!(?:sqlite|file|s3|gs)://)[\w+.-]+://[^\s'\"]+")
_USER_INFO = re.compile(r"://.*@")
_QUERY = re.compile(
    r"([?&;](?:password|passwd|pwd|token|access_token|secret)=)[^&;]+", re.IGNORECASE
)
# as shells write it, and as Python does; files are seldom called so
_VARIABLE = re.compile(
    r"(\b[A-Z][A-Z0-9_]*_(?:PASSWORD|PASSWD|TOKEN|SECRET|(?:API|ACCESS|SECRET)_KEY)"
    r"['\"]?(?:=|: ?)['\"]?)(?:(?<=')[^']+|(?<=\")[^\"]+|[^\s'\",}]+)"
)


def redact(text: str) -> str:
    """Return a text with ``***`` in place of users and passwords of addresses and variables.

    Example:
        >>> redact("no answer from https://ann:s3cret@mlflow.example:5000/api")
        'no answer from https://***@mlflow.example:5000/api'
        >>> redact("postgresql://db/mlflow?password=s3cret&sslmode=require")
        'postgresql://db/mlflow?password=***&sslmode=require'
        >>> redact("sqlite:////home/ann@work/mlflow.db")
        'sqlite:////home/ann@work/mlflow.db'
        >>> redact("no class 'token=abc' in s3://team/cats@home/secret=1.jpg")
        "no class 'token=abc' in s3://team/cats@home/secret=1.jpg"
        >>> redact("{'MLFLOW_TRACKING_TOKEN': 'abc'} MLFLOW_TRACKING_PASSWORD=abc")
        "{'MLFLOW_TRACKING_TOKEN': '***'} MLFLOW_TRACKING_PASSWORD=***"
    """
    text = _VARIABLE.sub(r"\1***", text)
    return _ADDRESS.sub(lambda found: _address(found[0]), text)


def _address(text: str) -> str:
    return _QUERY.sub(r"\1***", _USER_INFO.sub("://***@", text))


def print_error(text: str) -> None:
    """Write an error to standard error, without control characters and passwords."""
    lines = [readable(line) for line in redact(text).split("\n")]
    sys.stderr.write("error: " + "\n".join(lines) + "\n")

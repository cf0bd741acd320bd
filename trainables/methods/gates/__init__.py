"""Shelf: gates. One file per method; the contract is `Gate`."""

from trainables.methods.method import Method


class Gate(Method):
    """Decides whether a challenger may replace the champion.

    ``(*, challenger, champion) -> (passed, reason)``: both are metric dictionaries, ``champion``
    may be None.
    """

"""Shots: which images of a folder belong together, and which part each keeps for good.

Modules in reading order: `look` (`look_at_photos`), `photo_set` (what it returns, and its table),
`candidates` (files and labels), `identity` (digests), `remembered` (unchanged files are not read
again), `grouping` (copies and links), `parts` (train, val, test), `ledger` (written down),
`remarks` (what may mislead). No stage imports them.
"""

"""Shots: which images of a folder belong together, and which part each keeps for good.

Modules in reading order: `look` (`look_at_photos`), `photo_set` (its result, and a table of it),
`candidates` (files), `own_groups` (of the user; labels too), `identity` (digests), `remembered`
(unchanged files are not read again), `grouping` (copies), `links` of `near_copies` and `bursts`,
`parts` (train, val, test), `ledger` (written down), `written_parts` (of a sweep), `remarks` (what
may mislead). No stage imports them.
"""

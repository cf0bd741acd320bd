"""Parts of a trunk, and which of its weights are trained.

Modules in reading order: `blocks` (a trunk cut from its stem to its last block) and `low_rank`
(low-rank changes of linear layers). Methods and training import them.
"""

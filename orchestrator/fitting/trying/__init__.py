"""What a fit tries on the features of a frozen backbone, and which of it wins.

Modules in reading order: `variants` (heads and their balance), `answer_table` (their answers out of
fold, stored), `choosing` (the best or the base, and how good the choice honestly is).
"""

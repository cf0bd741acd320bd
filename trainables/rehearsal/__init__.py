"""Each known class plays new in its turn: would it be noticed, and taken for what?

Modules in reading order: how it is played (`rules`), who plays new (`turns`), the head without some
classes (`without`), thresholds and rates (`noticing`), a search of the pool (`finding`), intervals
over classes (`intervals`), results (`outcome`), one turn (`playing`), finished turns on disk
(`stored_turns`), and the rehearsal itself (`rehearse`).
"""

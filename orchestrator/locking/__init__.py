"""Who may write?

Modules in reading order: `sweep_lock` (one driver per sweep, on any host), `sweep_drivers` (the
folders by which drivers know of each other), `processes` (names of processes across hosts).
Used by all that write to a sweep's folder; imports nothing of the other wings.
"""

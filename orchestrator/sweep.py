"""Script that runs the console command ``orchestrator sweep``; no module imports this file.

On a laptop, run ``python orchestrator/sweep.py``; on a cluster, run
``ray submit cluster.yaml orchestrator/sweep.py``.
"""

from __future__ import annotations

import sys
from pathlib import Path


def main() -> None:
    """Run the ``sweep`` command with this process's arguments."""
    from orchestrator.cli.main import main as cli_main

    cli_main(["sweep", *sys.argv[1:]])


if __name__ == "__main__":
    # remove this file's folder, whose modules would shadow others, and add the project's root
    here = Path(__file__).resolve().parent
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != here]
    if (here.parent / "trainables").is_dir():
        sys.path.insert(0, str(here.parent))
    main()

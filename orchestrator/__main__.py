"""``python -m orchestrator`` is the same as the console command ``orchestrator``."""

from orchestrator.cli import main

main()

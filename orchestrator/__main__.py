"""Entry point of ``python -m orchestrator``, the same as the console command ``orchestrator``."""

from orchestrator.cli.main import main

main()

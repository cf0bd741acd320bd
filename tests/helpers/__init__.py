"""Helpers of several tests: root folder, golden vectors, oracles, pretend devices, sweeps."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"

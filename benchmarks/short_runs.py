"""Runs that each add a line to a file of results, made in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from report import say

from cellbasin.engines.hardware import find_hardware


def run_apart(script: str, words: Sequence[str], jobs: int) -> None:
    """Run a script with its part of the cores where so many run at a time; one that fails does not stop the others."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // jobs))}
    if subprocess.run([sys.executable, script, *words], env=environment, check=False).returncode:
        say(f"{' '.join(words)}: failed")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """All that was run."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def add_line(path: Path, line: dict[str, Any]) -> None:
    """Add what a run found, with date and processor."""
    line = line | {"date": datetime.now(UTC).date().isoformat(), "processor": find_hardware().processor}
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")
    say(json.dumps(line))

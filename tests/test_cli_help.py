"""What the commands say of themselves: help, examples, version."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from types import ModuleType

import pytest
from cli_helpers import Run, run

from cellbasin.cli import doctor, evaluate, models, score, segment, train

__all__ = ["run"]  # a fixture
COMMANDS = ["segment", "evaluate", "score", "train", "models", "doctor"]


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS), ["models", "add"], ["models", "info"]])
def test_help_has_examples(run: Run, command: list[str]) -> None:
    outcome = run(*command, "--help")
    assert outcome.code == 0 and "Examples:" in outcome.out and "cellbasin" in outcome.out


def test_help_says_units_and_defaults_as_they_are_typed(run: Run) -> None:
    told = run("segment", "--help").out
    assert "Usage: cellbasin segment [OPTIONS] INPUT..." in told
    for words in ("--memory GB", "--smoothing PX", "--batch N", "--min-size PX", "[default: 1,1,1]"):
        assert words in told


@pytest.mark.parametrize("command", [*([name] for name in COMMANDS), ["models", "add"], ["models", "export"]])
def test_paragraphs_of_help_flow(run: Run, command: list[str]) -> None:
    lines = run(*command, "--help").out.split("\n\u256d")[0].splitlines()
    for line, after in itertools.pairwise(lines):
        full = bool(after.strip()) and len(line.rstrip()) + len(after.split()[0]) >= 79
        assert full or not line.strip() or not after.strip(), line


@pytest.mark.parametrize("module", [doctor, evaluate, models, score, segment, train])
def test_examples_fit_into_a_terminal(module: ModuleType) -> None:
    assert max(map(len, module.EXAMPLES.splitlines())) <= 80


def test_version(run: Run) -> None:
    outcome = run("--version")
    assert outcome.code == 0 and outcome.out.startswith("cellbasin ")


def test_help_starts_fast_and_loads_nothing_heavy() -> None:
    code = (
        "import sys; from cellbasin.cli import main; main(['segment', '--help']); "
        "print([m for m in ('numpy', 'numba', 'openvino', 'torch', 'scipy') if m in sys.modules], "
        "file=sys.stderr)"
    )
    seconds = []  # of computing, which other programs on the machine do not lengthen much
    for _ in range(3):
        before = os.times()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        after = os.times()
        seconds.append(sum(after[2:4]) - sum(before[2:4]))
        assert done.stderr.strip() == "[]"
    assert min(seconds) < 0.5


def test_python_m_cellbasin() -> None:
    done = subprocess.run([sys.executable, "-m", "cellbasin", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("cellbasin ")

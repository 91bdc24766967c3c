"""What every script shares: its command line, Markdown tables, scores as text, and what it writes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from cellbasin.evaluation import SHOWN, Evaluation

ROOT = Path(__file__).parent.parent
OUTPUT = ROOT / "output"  # not tracked
BOTH_MEANS = [f"AP@{t} over images / sources" for t in SHOWN]


def command_line(description: str | None) -> argparse.ArgumentParser:
    """A command line whose help shows the script's docstring as it is written."""
    return argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)


def say(text: str) -> None:
    """Progress, for the person who waits."""
    print(text, file=sys.stderr, flush=True)


def markdown(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    rows = [header, ["---"] * len(header), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def both_means(found: Evaluation) -> list[str]:
    """Average precision over images and over sources at each threshold, for columns called `BOTH_MEANS`."""
    return [" / ".join(f"{mean.mean:.3f}" for mean in found.at(t)) for t in SHOWN]


def publish(path: Path, text: str) -> None:
    """Write a report, making its folder, and print it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    print(text)
    say(f"written to {path}")

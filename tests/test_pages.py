"""README.md, docs/ and the help: commands that the program understands, names that exist."""

from __future__ import annotations

import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest

from cellbasin.cli import app, doctor, evaluate, models, score, segment, train

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
HELP = [app._EXAMPLES, *(module.EXAMPLES for module in (doctor, evaluate, models, score, segment, train))]


def commands(text: str) -> list[list[str]]:
    """Lines that begin with cellbasin, without what is said about them after two spaces."""
    lines = re.findall(r"^ *cellbasin (.*)$", text.replace("\\\n", ""), re.MULTILINE)
    return [shlex.split(re.split(r" {3,}| {2,}[a-z#]", line)[0]) for line in lines]


def test_commands_are_understood() -> None:
    program = app.make_app()
    pages = [page.read_text() for page in PAGES if page.name != "experiments.md"]  # which has M minutes
    blocks = [block for text in pages for block in re.findall(r"^```\n(.*?)^```", text, re.S | re.M)]
    found = [command for text in (*blocks, *HELP) for command in commands(text)]
    assert len(found) > 40
    for command in found:
        program.parse_args(command, print_error=False, exit_on_error=False)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_names_exist(page: Path) -> None:
    for name in set(re.findall(r"\bcellbasin(?:\.[a-zA-Z_]\w*)+", page.read_text())):
        module, *rest = name.split(".")
        found: object = import_module(module)
        for part in rest:
            found = getattr(found, part, None) or import_module(f"{found.__name__}.{part}")  # type: ignore[attr-defined]

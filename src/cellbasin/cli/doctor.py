"""`cellbasin doctor`: what this computer can do, and whether all is well."""

from __future__ import annotations

import importlib.util
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from cellbasin.cli.console import DONE, PARTLY, check_json, say, told, write_json
from cellbasin.cli.flags import JsonOption

EXAMPLES = """Examples:
  cellbasin doctor
  cellbasin doctor --json report.json       to be sent along with a question"""

_OPTIONAL = {  # by extra
    "train": ("torch", "matplotlib"),
    "formats": ("pyarrow", "nd2", "czifile", "liffile"),
    "export": ("onnx",),
    "napari": ("napari",),
}


@dataclass(frozen=True)
class Finding:
    """One line of the report; a "problem" is what keeps cellbasin from working."""

    name: str
    state: Literal["ok", "note", "problem"]
    text: str


def doctor(*, json_file: JsonOption = None) -> int:
    """Look at processor, engines, models, caches and folders, try a small segmentation, and report.

    Exit code 1 when something is found that keeps cellbasin from working.
    """
    check_json(json_file)
    checks = (_system, _engines, _kernels, _models, _trial, _folders, _optional)
    findings = [finding for check in checks for finding in _checked(check)]
    if json_file:
        write_json(json_file, [asdict(finding) for finding in findings])
    problems = [finding for finding in findings if finding.state == "problem"]
    if json_file != "-":
        for finding in findings:
            mark = {"ok": "  ", "note": "- ", "problem": "! "}[finding.state]
            say(f"{mark}{finding.name:<14} {finding.text}")
        say(f"found {len(problems)} problem(s), marked with !" if problems else "all is well")
    return PARTLY if problems else DONE


def _checked(check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """What a check finds; whatever stops it is a finding too."""
    try:
        yield from check()
    except Exception as error:  # noqa: BLE001  the doctor has to survive what it looks for
        name = check.__name__.removeprefix("_")
        yield Finding(name, "problem", f"{type(error).__name__}: {told(error)}")


def _system() -> Iterator[Finding]:
    from cellbasin.engines import find_hardware
    from cellbasin.version import VERSION

    yield Finding("cellbasin", "ok", f"{VERSION}, Python {platform.python_version()}, {platform.platform()}")
    hardware = find_hardware()
    features = ", ".join(hardware.features) or "none of those that make it fast"
    yield Finding("processor", "ok", f"{hardware.processor} ({features})")
    yield Finding("threads", "ok", f"{hardware.threads} (CELLBASIN_THREADS sets another number)")
    yield Finding("graphics", "ok", hardware.gpu or "none that torch can use")


def _engines() -> Iterator[Finding]:
    from cellbasin.engines import find_hardware

    for name, version in find_hardware().engines.items():
        lacking = version.startswith("not installed")
        state: Literal["ok", "note", "problem"] = "ok" if not lacking else "problem" if name == "openvino" else "note"
        yield Finding("engine", state, f"{name} {version}")


def _kernels() -> Iterator[Finding]:
    """Compiled code that cannot be kept makes every start slow."""
    try:
        from cellbasin import dynamics
    except RuntimeError as error:
        hint = "set NUMBA_CACHE_DIR to a folder that can be written"
        yield Finding("compiled code", "problem", f"cannot be kept ({told(error)}): {hint}")
        return
    kernel = next(item for item in vars(dynamics).values() if hasattr(item, "_cache"))
    folder = Path(kernel._cache.cache_path)
    if _writable(folder):
        yield Finding("compiled code", "ok", f"is kept in {folder}")
    else:
        hint = "every start compiles anew; set NUMBA_CACHE_DIR to a folder that can be written"
        yield Finding("compiled code", "note", f"cannot be kept in {folder}: {hint}")


def _models() -> Iterator[Finding]:
    from cellbasin.engines import describe_choice
    from cellbasin.weights import SHIPPED, WeightsError, known_models, load_weights

    known = known_models()
    if not any(path.parent == SHIPPED for path in known.values()):
        text = f"none ships with this installation (in {SHIPPED}): install cellbasin again"
        yield Finding("model", "problem", text)
    for name, path in known.items():
        try:
            weights = load_weights(path)
            choice = describe_choice(weights.card)
        except WeightsError as error:
            yield Finding("model", "problem", told(error))
            continue
        used = f"{choice.engine}, {choice.precision}, because {choice.reason}"
        yield Finding("model", "ok", f"{name} ({weights.sha256[:12]}): {used}")


def _trial() -> Iterator[Finding]:
    """One small image all the way."""
    from cellbasin.weights import SHIPPED, known_models

    shipped = [name for name, path in known_models().items() if path.parent == SHIPPED]
    if not shipped:
        return
    from cellbasin.generator import generate
    from cellbasin.model import load_model

    sample = generate("nuclei", (224, 224), seed=1)
    started = time.perf_counter()
    model = load_model(shipped[0])
    loaded = time.perf_counter()
    model.segment(sample.image, axes=sample.axes, channels=(0,), diameter=30)
    warm = time.perf_counter()
    model.segment(sample.image, axes=sample.axes, channels=(0,), diameter=30)
    seconds = [loaded - started, warm - loaded, time.perf_counter() - warm]
    times = "loading {:.2f} s, first image {:.2f} s, next {:.3f} s".format(*seconds)
    yield Finding("trial", "ok", f"224 x 224 pixels: {times}")


def _folders() -> Iterator[Finding]:
    from cellbasin.weights import user_folder

    for name, folder in (("temporary", Path(tempfile.gettempdir())), ("added models", user_folder())):
        good = _writable(folder)
        yield Finding(name, "ok" if good else "note", f"{folder}{'' if good else ' cannot be written'}")


def _optional() -> Iterator[Finding]:
    for extra, modules in _OPTIONAL.items():
        missing = [module for module in modules if importlib.util.find_spec(module) is None]
        if missing:
            text = f"{extra}: {', '.join(missing)} not installed: pip install 'cellbasin[{extra}]'"
            yield Finding("optional", "note", text)
        else:
            yield Finding("optional", "ok", f"{extra}: installed ({', '.join(modules)})")


def _writable(folder: Path) -> bool:
    """Whether a file could be made there, or the folder itself."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK)

"""What this machine can do: processor and its features, graphics processor, installed engines."""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata, util
from pathlib import Path

from cellbasin.parallel import thread_count

# The names that Linux gives to the features, and ours.
FLAGS = {
    "avx2": "AVX2",
    "avx512f": "AVX512",
    "avx_vnni": "VNNI",
    "avx512_vnni": "VNNI",
    "avx512_bf16": "AVX512-BF16",
    "amx_bf16": "AMX",
}
NUMPY_FLAGS = {"AVX2": "AVX2", "AVX512F": "AVX512", "AVX512VNNI": "VNNI", "AVX512BF16": "AVX512-BF16"}
NVIDIA = ("/proc/driver/nvidia/version", "/dev/nvidiactl", "/dev/dxg", "/dev/kfd")


@dataclass(frozen=True, slots=True)
class Hardware:
    """processor: its name; features: of AVX2, AVX512, VNNI, AVX512-BF16, AMX; threads: that kernels use;
    gpu: "cuda", "mps" or "" (none that torch can use); engines: name → version, or what is missing.
    """

    processor: str
    features: tuple[str, ...] = ()
    threads: int = 1
    gpu: str = ""
    engines: dict[str, str] = field(default_factory=dict)

    @property
    def has_bf16(self) -> bool:
        """Whether the processor computes in bf16; others imitate it, many times slower than float32."""
        return not {"AMX", "AVX512-BF16"}.isdisjoint(self.features)


def find_hardware() -> Hardware:
    """Look at this machine. Imports torch only where it is installed and a graphics driver is present.

    >>> find_hardware().threads >= 1
    True
    """
    processor, features = _processor()
    return Hardware(processor, features, thread_count(), find_gpu(), _engines())


@cache
def find_gpu() -> str:
    """What torch can use: "cuda", "mps" or "". Importing torch takes seconds, so cheap signs come first."""
    apple = sys.platform == "darwin" and platform.machine() == "arm64"
    windows = Path(os.environ.get("SYSTEMROOT", "C:/Windows")) / "System32" / "nvcuda.dll"
    driver = any(Path(path).exists() for path in NVIDIA) or (sys.platform == "win32" and windows.exists())
    if not (apple or driver) or util.find_spec("torch") is None:
        return ""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if apple and torch.backends.mps.is_available() else ""


@cache
def _processor() -> tuple[str, tuple[str, ...]]:
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = (line.partition(":") for line in info.read_text(errors="replace").splitlines())
        fields = {key.strip(): value.strip() for key, _, value in lines}
        name = fields.get("model name", platform.machine())
        found = {FLAGS[flag] for flag in fields.get("flags", "").split() if flag in FLAGS}
    else:
        name = platform.processor() or platform.machine()
        found = _features_by_numpy()
    return name, tuple(feature for feature in dict.fromkeys(FLAGS.values()) if feature in found)


def _features_by_numpy() -> set[str]:
    """For systems that do not list processor features in a file; it knows nothing of AMX."""
    if util.find_spec("numpy._core") is None:
        return set()
    from numpy._core._multiarray_umath import __cpu_features__ as flags  # type: ignore[import-not-found]

    return {ours for theirs, ours in NUMPY_FLAGS.items() if flags.get(theirs)}


def _engines() -> dict[str, str]:
    missing = {
        "openvino": "not installed",
        "torch": "not installed (pip install 'cellbasin[gpu]' for CUDA, MPS and training)",
    }
    versions = dict(missing)
    for name in missing:
        if util.find_spec(name) is not None:
            versions[name] = metadata.version(name)
    return versions

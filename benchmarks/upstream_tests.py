"""Cellpose 3.1.1.3's own tests, run against `cellbasin.cellpose_api` and `cellbasin.cellpose`; prints which pass.

They come out of the source archive on the package index. In the place of its images, which are not in the archive,
stand generated ones under the same names; tests that need its weights, or compare masks with stored ones, are left out.
`python benchmarks/upstream_tests.py`
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

PACKAGE = "cellpose==3.1.1.3"
FILES = ("test_shape.py", "test_transforms.py", "test_dynamics.py", "test_import.py", "test_train.py", "test_output.py")
# They compare with masks that Cellpose's own weights made, or load networks and windows that are not here.
LEFT_OUT = ("test_class_2D", "test_class_3D", "test_cli_2D", "test_cli_3D", "model_zoo", "gui_imports")

SHIM = """import sys
from cellbasin import cellpose_api
from cellbasin.cellpose_api import *
for name in cellpose_api.__all__[:-1]:
    sys.modules["cellpose." + name] = getattr(cellpose_api, name)
"""
MAIN = """import sys
from cellbasin.cellpose import console_main
sys.exit(console_main())
"""
CONFTEST = """import numpy as np, pytest, tifffile
from PIL import Image
from cellbasin.generator import generate

def stack(seed, size=160):
    sample = generate("cytoplasm", (size, size), diameter=30, seed=seed)
    planes = [np.clip(c / c.max() * 255, 0, 255).astype(np.uint8) for c in sample.image]
    return np.stack([planes[-1], planes[0], 0 * planes[0]], -1), sample.labels

@pytest.fixture()
def image_names():
    return ["gray_2D.png", "rgb_2D.png", "rgb_2D_tif.tif", "gray_3D.tif", "rgb_3D.tif"]

@pytest.fixture()
def data_dir(tmp_path_factory):
    data = tmp_path_factory.getbasetemp() / "data"
    if data.exists():
        return data
    for part in ("2D/train", "3D"):
        (data / part).mkdir(parents=True)
    rgb, labels = stack(0)
    Image.fromarray(rgb).save(data / "2D" / "rgb_2D.png")
    Image.fromarray(rgb[..., 1]).save(data / "2D" / "gray_2D.png")
    tifffile.imwrite(data / "2D" / "rgb_2D_tif.tif", rgb, photometric="rgb")
    volume = np.stack([rgb.transpose(2, 0, 1)] * 6)
    tifffile.imwrite(data / "3D" / "rgb_3D.tif", volume[:, :2], imagej=True, metadata={"axes": "ZCYX"})
    tifffile.imwrite(data / "3D" / "gray_3D.tif", volume[:, 1], imagej=True, metadata={"axes": "ZYX"})
    for name in ("gray_2D", "rgb_2D", "rgb_2D_tif"):
        for model in ("cyto", "nuclei"):
            Image.fromarray(labels.astype(np.uint16)).save(data / "2D" / f"{name}_{model}_masks.png")
    for seed in range(2):
        rgb, labels = stack(seed)
        tifffile.imwrite(data / "2D" / "train" / f"image{seed}.tif", rgb, photometric="rgb")
        Image.fromarray(labels.astype(np.uint16)).save(data / "2D" / "train" / f"image{seed}_cyto_masks.png")
    return data
"""


def main() -> int:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "-q",
            "--no-deps",
            "--no-binary",
            ":all:",
            PACKAGE,
            "-d",
            name,
        ]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        (archive,) = folder.glob("cellpose-*.tar.gz")
        with tarfile.open(archive) as file:
            file.extractall(folder, filter="data")
        tests = folder / "run"
        (tests / "cellpose").mkdir(parents=True)
        (tests / "cellpose" / "__init__.py").write_text(SHIM)
        (tests / "cellpose" / "__main__.py").write_text(MAIN)
        (tests / "conftest.py").write_text(CONFTEST)
        for test in FILES:
            (source,) = folder.glob(f"cellpose-*/tests/{test}")
            (tests / test).write_text(source.read_text())
        return run(tests)


def run(tests: Path) -> int:
    """Run the tests one by one in a process and print a line for each."""
    environment = {**os.environ, "PYTHONPATH": str(tests), "CELLBASIN_MODELS": str(tests / "models")}
    environment |= {"CELLBASIN_CACHE": str(tests / "cache"), "HOME": str(tests), "CELLBASIN_DEBUG": "1"}
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment["PATH"]])
    left_out = " and ".join(f"not {name}" for name in LEFT_OUT)
    command = [sys.executable, "-m", "pytest", "-v", "--tb=line", "-p", "no:cacheprovider", "-k", left_out, *FILES]
    found = subprocess.run(command, cwd=tests, env=environment, capture_output=True, text=True)
    lines = re.findall(r"^(\S+::\S+) (PASSED|FAILED|SKIPPED|ERROR)", found.stdout, re.MULTILINE)
    for test, state in lines:
        print(f"{state.lower():8}{test}")
    for line in re.findall(r"^(?:E  |/).*", found.stdout, re.MULTILINE):
        print(line[:300])
    passed = sum(state == "PASSED" for _, state in lines)
    print(f"{passed} of {len(lines)} passed; left out: {', '.join(LEFT_OUT)}")
    if not lines:
        print(found.stdout[-2000:], found.stderr[-2000:])
    return 0 if lines else 1


if __name__ == "__main__":
    sys.exit(main())

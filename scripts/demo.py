"""Draw example images with the package's generator and segment them: scripts/demo.py [FOLDER] [WHAT]."""

from __future__ import annotations

import sys
from pathlib import Path

import tifffile

from cellbasin.cli import main
from cellbasin.generator import generate

KINDS = {
    "0": ("nuclei", "membrane", "phase", "bacteria"),
    "0,1": ("cytoplasm", "tissue"),  # the cells in channel 0, their nuclei in channel 1
}


def draw(folder: Path) -> dict[str, list[str]]:
    """Write one image of each kind; the files by the channels that they are segmented in."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn: dict[str, list[str]] = {}
    for channels, kinds in KINDS.items():
        for number, kind in enumerate(kinds):
            sample = generate(kind, (384, 384), diameter=30 + 6 * number, seed=number)
            path = folder / f"{kind}.tif"
            tifffile.imwrite(path, sample.image, imagej=True, metadata={"axes": sample.axes})
            drawn.setdefault(channels, []).append(str(path))
    return drawn


def demo(output: Path, what: str) -> int:
    """Draw, segment, and say where everything is; the worst of the exit codes."""
    codes = [
        main(["segment", *files, "--channels", channels, "--out", str(output), "--save", what])
        for channels, files in draw(output / "images").items()
    ]
    print(f"the images are in {output.resolve()}/images, the results in {output.resolve()}")
    return max(codes)


if __name__ == "__main__":
    folder = sys.argv[1] if len(sys.argv) > 1 else "output"
    what = sys.argv[2] if len(sys.argv) > 2 else "labels,outlines,overlay"
    sys.exit(demo(Path(folder), what))

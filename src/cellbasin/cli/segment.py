"""`cellbasin segment`: images in, label images and more out."""

from __future__ import annotations

import errno
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from cellbasin.cli.console import (
    DONE,
    INTERRUPTED,
    NOTHING,
    PARTLY,
    USER_ERRORS,
    Bar,
    CommandError,
    check_json,
    claim,
    debugging,
    make_folder,
    mention,
    print_error,
    told,
    write_json,
)
from cellbasin.cli.flags import (
    JsonOption,
    ModelFlags,
    ModelOption,
    SegmentFlags,
    options_from,
    wants_one_diameter,
    words,
)

if TYPE_CHECKING:
    from cellbasin.image import Image
    from cellbasin.model import Model
    from cellbasin.options import Options
    from cellbasin.results import Segmentation

EXAMPLES = """Examples:
  cellbasin segment cells.tif
  cellbasin segment *.tif --diameter 25 --out masks
  cellbasin segment folder --channels 1,0 --save labels,overlay,rois
  cellbasin segment folder --diameter once
  cellbasin segment volume.tif --axes ZCYX --channels 1 --anisotropy 2.5
  cellbasin segment cells.tif --json - --quiet"""

_ENOUGH = 24  # images that a diameter for all of them is estimated from
_FULL = {getattr(errno, name, None) for name in ("ENOSPC", "EDQUOT", "EROFS")}


def segment(
    *inputs: Annotated[Path, Parameter(name="INPUT", help="Image files, folders (not those inside them) or patterns.")],
    out: Annotated[
        Path | None, Parameter(metavar="DIR", help="Folder for the results; default: beside each image.")
    ] = None,
    save: Annotated[
        tuple[str, ...],
        words(
            "WHAT[,...]",
            "What to write: labels (_masks.tif, the default), zarr, outlines, flows, rois (ImageJ), geojson (QuPath), "
            "table (CSV), parquet, coco (JSON), overlay (PNG; of volumes also GIF), seg (Cellpose).",
        ),
    ] = ("labels",),
    json_file: JsonOption = None,
    quiet: Annotated[bool, Parameter(help="Print errors only.")] = False,
    models: ModelOption = None,
    flags: SegmentFlags = None,
) -> int:
    """Segment images; writes NAME_masks.tif for each and prints one line.

    Of a file with several positions or time points, each is segmented: NAME_p2_t05_masks.tif.

    Results that are there already are replaced; images, and labels made otherwise, never.

    One bad image does not stop the others.
    """
    from cellbasin.io.outputs import check_outputs

    batch = _Batch(options_from(flags), check_outputs(save), out, quiet, told_on_stderr=json_file == "-")
    batch.find(inputs)
    batch.check(json_file)
    try:
        if batch.images:
            batch.run((models or ModelFlags()).load(), one_diameter=wants_one_diameter(flags))
    finally:
        if json_file:
            write_json(json_file, batch.records)
    return batch.exit_code()


@dataclass
class _Batch:
    """The images of one call, and what became of them.

    sources: the images' resolved paths; makers: of the files of results, whose they are; unheard: whether lines could
    not be printed.
    """

    options: Options
    what: tuple[str, ...]
    out: Path | None
    quiet: bool
    told_on_stderr: bool
    images: list[Path] = field(default_factory=list)
    records: list[dict[str, Any]] = field(default_factory=list)
    sources: set[Path] = field(default_factory=set)
    makers: dict[Path, Path] = field(default_factory=dict)
    interrupted: bool = False
    full: bool = False
    unheard: bool = False

    def find(self, inputs: Sequence[Path]) -> None:
        """List the images; an input that is not there is an error like any other bad image."""
        from cellbasin.io import ReadError, find_images

        if not inputs:
            raise CommandError(
                "found no INPUT, expected image files, folders or patterns; see 'cellbasin segment --help'"
            )
        good = []
        for item in inputs:
            try:
                find_images([item])
                good.append(item)
            except ReadError as error:
                self._failed(item, error)
        self.images = find_images(good)

    def check(self, json_file: str | None) -> None:
        """Refuse, before any work, what would overwrite an image or other results, or cannot be written."""
        self.sources = {image.resolve() for image in self.images}
        for image in self.images:
            self._claim(image, self.stem(image))
        for folder in sorted({self.stem(image).parent for image in self.images}):
            make_folder(folder, "choose another with --out")
        check_json(json_file, [*self.sources, *self.makers])  # may go into the folder of --out

    def _claim(self, image: Path, stem: Path) -> None:
        """Keep the files of results for an image; raises CommandError where one is an image, another's result, or
        somebody's own work.
        """
        from cellbasin.io.outputs import OUTPUTS, is_by_hand

        for name, path in [(what, Path(f"{stem}{end}")) for what in self.what for end in OUTPUTS[what].suffixes]:
            if path.resolve() in self.sources:
                raise CommandError(
                    f"{path}: found an image where results of {image} would go; choose another folder with --out"
                )
            if is_by_hand(name, path):
                raise CommandError(
                    f"{path}: found labels that 'cellbasin segment' did not write (drawn by hand?) where those of "
                    f"{image} would go; choose another folder with --out, or move them"
                )
            claim(self.makers, path, image)

    def stem(self, image: Path) -> Path:
        """Path of the image's results without their endings."""
        return (image.parent if self.out is None else self.out) / image.stem

    def run(self, model: Model, *, one_diameter: bool) -> None:
        """Segment one image after the other; Ctrl-C ends it, with whole files only."""
        try:
            if one_diameter:
                self._estimate_one_diameter(model)
            with Bar(len(self.images), hidden=self.quiet) as bar:
                for image in self.images:
                    bar.begin(image.name)
                    self._segment_file(model, image, bar)
                    bar.end()
                    if self.full:
                        print_error(
                            f"stopped after {image}: nothing more can be written there; free space and run again"
                        )
                        return
        except KeyboardInterrupt:
            self.interrupted = True
            done = sum(record["status"] == "done" for record in self.records)
            print(
                f"cellbasin: interrupted: {done} of {len(self.images)} images done, their files are whole",
                file=sys.stderr,
            )

    def _estimate_one_diameter(self, model: Model) -> None:
        """The diameter for all images; bad ones say so when their turn comes."""
        from cellbasin import size
        from cellbasin.io import read_frames

        chosen = self.images[:: -(-len(self.images) // _ENOUGH)]
        others = [path for path in self.images if path not in chosen]  # asked where none of the chosen can be read
        found: list[tuple[int, float]] = []
        with Bar(len(chosen), hidden=self.quiet) as bar:
            for number, path in enumerate([*chosen, *others]):
                if found and number >= len(chosen):
                    break
                bar.begin(f"diameter: {path.name}")
                try:
                    _, image = next(read_frames(path, axes=self.options.axes))
                    result = model.segment(image, options=self._options_of(image), progress=bar.tell)
                except USER_ERRORS:
                    continue
                finally:
                    bar.end()
                found.append((len(result), result.diameter))
        if found:
            diameter = size.common_diameter(found)
            self.options = replace(self.options, diameter=diameter)
            self._say(f"diameter for all images: {diameter:.1f} px, the median of {len(found)} estimates")

    def _options_of(self, image: Image) -> Options:
        """The axes that were named are those of the file; a frame has fewer."""
        return replace(self.options, axes=self.options.axes and image.axes)

    def _segment_file(self, model: Model, path: Path, bar: Bar) -> None:
        """Every image of a file; what cannot be read ends the file, what cannot be segmented only the frame."""
        from cellbasin.io import read_frames

        try:
            for frame, image in read_frames(path, axes=self.options.axes):
                self._segment_frame(model, path, frame, image, bar)
                if self.full:
                    return
        except USER_ERRORS as error:
            if debugging():
                raise
            self._failed(path, error)

    def _segment_frame(self, model: Model, path: Path, frame: str, image: Image, bar: Bar) -> None:
        from cellbasin.io import WriteError, check_dimensions, save

        stem = Path(f"{self.stem(path)}{frame}")
        try:
            if frame:
                bar.begin(f"{path.name} {frame[1:]}")
                self._claim(path, stem)
            check_dimensions(self.what, image)
            result = model.segment(image, options=self._options_of(image), progress=bar.tell)
            bar.tell("writing", 0.0)
            files = save(result, image, stem, self.what)
        except WriteError as error:
            self._failed(path, error, frame)
            self.full = isinstance(error.__cause__, OSError) and error.__cause__.errno in _FULL
        except (CommandError, *USER_ERRORS) as error:
            if debugging():
                raise
            self._failed(path, error, frame)
        else:
            self._done(path, frame, result, files)

    def _done(self, path: Path, frame: str, result: Segmentation, files: dict[str, Path]) -> None:
        facts = result.provenance
        self.records.append(
            {
                "image": path,
                **({"frame": frame[1:]} if frame else {}),
                "status": "done",
                "count": len(result),
                "diameter": result.diameter,
                "diameter_source": facts["diameter_source"],
                "seconds": facts["seconds"],
                "files": files,
                "objects": dict(result.objects),
                "provenance": dict(facts),
            }
        )
        more = f" and {len(files) - 1} more" if len(files) > 1 else ""
        scale = f"diameter {result.diameter:.1f} px ({facts['diameter_source']})"
        if "anisotropy" in facts:
            scale += f", anisotropy {facts['anisotropy']:.4g} ({facts['anisotropy_source']})"
        if facts.get("novelty", {}).get("unlike"):
            from cellbasin.novelty import UNLIKE

            more += f"; {UNLIKE}"
        self._say(
            f"{path}{' ' * bool(frame)}{frame[1:]}: {len(result)} objects, {scale}, "
            f"{facts['seconds']:.2f} s, {next(iter(files.values()))}{more}"
        )

    def _say(self, line: str) -> None:
        """Print a line; where that cannot be done the images are segmented all the same."""
        if self.quiet:
            return
        try:
            mention(line, sys.stderr if self.told_on_stderr else None)
        except CommandError as error:
            print_error(error)
            self.unheard = True

    def _failed(self, path: Path, error: BaseException, frame: str = "") -> None:
        message = told(error, path, frame[1:])
        print_error(message)
        named = {"frame": frame[1:]} if frame else {}
        self.records.append({"image": path, **named, "status": "failed", "error": message})

    def exit_code(self) -> int:
        """0 all done, 1 some, or not all could be said, 2 none, 130 interrupted."""
        if self.interrupted:
            return INTERRUPTED
        states = {record["status"] for record in self.records} | ({"failed"} if self.unheard else set())
        return {frozenset({"done"}): DONE, frozenset({"done", "failed"}): PARTLY}.get(frozenset(states), NOTHING)

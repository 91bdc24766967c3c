"""Segmenting as Cellpose's command line does it, through the same `Model.segment` as everything else."""

from __future__ import annotations

import math
import time
from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from cellbasin.cellpose.files import FLAT_FILES, check_pictures_are_safe, places, write_results
from cellbasin.cellpose.images import chosen, list_images, read
from cellbasin.cellpose.networks import find_network
from cellbasin.cellpose.thresholds import judged_by, probability_threshold
from cellbasin.cli.console import DONE, NOTHING, PARTLY, USER_ERRORS, CommandError, claim, debugging, told
from cellbasin.engines import EngineError
from cellbasin.io import ReadError
from cellbasin.labels import touches_border
from cellbasin.model import Model, load_model
from cellbasin.options import Options

Say = Callable[[str], None]
_GRAY, _NONE = ("GRAY", "RED", "GREEN", "BLUE"), ("NONE", "RED", "GREEN", "BLUE")


def segment_all(given: Namespace, log: Say, warn: Say) -> int:
    """Segment the images that the flags name; one bad image does not stop the others. Returns the exit code.

    log: gets the lines that Cellpose logs; warn: gets one line for each thing that is not as asked for.
    """
    started = time.perf_counter()
    if given.savedir and not Path(given.savedir).is_dir():
        raise CommandError(f"found no folder {given.savedir}, expected the one that --savedir names to exist")
    options = options_from(given)
    images = _images(given)
    makers: dict[Path, Path] = {}
    for image in images:
        claim(makers, places(image, given).folder / image.stem, image)
    check_pictures_are_safe(images, given)
    log(
        f">>>> running cellpose on {len(images)} images using chan_to_seg {_GRAY[given.chan]} "
        f"and chan (opt) {_NONE[given.chan2]}"
    )
    model = open_network(given.pretrained_model, log, warn, gpu=given.use_gpu)
    log(
        ">>>> estimating diameter for each image"
        if not given.diameter
        else f">>>> using diameter {given.diameter:.3f} for all images"
    )
    failed = 0
    for number, path in enumerate(images, 1):
        try:
            _segment_file(model, path, options, given, log, warn, f"{number}/{len(images)}")
        except USER_ERRORS as error:
            if debugging():
                raise
            warn(f"error: {told(error, path)}")
            failed += 1
    log(f">>>> completed in {time.perf_counter() - started:.3f} sec")
    return DONE if not failed else NOTHING if failed == len(images) else PARTLY


def options_from(given: Namespace) -> Options:
    """Our options for Cellpose's flags."""
    if given.diameter < 0 or not math.isfinite(given.cellprob_threshold):
        raise CommandError(f"found --diameter {given.diameter} --cellprob_threshold {given.cellprob_threshold}")
    options = Options(
        diameter=given.diameter or None,
        augment=given.augment,
        probability_threshold=probability_threshold(given.cellprob_threshold),
        **judged_by(given.flow_threshold),
        min_size=max(given.min_size, 0),
    )
    if given.do_3D:
        smoothing = given.flow3D_smooth or options.smoothing
        return replace(options, volume_mode="flows", anisotropy=given.anisotropy, smoothing=smoothing)
    if given.stitch_threshold > 0:
        return replace(options, volume_mode="stitch", stitch_threshold=given.stitch_threshold)
    return options


def open_network(name: str, log: Say, warn: Say, *, gpu: bool = False) -> Model:
    """The model that a name of Cellpose's means; `gpu` asks for a graphics processor, and says where there is none."""
    found, notice = find_network(name)
    if notice:
        warn(notice)
    try:
        model = load_model(found)
    except EngineError as error:
        raise CommandError(told(error)) from error
    engine = model.engines[0]
    log(f">>>> loading model {found}: engine {engine.name}, {engine.precision}, on {engine.device}")
    if gpu and engine.device == "cpu":
        warn("--use_gpu: no graphics processor was found that can be used, the processor does the work")
    return model


def _images(given: Namespace) -> list[Path]:
    if given.image_path:
        path = Path(given.image_path)
        if not path.is_file():
            raise ReadError(f"{path}: found no such file, expected the image that --image_path names")
        return [path]
    return list_images(given.dir, given.img_filter, given.mask_filter, one_level_down=given.look_one_level_down)


def _segment_file(
    model: Model, path: Path, options: Options, given: Namespace, log: Say, warn: Say, place: str
) -> None:
    volume = given.do_3D or given.stitch_threshold > 0
    image = read(path, given.channel_axis, given.z_axis, volume=volume)
    if "Z" in image.axes and not volume:
        raise ReadError(
            f"{path}: found a volume (axes {image.axes}), expected --do_3D or --stitch_threshold 0.25 for it"
        )
    if "Z" not in image.axes and given.do_3D:
        raise ReadError(f"{path}: found an image (axes {image.axes}), expected a volume for --do_3D: say --z_axis")
    picture, channels = chosen(image, given.chan, given.chan2, invert=given.invert)
    result = model.segment(picture, channels=channels, options=options)
    if given.exclude_on_edges:
        result = result.only(~touches_border(result.labels))  # first and last planes are no edges
    write_results(result, image, places(path, given), given)
    if result.labels.ndim == 3 and (asked := [name for name in FLAT_FILES if getattr(given, name)]):
        warn(f"{path}: a volume, of which no files are written for --{', --'.join(asked)}")
    seconds = result.provenance["seconds"]
    log(f"{place} {path.name}: {len(result)} masks, diameter {result.diameter:.2f}, {seconds:.2f} s")

"""The flags of Cellpose 1 to 3's command line, and of 4's as far as older scripts send them: every one is done, said to
have no effect, or refused; unknown ones are errors."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from cellbasin.cellpose.thresholds import CELLPOSE_FLOW_THRESHOLD
from cellbasin.cli.console import CommandError


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise CommandError(f"{message}; see 'cellbasin-cellpose --help'")


_EXAMPLES = """Examples:
  cellbasin-cellpose --dir images --pretrained_model cyto3 --chan 2 --chan2 3 --diameter 30 --save_png
  cellbasin-cellpose --image_path cells.tif --pretrained_model my_model --diameter 0 --save_tif --no_npy --verbose
  cellbasin-cellpose --train --dir annotated --pretrained_model cyto3 --n_epochs 100 --verbose

Networks of Cellpose are used where their files are there (see docs/cellpose.md); cyto, cyto2, cyto3, nuclei and cpsam
without a file mean cellbasin's own model. Exit codes: 0 done, 1 partly done, 2 nothing done."""

_NO_EFFECT = {
    "Zstack": "there is no window to open it in",
    "check_mkl": "the engine is chosen by what the processor can do",
    "no_interp": "flows are always interpolated",
    "no_resample": "labels are always made at the image's size",
    "net_avg": "a model is one network",
    "no_net_avg": "a model is one network",
    "fast_mode": "a model is one network",
    "save_each": "one file is written",
}
"""Flags that are accepted, as scripts send them, but change nothing: and why."""

_NO_EFFECT_OF_VALUES = {
    "gpu_device": "the first graphics processor is used",
    "niter": "pixels step until they have arrived",
    "diam_threshold": "objects are not judged by their diameter",
    "SGD": "the optimiser is AdamW",
    "learning_rate": "the recipe sets it",
    "weight_decay": "the recipe sets it",
    "batch_size": "it does not change results",
    "train_batch_size": "the recipe sets it",
    "nimg_per_epoch": "all images are used",
    "nimg_test_per_epoch": "all images are used",
    "save_every": "a checkpoint is written every few minutes",
    "bsize": "tiles have 224 pixels",
}
"""The same, of flags that a number or a name follows; 0 is as if they were not there."""

_REFUSED = {
    "chan2_restore": "images are not restored here",
    "transformer": "transformer networks cannot be run here",
    "all_channels": "networks see one or two channels: choose them with --chan and --chan2",
    "no_norm": "images are always normalised (percentiles 1 and 99 become 0 and 1)",
    "unet": "networks are Cellpose's only",
    "omni": "Omnipose's networks cannot be run here",
    "cluster": "Omnipose's networks cannot be run here",
    "save_ncolor": "labels in few colours are not written",
    "mxnet": "networks of MXNet cannot be run here: take Cellpose's files for torch",
    "testing": "use 'cellbasin evaluate'",
}
"""Flags that ask for what is not there: doing something else instead would mislead."""

_REFUSED_VALUES = {
    "restore_type": "images are not restored here; leave it out, or restore them beforehand",
    "pretrained_model_ortho": "one network is used for all directions",
    "file_list": "training reads folders: use --dir and --test_dir",
}
"""The same, of flags that a name follows."""

_ONLY = {"concatenation": 0, "residual_on": 1, "style_on": 1, "nclasses": 3}
"""Flags of old versions, and the number that stands for Cellpose's default network."""


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The flags as Cellpose names them.

    Raises CommandError for unknown or contradicting ones, SystemExit for --help.
    """
    given = make_parser().parse_args(list(arguments))
    for name, reason in {**_REFUSED, **_REFUSED_VALUES}.items():
        if getattr(given, name):
            raise CommandError(f"found --{name}, expected a command without it: {reason}")
    for name, default in _ONLY.items():
        if getattr(given, name) != default:
            raise CommandError(f"found --{name} {getattr(given, name)}, expected {default}, Cellpose's default network")
    low, high = given.norm_percentile
    if (low, high) != (1, 99):
        raise CommandError(f"found --norm_percentile {low:g} {high:g}, expected 1 99")
    if given.chan not in range(4) or given.chan2 not in range(4):
        raise CommandError(f"found --chan {given.chan} --chan2 {given.chan2}, expected 0 to 3")
    if given.train_size and not given.train:
        raise CommandError(
            "found --train_size, expected --train with it: a size model is fitted at the end of a training"
        )
    if bool(given.dir) and bool(given.image_path):
        raise CommandError("found --dir and --image_path, expected one of them")
    return given


def without_effect(given: argparse.Namespace) -> list[str]:
    """A line for every flag that was given and changes nothing."""
    both = given.do_3D and given.stitch_threshold > 0
    return ["--stitch_threshold has no effect: --do_3D links planes by their flows"] * both + [
        f"--{name} has no effect: {reason}"
        for name, reason in {**_NO_EFFECT, **_NO_EFFECT_OF_VALUES}.items()
        if getattr(given, name) not in (False, "", "0")
    ]


def make_parser() -> argparse.ArgumentParser:
    """All flags, with Cellpose 3's defaults."""
    parser = _Parser(
        prog="cellbasin-cellpose",
        description="Cellpose's command line, done by cellbasin.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _misc(parser)
    _images(parser.add_argument_group("images"))
    _method(parser.add_argument_group("model and method"))
    _output(parser.add_argument_group("output"))
    _training(parser.add_argument_group("training"))
    _others(parser.add_argument_group("without effect, refused, or only of old versions"))
    return parser


def _switches(group: Any, **helps: str) -> None:
    for name, text in helps.items():
        group.add_argument(f"--{name}", action="store_true", help=text)


def _values(group: Any, kind: Any, *rows: tuple[str, Any, str]) -> None:
    for name, default, text in rows:
        group.add_argument(f"--{name}", type=kind, default=default, help=text)


def _misc(parser: Any) -> None:
    _switches(
        parser,
        version="show the version",
        verbose="print what is done",
        use_gpu="require a graphics processor (else one is used where there is one)",
    )
    parser.add_argument("--add_model", metavar="FILE", help="keep a network's file, to be used by its name")


def _images(group: Any) -> None:
    _values(
        group,
        str,
        ("dir", "", "folder of images, or of annotated images for --train"),
        ("image_path", "", "a single image"),
        ("img_filter", "", "only images whose names end so"),
    )
    _values(
        group,
        int,
        ("chan", 0, "channel to segment: 0 gray, 1 red, 2 green, 3 blue"),
        ("chan2", 0, "channel of the nuclei: 0 none, 1 red, 2 green, 3 blue"),
        ("channel_axis", None, "number of the axis of channels, where the file does not say"),
        ("z_axis", None, "number of the axis of planes, where the file does not say"),
    )
    _switches(
        group,
        look_one_level_down="also the images of the folders in --dir",
        invert="objects are dark on bright ground",
    )


def _method(group: Any) -> None:
    group.add_argument("--pretrained_model", default="cyto3", help="name of a model, or file of a network")
    _values(
        group,
        float,
        ("diameter", 30.0, "of the objects in pixels; 0: estimated for each image"),
        ("flow_threshold", CELLPOSE_FLOW_THRESHOLD, "objects whose flows differ more are dropped; 0 keeps all"),
        ("cellprob_threshold", 0.0, "logit above which a pixel is inside; lower finds more"),
        ("stitch_threshold", 0.0, "volumes plane by plane: least overlap of one object in two planes"),
        ("anisotropy", None, "volumes: distance of two planes in pixels"),
        ("flow3D_smooth", 0.0, "volumes: flows are blurred by so many pixels"),
    )
    _values(group, int, ("min_size", 15, "smaller objects are dropped; -1 keeps all"))
    _switches(
        group,
        do_3D="volumes as a whole",
        augment="average over four flipped views",
        exclude_on_edges="drop objects that touch the image's edges",
    )


def _output(group: Any) -> None:
    _switches(
        group,
        save_png="labels as NAME_cp_masks.png",
        save_tif="labels as NAME_cp_masks.tif",
        no_npy="do not write NAME_seg.npy",
        save_flows="flows as NAME_flows_cp_masks.tif (picture) and NAME_dP_cp_masks.tif",
        save_outlines="picture with red outlines as NAME_outlines_cp_masks.png",
        save_rois="ImageJ archive NAME_rois.zip",
        save_txt="outlines as NAME_cp_outlines.txt",
        save_mpl="picture as NAME_cp_output_cp_masks.png",
        dir_above="results go to the folder above",
        in_folders="results go to folders masks, outlines, txt_outlines, flows",
    )
    _values(
        group,
        str,
        ("savedir", None, "folder for results (not for NAME_seg.npy and NAME_rois.zip); it must exist"),
        ("output_name", None, "in the place of _cp_masks in the names of results"),
    )


def _training(group: Any) -> None:
    _switches(
        group,
        train="train on the annotated images of --dir",
        train_size="with --train: also write the size model to NAME_size.npy",
    )
    _values(
        group,
        str,
        ("test_dir", "", "folder of annotated images to watch the loss on"),
        ("mask_filter", "_masks", "end of the names of labels; _seg.npy for those of Cellpose's window"),
        ("model_name_out", None, "name of the new model in DIR/models"),
    )
    _values(
        group,
        int,
        ("n_epochs", 500, "passes over the images"),
        ("min_train_masks", 5, "images with fewer objects are left out"),
    )
    _values(group, float, ("diam_mean", 30.0, "diameter that objects are resized to"))


def _others(group: Any) -> None:
    for said, switches, names in (
        ("no effect", _NO_EFFECT, _NO_EFFECT_OF_VALUES),
        ("refused", _REFUSED, _REFUSED_VALUES),
    ):
        _switches(group, **{name: f"{said}: {reason}" for name, reason in switches.items()})
        _values(group, str, *((name, "", f"{said}: {reason}") for name, reason in names.items()))
    _values(group, int, *((name, default, f"only {default}") for name, default in _ONLY.items()))
    group.add_argument(
        "--norm_percentile", nargs=2, type=float, default=(1, 99), metavar=("LOW", "HIGH"), help="only 1 99"
    )
    group.add_argument(
        "--mask_threshold", dest="cellprob_threshold", type=float, help="--cellprob_threshold of version 1"
    )

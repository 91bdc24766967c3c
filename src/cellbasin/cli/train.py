"""`cellbasin train`: a network from annotated images."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from cellbasin.cli.console import DONE, Bar, CommandError, check_torch, make_folder, mention
from cellbasin.cli.flags import CHANNELS, words
from cellbasin.options import Options
from cellbasin.training.recipe import RECIPES, Recipe

if TYPE_CHECKING:
    from cellbasin.weights import Architecture, Weights

EXAMPLES = """Examples:
  cellbasin train dataset --out mine.safetensors --from general --minutes 30
  cellbasin train dataset --out general.safetensors --recipe general \\
      --minutes 600 --session-minutes 120
  cellbasin train dataset --out paper.safetensors --recipe paper --network paper

DIR is a data set with index.csv (columns source, split, name; files
SOURCE/SPLIT/NAME.png and NAME_masks.png), or a folder of pairs NAME.* and
NAME_masks.* (or Cellpose's NAME_seg.npy). From five images on some are kept
to validate on. Annotate whole images, or give 65535 to pixels that are not:
all else without a label counts as background.
Run the same command again to go on with a stopped run."""

_VALIDATED = 6  # images of each source that are segmented at each validation


@dataclass(frozen=True, kw_only=True)
class RecipeFlags:
    """Which recipe, and what is changed of it."""

    recipe: Annotated[
        str | None,
        Parameter(
            metavar="NAME",
            help=f"All settings of the run, by name: {', '.join(RECIPES)}. Default: tune with --from, else default.",
        ),
    ] = None
    minutes: Annotated[float | None, Parameter(help="Length of the run in minutes of training.")] = None
    epochs: Annotated[int | None, Parameter(help="Length of the run in passes over the annotated images.")] = None
    exclude: Annotated[tuple[str, ...], words("SOURCE[,...]", "Sources to leave out besides the recipe's.")] = ()
    only: Annotated[tuple[str, ...], words("SOURCE[,...]", "The only sources to learn from: for a specialist.")] = ()
    learning_rate: Annotated[
        float | None, Parameter(help="Peak learning rate, after the warm-up. Default: the recipe's.")
    ] = None
    seed: Annotated[
        int | None,
        Parameter(
            help="Seed of everything random. Default: the number of training runs behind the model of --from, so that "
            "each sees other crops.",
        ),
    ] = None

    def settings(self, start: Weights | None) -> Recipe:
        """The recipe of a run that goes on from a network."""
        name = self.recipe or ("tune" if start else "default")
        if name not in RECIPES:
            raise CommandError(f"found no recipe {name!r}, expected one of {', '.join(RECIPES)}")
        if self.minutes is not None and self.epochs is not None:
            raise CommandError("found --minutes and --epochs, expected one of them")
        if (self.minutes is not None and not 0 < self.minutes < math.inf) or (
            self.epochs is not None and self.epochs < 1
        ):
            raise CommandError("found a run of no length, expected --minutes above 0 or --epochs from 1")
        if self.learning_rate is not None and not 0 < self.learning_rate < math.inf:
            raise CommandError(f"--learning-rate is {self.learning_rate:g}, expected a number above 0")
        found = RECIPES[name]
        seed = self.seed if self.seed is not None else len(start.lineage) if start else 0
        only = self.only or found.only
        generated = 0.0 if only else found.generated  # a specialist's own images, no drawn ones of everything
        exclude = (*found.exclude, *self.exclude)
        found = replace(
            found,
            learning_rate=self.learning_rate or found.learning_rate,
            diameter=start.card.diameter if start else found.diameter,  # objects look as they did to the network
            seed=seed,
            exclude=exclude,
            only=only,
            generated=generated,
        )
        if self.minutes is not None:
            return replace(found, minutes=self.minutes, epochs=0)
        return found if self.epochs is None else replace(found, minutes=0, epochs=self.epochs)


def train(  # noqa: PLR0913
    folder: Annotated[Path, Parameter(name="DIR", help="Annotated images.")],
    /,
    *,
    out: Annotated[
        Path,
        Parameter(metavar="FILE", help="Weights file to write; its checkpoint and log are written beside it."),
    ],
    start: Annotated[
        str | None,
        Parameter(name="--from", metavar="MODEL", help="Model to fine-tune. Default: train from scratch."),
    ] = None,
    network: Annotated[
        str | None, Parameter(metavar="half|paper", help="Architecture, without --from. Default: half.")
    ] = None,
    recipe: Annotated[RecipeFlags | None, Parameter(name="*")] = None,
    session_minutes: Annotated[
        float | None,
        Parameter(metavar="MINUTES", help="End this session after so long with a checkpoint, to go on later."),
    ] = None,
    validate_every: Annotated[float, Parameter(metavar="MINUTES", help="Time between validations; 0 for none.")] = 15.0,
    channels: Annotated[
        tuple[int, ...] | None, Parameter(**CHANNELS, help="Channels of images whose layout no index tells.")
    ] = None,
    axes: Annotated[
        str | None,
        Parameter(metavar="LETTERS", help="Meaning of the axes of all images, such as CYX; else their files'."),
    ] = None,
) -> int:
    """Train a network on annotated images; stops and resumes, validates on a part it never learns from."""
    check_torch()
    _check(out, session_minutes, validate_every)
    reading = Options(channels=channels, axes=axes)
    from cellbasin.training.loop import TrainingError
    from cellbasin.training.loop import train as run

    architecture, weights = _start(start, network, out)
    settings = (recipe or RecipeFlags()).settings(weights)
    if recipe is not None:
        _check_sources(folder, recipe.exclude)
    images = _prepared(folder, settings, reading)
    try:
        written = run(
            images,
            architecture,
            settings,
            out,
            start=weights,
            validate=_validate(folder, settings, reading) if validate_every > 0 else None,
            validate_every=validate_every * 60,
            report=_print_line,
            session_minutes=math.inf if session_minutes is None else session_minutes,
        )
    except TrainingError as error:
        raise CommandError(str(error)) from error
    if written != out:
        mention(f"stopped for now; run the same command again to go on ({written})")
        return DONE
    _finish(out, folder, settings, images, reading)
    how = "" if channels is None else f"; segment with --channels {','.join(map(str, channels))}"
    mention(f"wrote {out}{how}")
    return DONE


def _check(out: Path, session_minutes: float | None, validate_every: float) -> None:
    from cellbasin.weights import SUFFIX

    if out.suffix != SUFFIX:
        raise CommandError(f"{out}: found the ending {out.suffix!r}, expected a file NAME{SUFFIX}")
    folder = out.resolve().parent
    if not folder.is_dir():
        raise CommandError(f"{out}: found no folder {folder}; expected it to exist: create it")
    make_folder(folder, "choose another with --out")
    if session_minutes is not None and not session_minutes > 0:
        raise CommandError(f"--session-minutes is {session_minutes:g}, expected a number above 0")
    if not validate_every >= 0:
        raise CommandError(f"--validate-every is {validate_every:g}, expected a number from 0")


def _check_sources(folder: Path, exclude: tuple[str, ...]) -> None:
    """A name that is written wrong would be learned from."""
    from cellbasin.io import read_index

    known = {record.source for record in read_index(folder)} if exclude else set()
    if unknown := sorted(set(exclude) - known):
        raise CommandError(
            f"{folder}: found no source {', '.join(unknown)} to leave out; expected some of {', '.join(sorted(known))}"
        )


def _start(start: str | None, network: str | None, out: Path) -> tuple[Architecture, Weights | None]:
    from cellbasin.foreign import open_weights
    from cellbasin.weights import HALF, PAPER, find_model

    if start is not None:
        if network is not None:
            raise CommandError("found --network and --from, expected one of them: a model brings its network along")
        weights = open_weights(start)
        if find_model(start).resolve() == out.resolve():
            raise CommandError(f"{out}: found the model to go on from there, expected another file: choose a new name")
        return weights.card.architecture, weights
    known = {"half": HALF, "paper": PAPER}
    if (network or "half") not in known:
        raise CommandError(f"found network {network!r}, expected one of {', '.join(known)}")
    return known[network or "half"], None


def _prepared(folder: Path, settings: Recipe, reading: Options) -> list[Any]:
    from cellbasin.training.generated import GENERATED
    from cellbasin.training.prepared import prepare_all

    readers = _readers(folder, settings, reading)
    with Bar(len(readers)) as bar:
        bar.begin("flows of the labels")
        images = prepare_all(readers, settings.ignore_label, lambda done, total: bar.end(done))
    if not any(image.areas.size for image in images):
        raise CommandError(f"{folder}: found no object in the labels of {len(images)} images; expected some")
    own = [image.source for image in images if image.source != GENERATED]
    drawn = f", and {len(images) - len(own)} generated ones" if len(own) < len(images) else ""
    sources = f"{len(set(own))} sources" if len(set(own)) > 1 else "one source"
    mention(f"{len(own)} images of {sources} to learn from{drawn}")
    return images


def _readers(folder: Path, settings: Recipe, reading: Options, most: int | None = None) -> list[Any]:
    """What a run learns from: annotated images and, where the recipe wants some, generated ones, `most` at most."""
    from cellbasin.training.folder import read_folder
    from cellbasin.training.generated import count_for, generated_images

    readers = read_folder(
        folder, "train", settings.exclude, reading.channels, settings.validation, settings.only, reading.axes
    )
    drawn = count_for(settings.minutes, len(readers)) if settings.generated else 0
    return readers + generated_images(drawn if most is None else min(drawn, most), settings.seed)


def _validate(folder: Path, settings: Recipe, reading: Options) -> Callable[[Any], Any] | None:
    from cellbasin.datasets import limit_per_source
    from cellbasin.evaluation import validator

    records = _validation_records(folder, settings, reading)
    if not records:
        mention("too few images to split off a validation part: not validated")
        return None
    records = limit_per_source(records, _VALIDATED)
    mention(f"{len(records)} images to validate on")
    return validator(records, diameter=settings.diameter, options=reading)


def _validation_records(folder: Path, settings: Recipe, reading: Options) -> list[Any]:
    from cellbasin.datasets import select_records
    from cellbasin.io import ReadError

    try:
        return select_records(folder, "validation", settings.exclude, settings.only, settings.validation, reading.axes)
    except ReadError:
        return []


def _finish(out: Path, folder: Path, settings: Recipe, images: list[Any], reading: Options) -> None:
    """Teach the finished network to tell object sizes, and find out in which precisions it may run."""
    from cellbasin.datasets import select_records
    from cellbasin.training.finish import finish
    from cellbasin.training.plot import plot_log
    from cellbasin.training.size_fit import PER_SOURCE
    from cellbasin.weights import load_weights, save_weights

    readers = _readers(folder, settings, reading, most=PER_SOURCE)  # drawing takes longer than looking
    records = _validation_records(folder, settings, reading)
    own = select_records(folder, "train", settings.exclude, settings.only, settings.validation, reading.axes)
    done = finish(load_weights(out), images, readers, records, own, settings, mention, reading.channels)
    save_weights(out, done.card, done.tensors)
    log = out.with_suffix(".log.jsonl")
    if log.exists():  # a run of a few steps has none
        plot_log(log, out.with_suffix(".log.png"))


def _print_line(record: dict[str, Any]) -> None:
    scores = {key: value for key, value in record.items() if key.startswith("validation_")}
    hours = record["seconds"] / 3600
    begin = f"step {record['step']}, {record['crops']} crops, {hours:.2f} h:"
    if scores:
        told = ", ".join(f"{key.removeprefix('validation_')} {value:.3f}" for key, value in scores.items())
        mention(f"{begin} validation {told}")
    elif record["step"] % 200 == 0:
        loss = record["flow"] + record["inside"]
        told = f"loss {loss:.4f} (flow {record['flow']:.4f}), rate {record['rate']:.2g}"
        mention(f"{begin} {told}")

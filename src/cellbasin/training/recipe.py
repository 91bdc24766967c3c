"""Training recipes: every setting of a run in one place, stored with the weights it makes."""

from __future__ import annotations

from dataclasses import dataclass, replace

from cellbasin.options import NOT_ANNOTATED, VALIDATION


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """All settings of a training run.

    Length is `minutes` of training (summed over resumed sessions) or `epochs`, one of them 0. `schedule` is a tuple of
    (part of the run at which it starts, crop size in pixels, crops per batch). Learning rate: linear warm-up over
    `warmup` steps or `warm_part` of the run, whichever is over first (0 steps: the part), constant, linear to 0 over
    the last `cooldown` part of the run ("halving" is the paper's schedule). `balance`: a source is drawn as often as
    its number of images to this power (0: all alike, 1: all images alike). `generated`: part of the crops, until the
    part `generated_until` of the run is over. Probabilities are per crop. Sizes and scales are relative to the model's
    object diameter. `keep_norms`: batch-norm statistics stay those of the network that the run goes on from.
    `contacts`: weight in the loss of pixels within 2 px of another object.
    """

    name: str = "default"
    licence: str = ""
    note: str = ""
    minutes: float = 120.0
    epochs: float = 0
    optimizer: str = "adamw"
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    warmup: int = 500
    warm_part: float = 0.1
    cooldown: float = 0.5
    decay: str = "linear"
    average: float = 0.999
    keep_norms: bool = False
    schedule: tuple[tuple[float, int, int], ...] = ((0.0, 160, 16), (0.67, 224, 8))
    seed: int = 0
    diameter: float = 30.0
    # sampling
    on_object: float = 0.85
    balance: float = 0.5
    generated: float = 0.2
    generated_until: float = 0.5
    validation: float = VALIDATION
    exclude: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    ignore_label: int = NOT_ANNOTATED
    # geometry
    scale: tuple[float, float] = (0.75, 1.25)
    wide_scale: tuple[float, float] = (0.5, 2.0)
    wide: float = 0.3
    # intensity
    gamma: float = 0.25
    contrast: float = 0.15
    invert: float = 0.1
    blur: float = 0.2
    noise: float = 0.3
    planes: float = 0.08
    coarse: float = 0.1
    mix_rgb: float = 0.7
    drop_nucleus: float = 0.2
    # loss
    contacts: float = 1.0


NON_COMMERCIAL = ("sartorius",)
UNCLEAR_TERMS = ("isbi2009", "neuroblastoma")
NUCLEI = ("dsb2018", "isbi2009")

_GENERAL = Recipe(name="general", exclude=NON_COMMERCIAL, licence="BSD-3-Clause")

RECIPES: dict[str, Recipe] = {
    "default": Recipe(),
    # A network that goes on with few images of another kind (docs/experiments.md, "Fine-tuning").
    "tune": Recipe(name="tune", minutes=30.0, learning_rate=1e-3, keep_norms=True),
    "general": _GENERAL,
    "strict": replace(_GENERAL, name="strict", exclude=NON_COMMERCIAL + UNCLEAR_TERMS),
    "nuclei": replace(_GENERAL, name="nuclei", only=NUCLEI),
    "research": Recipe(
        name="research",
        licence="non-commercial use only",
        note="this model was also trained on competition data that allow non-commercial use only",
    ),
    # Paper, "Training" and "Image augmentations for training"; only gradients are clipped, as in all our runs.
    "paper": Recipe(
        name="paper",
        minutes=0,
        epochs=500,
        optimizer="sgd",
        learning_rate=0.2,
        weight_decay=1e-5,
        decay="halving",
        warmup=0,
        warm_part=0.02,
        cooldown=0.2,
        average=0.0,
        schedule=((0.0, 224, 8),),
        on_object=0.0,
        balance=1.0,
        generated=0.0,
        wide=0.0,
        gamma=0.0,
        contrast=0.0,
        invert=0.0,
        blur=0.0,
        noise=0.0,
        planes=0.0,
        coarse=0.0,
        mix_rgb=0.0,
        drop_nucleus=0.0,
    ),
}

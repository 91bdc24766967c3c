"""Flags of the commands; those of a segmentation are made from the one definition in `cellbasin.options`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, make_dataclass
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, get_type_hints

from cyclopts import Group, Parameter, Token

from cellbasin.options import VOLUME_OPTIONS, EngineName, Options, PrecisionName

if TYPE_CHECKING:
    from cellbasin.model import Model

HOW = Group("How to segment", sort_key=2)
WITH = Group("Model", sort_key=1)
ONCE = "once"  # as a diameter: one for all images of a call


def one_word(read: Callable[[str], Any], expected: str, words: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Settings of a flag whose value is one argument, read by a function, or one of some words, in any case.

    expected: what an error says of it.
    """

    def convert(type_: Any, tokens: Sequence[Token]) -> Any:
        text = tokens[0].value
        if words and text.lower() in words:
            return words[text.lower()]
        try:
            return read(text)
        except ValueError:
            raise ValueError(f"found {text!r}, expected {expected}") from None

    return {"converter": convert, "n_tokens": 1}


def words(metavar: str, help: str, **settings: Any) -> Parameter:
    """A flag that takes words with commas between, in one argument or several."""

    def convert(type_: Any, tokens: Sequence[Token]) -> tuple[str, ...]:
        parts = [part.strip() for token in tokens for part in token.value.split(",")]
        if not any(parts):
            raise ValueError(f"found {tokens[0].value!r}, expected {metavar}")
        return tuple(part for part in parts if part)

    return Parameter(converter=convert, n_tokens=1, metavar=metavar, show_default=False, help=help, **settings)


def _whole_numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(","))


CHANNELS = {
    **one_word(_whole_numbers, "PRIMARY or PRIMARY,NUCLEAR such as 1,0"),
    "metavar": "PRIMARY[,NUCLEAR]",
}
_DIAMETER = {
    **one_word(float, "a number of pixels, auto or once", {"auto": None, ONCE: ONCE}),
    "metavar": "PX|auto|once",
}
_WEIGHTS = {
    **one_word(_numbers, "XY,XZ,YZ such as 1,0.5,0.5"),
    "metavar": "XY,XZ,YZ",
    "show_default": lambda weights: ",".join(f"{weight:g}" for weight in weights),  # as it is typed
}

_SPECIAL: dict[str, dict[str, Any]] = {
    "diameter": {**_DIAMETER, "more": "once: one estimate for all."},
    "channels": CHANNELS,
    "axes": {"metavar": "YX|CYX|ZYX|..."},
    "volume_mode": {"metavar": "flows|stitch"},
    "direction_weights": _WEIGHTS,
}


def _flags(name: str, without: Sequence[str] = ()) -> type:
    """A dataclass with a flag for each field of `Options`."""
    hints = get_type_hints(Options)
    made = [_flag(item, hints[item.name]) for item in fields(Options) if item.name not in without]
    return make_dataclass(name, made, frozen=True, kw_only=True, namespace={"__module__": __name__})


def _flag(item: Field[Any], hint: Any) -> tuple[str, Any, Any]:
    special = dict(_SPECIAL.get(item.name, {}))
    more = special.pop("more", "")
    if item.name == "diameter":
        hint = float | str | None
    if item.metadata["unit"]:
        special = {"metavar": item.metadata["unit"].upper(), **special}
    if hint is int:
        special = {"metavar": "N", **one_word(int, "a whole number"), **special}
    parameter = Parameter(help=f"{item.metadata['help']} {more}".strip(), group=HOW, **special)
    default = field(default=item.default) if item.default is not MISSING else field()
    return item.name, Annotated[hint, parameter], default


if TYPE_CHECKING:
    SegmentFlags: TypeAlias = Any
    EvaluateFlags: TypeAlias = Any
else:
    SegmentFlags = Annotated[_flags("SegmentFlags") | None, Parameter(name="*")]
    EvaluateFlags = Annotated[
        _flags("EvaluateFlags", without=("diameter", *VOLUME_OPTIONS)) | None, Parameter(name="*")
    ]


def options_from(flags: Any) -> Options:
    """The options that flags stand for; raises ValueError as `Options` does."""
    given = {item.name: getattr(flags, item.name) for item in fields(flags)} if flags is not None else {}
    if given.get("diameter") == ONCE:  # is settled when the images are there
        del given["diameter"]
    return Options(**given)


def wants_one_diameter(flags: Any) -> bool:
    """Whether one diameter is to be estimated for all images."""
    return getattr(flags, "diameter", None) == ONCE


@dataclass(frozen=True, kw_only=True)
class ModelFlags:
    """Which networks, and what computes them."""

    model: Annotated[
        tuple[str, ...],
        words(
            "NAME|FILE",
            "Name of a model (see 'cellbasin models list') or a weights file; with several, separated by commas, "
            "the networks' answers are averaged. Default: general.",
            name=["--model", "-m"],
            group=WITH,
        ),
    ] = ("general",)
    ensemble: Annotated[
        bool,
        Parameter(
            group=WITH,
            negative="",
            help="Average with the model's further networks, those called NAME-2, NAME-3, ...: slower, better.",
        ),
    ] = False
    engine: Annotated[EngineName, Parameter(group=WITH, help="What runs the network.")] = "auto"
    precision: Annotated[
        PrecisionName,
        Parameter(
            group=WITH,
            help="Numerical precision of the network; 'cellbasin doctor' says what auto means here.",
        ),
    ] = "auto"

    def load(self) -> Model:
        """The model that the flags name."""
        from cellbasin.cli.models import open_models
        from cellbasin.weights import ensemble_of, find_model

        names = [one for name in self.model for one in ensemble_of(name)] if self.ensemble else self.model
        return open_models([find_model(name) for name in names], self.engine, self.precision)


ModelOption = Annotated[ModelFlags | None, Parameter(name="*")]
JsonOption = Annotated[
    str | None,
    Parameter(
        name="--json",
        metavar="FILE",
        allow_leading_hyphen=True,
        help="Write results for machines to this file; - is stdout.",
    ),
]

"""Weights files: safetensors with a JSON header that says everything needed to use them, and nothing executable."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from cellbasin.atomic import atomic

SHIPPED = Path(__file__).parent / "models"
SUFFIX = ".safetensors"
HEADER_KEY = "cellbasin"
FORMAT = 1
CONVENTIONS = ("cellbasin", "cellpose")
NORM_EPSILON = 1e-5  # of batch norm, in every engine


class WeightsError(ValueError):
    """A weights file that cannot be used: what was found, what was expected, what to do."""


@contextmanager
def understood(part: str) -> Iterator[None]:
    """WeightsError in the place of whatever goes wrong with a part of a header that holds something unforeseen."""
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"found a weights file whose {part} cannot be understood ({error!r})") from error


@dataclass(frozen=True, slots=True)
class Architecture:
    """What the network is built from (paper, "Deep neural network").

    channels: maps per scale; stem: 1 = the paper's, 2 = the U-Net works at half resolution; inputs: image channels
    (primary, nuclear); outputs: flow y, flow x, logit; refine: maps of the refinement at full resolution (0 = none);
    refine_inputs: maps it is given for each pixel. With two inputs beside them they make 16, one register's worth.
    """

    channels: tuple[int, ...] = (32, 64, 128, 256)
    stem: int = 2
    inputs: int = 2
    outputs: int = 3
    refine: int = 16
    refine_inputs: int = 14

    def __post_init__(self) -> None:
        object.__setattr__(self, "channels", tuple(int(c) for c in self.channels))
        sizes = (*self.channels, self.stem, self.inputs, self.outputs, self.refine_inputs)
        if not self.channels or self.stem not in (1, 2, 4) or min(sizes) < 1 or max(sizes) > 4096 or self.refine < 0:
            raise WeightsError(f"architecture {asdict(self)} is not one this version can build")

    @property
    def divisor(self) -> int:
        """Tiles must be a multiple of this in height and width."""
        return self.stem * 2 ** (len(self.channels) - 1)


PAPER = Architecture(stem=1, refine=0)
HALF = Architecture()


@dataclass(frozen=True, slots=True)
class Card:
    """The header of a weights file.

    name: of the model; architecture; diameter: object diameter in pixels that images are resized to; licence and
    sources of the training data; ancestors: name, sha256, sources and hours of the networks it was trained from, oldest
    first; recipe and scores: free-form records; size_model: coefficients of the style → diameter regression;
    confidence: coefficients of the objects' confidence, "plain" and "augment"; novelty: styles of training images;
    ranges: int8 ranges by tensor name; note: a warning, shown by `cellbasin models info`; typical_diameter: of the
    training images' objects where known, the first guess of a model without size model (0: `diameter`); conventions: of
    the program that trained the network, one of `CONVENTIONS`: what is beyond the image, how it is resized, how objects
    at the border are judged.
    """

    name: str
    architecture: Architecture
    diameter: float = 30.0
    licence: str = ""
    sources: tuple[str, ...] = ()
    ancestors: tuple[dict[str, Any], ...] = ()
    recipe: dict[str, Any] = field(default_factory=dict)
    scores: dict[str, Any] = field(default_factory=dict)
    size_model: dict[str, Any] = field(default_factory=dict)
    confidence: dict[str, Any] = field(default_factory=dict)
    novelty: dict[str, Any] = field(default_factory=dict)
    ranges: dict[str, Any] = field(default_factory=dict)
    note: str = ""
    typical_diameter: float = 0.0
    conventions: str = "cellbasin"

    @property
    def seen(self) -> tuple[str, ...]:
        """Sources of images that this network or one of its ancestors has learned from, in alphabetical order."""
        return tuple(sorted({*self.sources, *(source for one in self.ancestors for source in one["sources"])}))


@dataclass(frozen=True, slots=True)
class Weights:
    """A loaded weights file: its card, its tensors (float32 by name) and the SHA-256 of the file."""

    card: Card
    tensors: dict[str, np.ndarray]
    sha256: str

    @property
    def lineage(self) -> tuple[dict[str, Any], ...]:
        """What the card of a network that is trained from this one has as its ancestors."""
        hours = self.card.recipe.get("hours")
        own = {"name": self.card.name, "sha256": self.sha256, "sources": list(self.card.sources), "hours": hours}
        return (*self.card.ancestors, own)


def load_weights(name_or_path: str | Path) -> Weights:
    """Load a shipped or added model by name (see `known_models`) or a file by path.

    Raises WeightsError for an unknown name, a missing file, or a file that is not a cellbasin weights file.

    >>> load_weights("no-such-model")
    Traceback (most recent call last):
    cellbasin.weights.WeightsError: found no model and no file 'no-such-model'; expected ...
    """
    path = find_model(name_or_path)
    try:
        with safe_open(path, framework="numpy") as file:
            header = (file.metadata() or {}).get(HEADER_KEY)
            tensors = {key: file.get_tensor(key).astype(np.float32) for key in file.keys()}
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise WeightsError(
            f"{path} is not a readable weights file ({error}): expected safetensors written by cellbasin"
        ) from error
    if header is None:
        raise WeightsError(
            f"{path} has no cellbasin header: expected a file written by 'cellbasin train' or 'cellbasin models add'"
        )
    for key, tensor in tensors.items():
        if not np.isfinite(tensor).all():
            raise WeightsError(
                f"{path}: tensor {key!r} holds NaN or infinite values; the training that wrote it has failed"
            )
    return Weights(_parse(header, path), tensors, hashlib.sha256(path.read_bytes()).hexdigest())


def save_weights(path: str | Path, card: Card, tensors: dict[str, np.ndarray], dtype: type = np.float16) -> None:
    """Write a weights file (float16 by default: 13 MB for the shipped network), whole or not at all.

    Raises WeightsError for values that the file cannot hold, WriteError when it cannot be written.
    """
    limit = np.finfo(dtype).max
    for key, value in tensors.items():
        if not (np.abs(value) <= limit).all():
            raise WeightsError(f"tensor {key!r} holds values that are not finite or above {limit:g}: not written")
    header = {"format": FORMAT, **asdict(card)}
    data = save(
        {key: np.ascontiguousarray(value, dtype) for key, value in tensors.items()},
        metadata={HEADER_KEY: json.dumps(header, sort_keys=True)},
    )
    with atomic(path) as temporary:
        temporary.write_bytes(data)


def user_folder() -> Path:
    """Where added models are kept: `CELLBASIN_MODELS`, else the user's data folder."""
    if os.environ.get("CELLBASIN_MODELS"):
        return Path(os.environ["CELLBASIN_MODELS"])
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    else:
        base = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    return base / "cellbasin" / "models"


def known_models() -> dict[str, Path]:
    """Files of the added and of the shipped models, by name; a shipped name cannot be taken by another."""
    files = [path for folder in (user_folder(), SHIPPED) for path in sorted(folder.glob(f"*{SUFFIX}"))]
    return {path.stem: path for path in files}


def find_model(name_or_path: str | Path) -> Path:
    """The file of a shipped or added model by its name, or a path as it is; raises WeightsError for neither."""
    known = known_models()
    if str(name_or_path) in known:
        return known[str(name_or_path)]
    if Path(name_or_path).is_file():
        return Path(name_or_path)
    names = ", ".join(known) or "none"
    raise WeightsError(
        f"found no model and no file '{name_or_path}'; expected a weights file or one of these models: {names}"
    )


def ensemble_of(name: str) -> list[str]:
    """Names of a model and of the further networks that make an ensemble with it: NAME, NAME-2, NAME-3 and so on.

    Raises WeightsError where there is no NAME-2 among the shipped and added models.
    """
    known = known_models()
    found = [name]
    while f"{name}-{len(found) + 1}" in known:
        found.append(f"{name}-{len(found) + 1}")
    if len(found) == 1:
        raise WeightsError(
            f"found no model {name}-2, expected a second network for the ensemble of {name}: "
            f"add one with 'cellbasin models add FILE --name {name}-2'"
        )
    return found


def _parse(header: str, path: Path) -> Card:
    try:
        fields = json.loads(header)
        version = fields.pop("format")
        if version != FORMAT:
            raise WeightsError(
                f"{path} has format {version}, this version of cellbasin reads {FORMAT}: update cellbasin"
            )
        architecture = Architecture(**fields.pop("architecture"))
        fields["sources"] = tuple(fields.get("sources", ()))
        fields["ancestors"] = tuple(fields.get("ancestors", ()))
        card = Card(architecture=architecture, **fields)
        for name in ("recipe", "scores", "size_model", "confidence", "novelty", "ranges"):
            if not isinstance(getattr(card, name), dict):
                raise TypeError(f"{name} is not a table")
        if not all(isinstance(one, dict) and isinstance(one["sources"], list) for one in card.ancestors):
            raise TypeError("ancestors are not tables with sources")
        for diameter in (card.diameter, card.typical_diameter or card.diameter):
            if not 1 <= float(diameter) <= 10000:
                raise ValueError(f"diameter is {diameter}")
        if card.conventions not in CONVENTIONS:
            raise ValueError(f"conventions are {card.conventions!r}")
        return card
    except WeightsError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise WeightsError(f"{path}: the header cannot be understood ({error!r})") from error

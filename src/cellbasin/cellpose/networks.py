"""Which network a name of Cellpose's means here."""

from __future__ import annotations

import os
from pathlib import Path

from cellbasin.weights import WeightsError, known_models

GENERAL = "general"
STAND_INS = ("cyto", "cyto2", "cyto3", "nuclei", "cpsam")
"""Names of Cellpose's own all-round networks: where their files are missing our model stands in."""

_FILES = {"cyto": "cytotorch_0", "cyto2": "cyto2torch_0", "nuclei": "nucleitorch_0"}


def cellpose_folder() -> Path:
    """Where Cellpose keeps its networks: `CELLPOSE_LOCAL_MODELS_PATH`, else `.cellpose/models` of the user."""
    given = os.environ.get("CELLPOSE_LOCAL_MODELS_PATH")
    return Path(given) if given else Path.home() / ".cellpose" / "models"


def find_network(name: str) -> tuple[str | Path, str]:
    """A name or file for `load_model`, and a line that says what stands in for what ("" where nothing does).

    A file; else a model of cellbasin (shipped or added); else a file in Cellpose's own folder; else our model in the
    place of an all-round network. Raises WeightsError for any other name: a special network is replaced by nothing.

    >>> find_network("general")
    ('general', '')
    """
    if Path(name).is_file():
        return Path(name), ""
    if name in known_models():
        return name, ""
    for file in (name, _FILES.get(name, name)):
        kept = cellpose_folder() / file
        if name and os.sep not in name and kept.is_file() and name != "cpsam":
            return kept, ""
    if name in STAND_INS:
        return GENERAL, (
            f"the network {name!r} of Cellpose is not here, cellbasin's model {GENERAL!r} is used in its place; "
            f"to use Cellpose's own put its file into {cellpose_folder()} or run: cellbasin models add FILE"
        )
    raise WeightsError(
        f"found no network {name!r}; expected a file, one in {cellpose_folder()}, one of the models "
        f"{', '.join(known_models())}, or one of {', '.join(STAND_INS)}"
    )

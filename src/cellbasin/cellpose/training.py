"""Training as Cellpose's command line does it: annotated images in a folder, the new model in its folder `models`."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable

from cellbasin.cellpose.arguments import UsageError

Say = Callable[[str], None]


def train(given: Namespace, log: Say, warn: Say) -> int:
    """Not yet."""
    raise UsageError("training is not to be had through this command yet: use 'cellbasin train'")

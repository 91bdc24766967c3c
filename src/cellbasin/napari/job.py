"""One press of the button: what is to be segmented and how, done in a thread that knows nothing of windows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from cellbasin.model import Model, Progress, load_model
from cellbasin.options import Options
from cellbasin.prediction import tell
from cellbasin.weights import find_model

from .results import Collected
from .source import Source


@dataclass(frozen=True, eq=False)
class Job:
    """A source, the channel of it that shows the cells, where there is a choice, and how to segment it.

    model: a name or a file; maps: which of `results.MAPS` are wanted as layers.
    """

    source: Source
    primary: int | None
    model: str
    options: Options
    maps: tuple[str, ...] = ()

    def run(self, progress: Progress) -> Collected:
        """Segment every frame; progress(stage, part 0..1) is called often; `Cancelled` is raised where it says False.

        Raises what `load_model` and `Model.segment` raise.
        """
        tell(progress, "loading the model", 0.0)
        path = find_model(self.model)
        model = _model(path, path.stat().st_mtime_ns)
        options = self.options
        if options.anisotropy is None and self.source.anisotropy is not None:
            options = replace(options, anisotropy=self.source.anisotropy)
        collected, count = Collected(self.source, self.maps), len(self.source)
        for number, image in enumerate(self.source.frames(self.primary), 1):
            before = f"frame {number} of {count}: " if count > 1 else ""
            collected.add(model.segment(image, options=options, progress=_with(before, progress)))
        return collected


def _with(before: str, progress: Progress) -> Progress:
    return lambda stage, part: progress(before + stage, part)


@lru_cache(maxsize=2)
def _model(path: Path, changed: int) -> Model:
    """Loaded once, until its file changes: building a network takes longer than running it on a small image."""
    return load_model(path)

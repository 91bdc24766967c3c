"""Options take numbers of any kind, keep them as plain ones, and refuse everything else by name."""

import json

import numpy as np
import pytest

from cellbasin.options import Options


def test_numbers_of_numpy_become_plain_ones() -> None:
    options = Options(
        diameter=np.float32(30),
        channels=np.array([1, 0]),
        min_size=np.int64(20),
        tile=224.0,  # type: ignore[arg-type]
        direction_weights=[1, np.float32(0.5), 0],  # type: ignore[arg-type]
    )
    assert json.loads(json.dumps(dict(options.as_dict())))["direction_weights"] == [1, 0.5, 0]
    assert (options.diameter, options.channels, options.min_size, options.tile) == (30, (1, 0), 20, 224)
    assert isinstance(options.tile, int) and isinstance(options.diameter, float)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("diameter", True),
        ("diameter", "30"),
        ("diameter", float("nan")),
        ("min_size", 15.5),
        ("min_size", None),
        ("batch", 0.5),
        ("overlap", None),
        ("probability_threshold", None),
        ("channels", 1),
        ("channels", "0"),
        ("channels", (0.5,)),
        ("channels", (True,)),
        ("channels", (0, 1, 2)),
        ("axes", ["Y", "X"]),
        ("augment", "no"),
        ("volume_mode", "flow"),
        ("direction_weights", 1),
        ("direction_weights", (0, 0, 0)),
    ],
)
def test_what_is_no_such_option_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"^{name} is "):
        Options(**{name: value})  # type: ignore[arg-type]

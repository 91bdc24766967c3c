"""The examples in docstrings run, in every module of the package."""

from __future__ import annotations

import doctest
import inspect
import pkgutil
from importlib import import_module

import pytest

import cellbasin

OPTIONAL = ("torch", "matplotlib", "onnx", "napari", "qtpy", "superqt", "pyarrow")
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(cellbasin.__path__, "cellbasin.")
    if not module.name.endswith("__main__")
)


@pytest.mark.parametrize("name", ["cellbasin", *MODULES])
def test_examples_run(name: str) -> None:
    try:
        module = import_module(name)
    except ModuleNotFoundError as error:
        if error.name not in OPTIONAL:
            raise
        pytest.skip(f"needs {error.name}")
    assert doctest.testmod(module, optionflags=doctest.ELLIPSIS).failed == 0


@pytest.mark.parametrize("name", ["cellbasin", "cellbasin.io", "cellbasin.metrics", "cellbasin.generator"])
def test_public_functions_have_examples(name: str) -> None:
    module = import_module(name)
    public = {word: getattr(module, word) for word in module.__all__}
    functions = {word: value for word, value in public.items() if inspect.isfunction(value)}
    assert functions and [word for word, value in functions.items() if ">>>" not in value.__doc__] == []

"""The restricted reader of pickles: all that Cellpose writes comes through, nothing that a villain writes runs."""

from __future__ import annotations

import os
import pickle
from collections import OrderedDict
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellbasin.pickles import PickleError, load_npy, load_pickle

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)
PLAIN = {
    "masks": np.arange(6, dtype=np.uint16).reshape(2, 3),
    "fortran": np.arange(6.0).reshape(2, 3).T,
    "big endian": np.ones(3, ">f4"),
    "empty": np.zeros((0, 3), np.int32),
    "texts": np.array(["x", "yy"]),
    "scalar": np.float32(3.5),
    "objects": np.array([[1, 2], [np.ones(2)]], dtype=object),
    "flows": [np.zeros((1, 2, 2), np.uint8), [], None],
    "pair": (1, 2.5, "µm", b"\xff", True),
    "set": {1, 2},
    "ordered": OrderedDict(a=1),
}


def same(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray):
        if a.dtype == object:
            return a.shape == b.shape and all(same(x, y) for x, y in zip(a.ravel(), b.ravel(), strict=True))
        return a.dtype == b.dtype and np.array_equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return type(a) is type(b) and a == b


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_plain_data_comes_through(protocol: int) -> None:
    assert same(load_pickle(pickle.dumps(PLAIN, protocol)), PLAIN)


def test_paths_become_text() -> None:
    assert load_pickle(pickle.dumps(PurePosixPath("/data/cells.tif"))) == "/data/cells.tif"


class Villain:
    """Whatever is unpickled with Python's own reader runs this."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def villains(mark: Path) -> list[Any]:
    text = f"open({str(mark)!r}, 'w')"
    return [
        Villain(os.system, f"touch {mark}"),
        Villain(eval, text),
        Villain(exec, text),
        Villain(getattr, "text", "format"),
        Villain(import_module, "os"),
        Villain(np.load, str(mark), None, True),
        Villain(open, str(mark), "w"),
        Villain(Path.touch, mark),
        Villain(pickle.loads, pickle.dumps(1)),
        Villain(np.memmap, str(mark), "uint8", "w+", 0, (4,)),
        Villain(np.fromfile, str(mark)),
        Villain(bytes, 10**15),
        Villain(bytearray, 10**15),
    ]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("number", range(13))
def test_nothing_is_run(tmp_path: Path, number: int, protocol: int) -> None:
    mark = tmp_path / "was-here"
    for content in (villains(mark)[number], {"masks": [villains(mark)[number]]}):
        file = tmp_path / "evil_seg.npy"
        np.save(file, np.array({"masks": 1}, dtype=object), allow_pickle=True)
        start = file.read_bytes()[:128]
        file.write_bytes(start[: 10 + int.from_bytes(start[8:10], "little")] + pickle.dumps(content, protocol))
        with pytest.raises(PickleError, match="found"):
            load_npy(file)
    assert not mark.exists()


@pytest.mark.parametrize(
    "code",
    [
        b"cos\nsystem\n(S'touch mark'\ntR.",
        b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x02ls\x85R.",  # names from the stack
        b"cnumpy\nndarray\n(K\x05tR.",  # the class called
        b"c_codecs\nencode\n}(X\x01\x00\x00\x00xK\x01u\x86b.",  # the function changed
        b"ccollections\nOrderedDict\nN}X\x01\x00\x00\x00xK\x01s\x86b.",
        b"(ios\nsystem\n.",
        b"(cos\nsystem\nS'ls'\no.",
        b"cbuiltins\nset\n(K\x05tR.",
        b"\x82\x01.",  # extension registry
        b"P1\n.",  # a reference to the outside
        b"(lp0\n(g0\ng0\ntp1\nag1\na.",  # refers to itself through a tuple
        b"(lp0\ng0\na.",  # refers to itself
        b"]" * 5000 + b"a" * 4999 + b".",  # nested too deeply
        b"\x80\x02cnumpy\ndtype\n)\x81.",  # a type that was never made
        b"ccollections\nOrderedDict\n)R}X\x06\x00\x00\x00valuesK\x01sb.",  # a container whose own calls are replaced
        b"",
        b"garbage",
        b".",
    ],
)
def test_pickles_made_by_hand_are_refused(code: bytes) -> None:
    with pytest.raises(PickleError):
        load_pickle(code)


def test_lengths_and_numbers_in_the_pickle_take_no_memory() -> None:
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for code in (
        b"]r\xff\xff\xff\x7f.",  # remembered as number 2^31 - 1
        b"B\xff\xff\xff\x7fx.",  # bytes of that length
        b"X\xff\xff\xff\x7fx.",
        b"\x80\x04\x95\xff\xff\xff\x7f\x00\x00\x00\x00].",  # a frame
        b"\x80\x05\x96\xff\xff\xff\x7f\x00\x00\x00\x00x.",  # a bytearray
    ):
        try:
            assert load_pickle(code) == []
        except PickleError as error:
            assert "\n" not in str(error)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


@pytest.mark.parametrize("use", [b"K\x01s", b"K\x01su", b"\x90", b"\x91"])
def test_tuples_within_tuples_are_no_keys(use: bytes) -> None:
    nested = b"K\x01" + 60 * b"2\x86"  # 2^60 numbers
    code = {
        b"K\x01s": b"}" + nested + use,
        b"K\x01su": b"}(" + nested + b"K\x01u",
        b"\x90": b"\x8f(" + nested + use,
        b"\x91": b"(" + nested + use,
    }[use]
    with pytest.raises(PickleError, match="key"):
        load_pickle(code + b".")
    with pytest.raises(PickleError, match="items"):
        load_pickle(nested + b".")
    with pytest.raises(PickleError, match="array of type tuple"):
        load_pickle(b"cnumpy\ndtype\n(" + nested + b"tR.")


def test_a_few_bytes_do_not_stand_for_more_than_fits_anywhere() -> None:
    content: list[Any] = []
    for _ in range(200):
        content = [content] * 10
    with pytest.raises(PickleError, match="items"):
        load_pickle(pickle.dumps(content))
    shared = ["text"] * 1000
    assert load_pickle(pickle.dumps([shared] * 100))[99] == shared
    with pytest.raises(PickleError, match="at most"):
        load_pickle(
            b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tC\x01btR(K\x01(J\xff\xff\xff\x7fJ\xff\xff\xff\x7ft"
            b"cnumpy\ndtype\n(X\x02\x00\x00\x00f8K\x00K\x01tR\x89C\x00tb."
        )


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 255), st.integers(0, 10**6))
def test_damage_is_an_error_or_harmless(place: int, byte: int, cut: int) -> None:
    data = bytearray(pickle.dumps(PLAIN, 2))
    data[place % len(data)] = byte
    try:
        load_pickle(bytes(data[: len(data) - cut % 50]))
    except PickleError as error:
        assert "\n" not in str(error)


def test_npy_without_pickle_and_cut_short(tmp_path: Path) -> None:
    file = tmp_path / "a.npy"
    np.save(file, np.arange(100))
    assert load_npy(file).sum() == 4950
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(PickleError):
        load_npy(file)
    np.save(file, np.array(PLAIN, dtype=object), allow_pickle=True)
    assert same(load_npy(file), PLAIN)
    whole = file.read_bytes()
    for end in (0, 5, 40, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:end])
        with pytest.raises(PickleError):
            load_npy(file)


def test_old_and_new_spelling_of_numpys_modules() -> None:
    for old, new in ((b"numpy.core", b"numpy._core"), (b"numpy._core", b"numpy.core")):
        assert same(load_pickle(pickle.dumps(PLAIN, 2).replace(old, new)), PLAIN)

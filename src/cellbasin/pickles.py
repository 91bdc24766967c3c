"""Reading pickles of other programs without running anything in them.

A pickle is a small program: it may call any function that can be imported. Here it can call only the few in `ALLOWED`,
none of which does more than build numbers, texts, containers and arrays; everything else is refused by its name.

>>> import pickle
>>> load_pickle(pickle.dumps({"masks": np.arange(3)}))
{'masks': array([0, 1, 2])}
>>> load_pickle(pickle.dumps(print))
Traceback (most recent call last):
cellbasin.pickles.PickleError: found builtins.print in the pickle, expected numbers, texts and arrays only: ...
"""

from __future__ import annotations

import io
import math
import os
import pickle
import struct
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np

from cellbasin.messages import one_line

Allowed = Mapping[tuple[str, str], Any]

MAX_BYTES = 16 * 1024**3
"""No array of a pickle may be larger than this."""

MAX_ITEMS = 10_000_000
"""Items of containers that a pickle may stand for, what it refers to many times counted every time."""


class PickleError(ValueError):
    """A pickle that is damaged or holds what has no place in a data file; one line."""


def load_pickle(source: bytes | BinaryIO, more: Allowed | None = None) -> Any:
    """Build what a pickle holds, if that is plain data.

    Parameters
    ----------
    source : the pickle, or an open file at whose position it begins; what follows it is left unread.
    more : names (module, name) that may be used beside `ALLOWED`, and what is called in their place.

    Returns
    -------
    numbers, texts, bytes, containers and numpy arrays (arrays of objects too, whose items are such again).

    Raises
    ------
    PickleError when anything else is in it, or it is damaged.
    """
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    return _Reader(file, more or {}).content()


def load_npy(path: str | os.PathLike[str]) -> Any:
    """What a `.npy` file holds: an array, or the object that `np.save` has pickled into an array without axes.

    Raises PickleError for damaged files and for what `load_pickle` refuses, OSError where the file cannot be read.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(file)
            if dtype.hasobject:
                found = load_pickle(file)
                return found[()] if isinstance(found, np.ndarray) and found.ndim == 0 else found
        if math.prod(shape) * dtype.itemsize > path.stat().st_size:
            raise PickleError(f"found a file too short for an array of shape {shape}: copy it again")
        return np.load(path, allow_pickle=False)
    except (PickleError, OSError):
        raise
    except Exception as error:  # a damaged header can fail in any way
        reason = one_line(error, longest=120)
        raise PickleError(f"the file cannot be read ({reason}); expected one of numpy's .npy files") from error


class _Bounded:
    """A file of which no more is asked for than is left, so that a wrong length in it takes no memory."""

    def __init__(self, file: BinaryIO) -> None:
        start = file.tell()
        self._file, self._end = file, file.seek(0, os.SEEK_END)
        file.seek(start)

    def read(self, length: int) -> bytes:
        """So many bytes; EOFError where fewer are left."""
        if length > self._end - self._file.tell():
            raise EOFError("it is cut short, or a length in it is wrong")
        return self._file.read(length)

    def readline(self) -> bytes:
        """Up to the end of a line."""
        return self._file.readline()


def _load_bytearray(machine: Any) -> None:
    """Bytes that are there, not as many as the pickle says."""
    (length,) = struct.unpack("<Q", machine.read(8))
    machine.append(bytearray(machine.read(length)))


_KEYS = (str, bytes, int, float, bool, type(None), np.generic)


def _check_keys(keys: Iterable[Any]) -> None:
    """Keys and items of sets are hashed, which of a few bytes of tuples within tuples takes forever."""
    for key in keys:
        if not isinstance(key, _KEYS):
            raise PickleError(f"found a {type(key).__name__} as a key, expected texts and numbers")


def _with_plain_keys(code: bytes, keys: Callable[[list[Any]], Iterable[Any]]) -> dict[int, Any]:
    """The machine's instruction, after a look at what it will take from the stack."""
    load = pickle._Unpickler.dispatch[code[0]]

    def checked(machine: Any) -> None:
        _check_keys(keys(machine.stack))
        load(machine)

    return {code[0]: checked}


class _Reader(pickle._Unpickler):
    """Python's own machine with only the allowed names; torch's references to storages are handed to `more`.

    It is the one written in Python: that in C makes its table of memories as long as the pickle says, and fills it.
    """

    def __init__(self, file: BinaryIO, more: Allowed) -> None:
        super().__init__(_Bounded(file), encoding="latin1")
        self._allowed = {**ALLOWED, **more}

    def find_class(self, module: str, name: str) -> Any:
        """What a name in the pickle stands for."""
        try:
            return self._allowed[module, name]
        except KeyError:
            raise PickleError(
                f"found {module}.{name} in the pickle, expected numbers, texts and arrays only: "
                f"nothing was run; do not trust this file"
            ) from None

    dispatch: ClassVar[dict[int, Any]] = {
        **pickle._Unpickler.dispatch,
        pickle.BYTEARRAY8[0]: _load_bytearray,
        **_with_plain_keys(pickle.SETITEM, lambda stack: stack[-2:-1]),
        **_with_plain_keys(pickle.SETITEMS, lambda stack: stack[::2]),
        **_with_plain_keys(pickle.DICT, lambda stack: stack[::2]),
        **_with_plain_keys(pickle.ADDITEMS, lambda stack: stack),
        **_with_plain_keys(pickle.FROZENSET, lambda stack: stack),
    }

    def persistent_load(self, reference: Any) -> Any:
        """torch's reference to the bytes of a tensor."""
        storage = self._allowed.get(("", "storage"))
        if storage is None:
            raise PickleError("found a reference to data outside the pickle, expected all data inside")
        return storage(reference)

    def content(self) -> Any:
        """The object; every kind of damage becomes a PickleError."""
        try:
            return _settled(self.load())
        except PickleError:
            raise
        except MemoryError as error:
            raise PickleError("found a pickle that asks for more memory than there is, expected less") from error
        except RecursionError as error:
            raise PickleError("found a pickle nested too deeply, expected plain data") from error
        except Exception as error:  # a damaged pickle can fail in any way
            reason = one_line(error, longest=120)
            raise PickleError(f"the pickle cannot be read ({reason}); expected a whole file: copy it again") from error


class Sealed:
    """A function that the pickle can call but not change (pickles may set attributes of whatever they get hold of)."""

    __slots__ = ("_function",)
    _function: Callable[..., Any]

    def __init__(self, function: Callable[..., Any]) -> None:
        object.__setattr__(self, "_function", function)

    def __call__(self, *arguments: Any) -> Any:
        """What the function returns."""
        return self._function(*arguments)

    def __setattr__(self, name: str, value: Any) -> None:
        raise PickleError("found a pickle that changes the functions it was given, expected plain data")

    def __setstate__(self, state: Any) -> None:
        raise PickleError("found a pickle that changes the functions it was given, expected plain data")


class _Dtype:
    """Stands for numpy.dtype, of which only plain types and "object" are allowed."""

    def __init__(self, code: Any, *_: Any) -> None:
        self.dtype = np.dtype(code) if isinstance(code, str) else np.dtype("V")
        if self.dtype.kind not in "buifcSUO" or self.dtype.fields or self.dtype.subdtype:
            raise PickleError(f"found an array of type {_shown(code)}, expected numbers, texts or objects")

    def __setstate__(self, state: Any) -> None:
        order = state[1]
        if order in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(order)


class _Array:
    """Stands for numpy.ndarray until its contents are known; `_settled` makes it one."""

    value: Any = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        shape = tuple(int(length) for length in shape)
        if not isinstance(dtype, _Dtype) or min(shape, default=1) < 0 or len(shape) > 32:
            raise PickleError("found an array whose shape or type cannot be understood; expected one of numpy's")
        kind = dtype.dtype
        if math.prod(shape) * kind.itemsize > MAX_BYTES:
            raise PickleError(f"found an array of shape {shape}, expected at most {MAX_BYTES >> 30} GB")
        if kind.kind == "O":
            self.value = (list(data), shape, bool(fortran))
            if len(self.value[0]) != math.prod(shape):
                raise PickleError(f"found {len(self.value[0])} objects for an array of shape {shape}")
            return
        raw = data.encode("latin1") if isinstance(data, str) else bytes(data)
        if len(raw) != math.prod(shape) * kind.itemsize:
            raise PickleError(f"found {len(raw)} bytes for an array of shape {shape} of {kind}")
        self.value = np.frombuffer(raw, kind).reshape(shape, order="F" if fortran else "C").copy()


def _shown(value: Any) -> str:
    """Something of a pickle for a message; what is no text, only by its kind: it may be endless."""
    return f"{value!r:.60}" if isinstance(value, str) else type(value).__name__


def _settled(value: Any) -> Any:
    """The data with real arrays and texts in the place of what stood for them; containers are made anew."""
    _count(value, {})
    return _settle(value, {})


def _count(value: Any, counted: dict[int, int]) -> int:
    """Items in a value and in all that is in it; raises PickleError above `MAX_ITEMS`."""
    if id(value) in counted:
        if counted[id(value)] == 0:
            raise PickleError("found a container that holds itself, expected plain data")
        return counted[id(value)]
    if isinstance(value, _Array):
        items = value.value[0] if isinstance(value.value, tuple) else ()
    elif isinstance(value, dict):
        items = value.values()
    elif isinstance(value, list | tuple | set | frozenset):
        items = value
    else:
        return 1
    counted[id(value)] = 0
    total = 1 + sum(_count(item, counted) for item in items)
    if total > MAX_ITEMS:
        raise PickleError(f"found a pickle that stands for more than {MAX_ITEMS:,} items, expected fewer")
    counted[id(value)] = total
    return total


_MADE_ANEW = (_Array, dict, OrderedDict, list, tuple, set, frozenset)


def _settle(value: Any, done: dict[int, Any]) -> Any:
    """What is referred to many times is made once: else a few bytes could stand for more items than fit anywhere."""
    if isinstance(value, _Dtype):
        return value.dtype
    if type(value) not in _MADE_ANEW:
        return value
    if id(value) not in done:
        done[id(value)] = _made_anew(value, done)
    return done[id(value)]


def _made_anew(value: Any, done: dict[int, Any]) -> Any:
    if isinstance(value, _Array):
        return _settled_array(value, done)
    if isinstance(value, dict):
        return {_settle(key, done): _settle(item, done) for key, item in value.items()}
    items = [_settle(item, done) for item in value]
    return items if isinstance(value, list) else type(value)(items)


def _settled_array(array: _Array, done: dict[int, Any]) -> np.ndarray:
    if isinstance(array.value, np.ndarray):
        return array.value
    if array.value is None:
        raise PickleError("found an array without contents, expected numbers or objects")
    items, shape, fortran = array.value
    result = np.empty(len(items), object)
    for place, item in enumerate(items):
        result[place] = _settle(item, done)
    return result.reshape(shape, order="F" if fortran else "C")


def _reconstruct(kind: Any, shape: Any, code: Any) -> _Array:
    if kind is not _Array:
        raise PickleError("found an array of an unknown kind, expected numpy.ndarray")
    return _Array()


def _scalar(dtype: Any, data: Any = b"") -> Any:
    if not isinstance(dtype, _Dtype) or dtype.dtype.kind == "O":
        raise PickleError("found a number whose type cannot be understood; expected one of numpy's")
    raw = data.encode("latin1") if isinstance(data, str) else bytes(data)
    if len(raw) != dtype.dtype.itemsize:
        raise PickleError(f"found {len(raw)} bytes for a number of type {dtype.dtype}")
    return np.frombuffer(raw, dtype.dtype)[0]


def _frombuffer(data: Any, dtype: Any, shape: Any, order: Any = "C") -> _Array:
    """How pickles of protocol 5 hold arrays."""
    array = _Array()
    array.__setstate__((1, shape, dtype, order == "F", data))
    return array


def _encode(text: Any, codec: Any = "latin1") -> bytes:
    if not isinstance(text, str) or codec not in ("latin1", "latin-1"):
        raise PickleError(f"found text to be encoded as {_shown(codec)}, expected latin1")
    return text.encode("latin1")


def _bytes(*data: Any) -> bytes:
    """Bytes of a text or of bytes; a number would ask for so much memory."""
    if not data:
        return b""
    if isinstance(data[0], str):
        return _encode(*data)
    if isinstance(data[0], bytes | bytearray):
        return bytes(data[0])
    raise PickleError("found bytes made of something else, expected a text")


def _path(*parts: Any) -> str:
    if not all(isinstance(part, str) for part in parts):
        raise PickleError("found a path that is not text")
    return "/".join(parts).replace("//", "/")


def _no_items(kind: Callable[..., Any]) -> Sealed:
    """A container made of a list of items at most."""

    def make(*items: Any) -> Any:
        if len(items) > 1 or (items and not isinstance(items[0], list | tuple)):
            raise PickleError("found a container made of something else than items")
        if items:
            _check_keys(items[0] if kind is not OrderedDict else [pair[0] for pair in items[0]])
        return kind(*items)

    return Sealed(make)


_NUMPY = ("numpy.core.multiarray", "numpy._core.multiarray", "numpy.core.numeric", "numpy._core.numeric")
_PATHS = ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath", "Path")
_BUILTINS = ("builtins", "__builtin__")

ALLOWED: Allowed = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    **{(module, "_reconstruct"): Sealed(_reconstruct) for module in _NUMPY},
    **{(module, "scalar"): Sealed(_scalar) for module in _NUMPY},
    **{(module, "_frombuffer"): Sealed(_frombuffer) for module in _NUMPY},
    ("_codecs", "encode"): Sealed(_encode),
    **{(module, name): Sealed(_bytes) for module in _BUILTINS for name in ("bytes", "bytearray")},
    **{(module, "set"): _no_items(set) for module in _BUILTINS},
    **{(module, "frozenset"): _no_items(frozenset) for module in _BUILTINS},
    ("collections", "OrderedDict"): _no_items(OrderedDict),
    **{(module, name): Sealed(_path) for module in ("pathlib", "pathlib._local") for name in _PATHS},
}
"""(module, name) in a pickle → what is called in its place. None of these can reach files or programs."""

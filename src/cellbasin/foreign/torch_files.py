"""Files of `torch.save` without torch: dictionaries of tensors are read and written, nothing in them is run.

Two layouts are read: the ZIP archive (torch 1.6 and later) and the plain sequence of pickles before it.
"""

from __future__ import annotations

import io
import math
import os
import pickle
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from cellbasin.messages import one_line
from cellbasin.pickles import MAX_BYTES, Allowed, PickleError, Sealed, load_pickle

_BF16 = "V2"  # numpy has no such type: read as two bytes each, given as float32
_TYPES = {
    "FloatStorage": "f4",
    "DoubleStorage": "f8",
    "HalfStorage": "f2",
    "LongStorage": "i8",
    "IntStorage": "i4",
    "ShortStorage": "i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "b1",
    "BFloat16Storage": _BF16,
}
_STORAGES = {code: name for name, code in _TYPES.items()}
_OLD_MAGIC = 0x1950A86A20F9469CFC6C


class TorchFileError(ValueError):
    """A file that is none of torch's, is damaged, or holds more than tensors; one line without the file's name."""


class _Storage(NamedTuple):
    """The bytes of one or several tensors; a NamedTuple, so that the pickle cannot change it."""

    key: str
    dtype: np.dtype
    numel: int


class _Tensor(NamedTuple):
    """Where a tensor's numbers are in its storage."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def array(self, numbers: np.ndarray) -> np.ndarray:
        """The tensor out of the numbers of its storage, as a copy."""
        ends = sum((length - 1) * stride for length, stride in zip(self.shape, self.strides, strict=True))
        if 0 in self.shape:
            return np.zeros(self.shape, numbers.dtype)
        if self.offset < 0 or min(self.strides, default=0) < 0 or self.offset + ends >= len(numbers):
            raise TorchFileError(f"found a tensor of shape {self.shape} that does not fit its {len(numbers)} numbers")
        if math.prod(self.shape) > len(numbers):
            raise TorchFileError(f"found a tensor of shape {self.shape} made of {len(numbers)} numbers")
        strides = [stride * numbers.itemsize for stride in self.strides]
        return np.lib.stride_tricks.as_strided(numbers[self.offset :], self.shape, strides).copy()


Check = Callable[[Mapping[str, tuple[int, ...]]], object]


def read_torch(path: Path, check: Check | None = None) -> dict[str, np.ndarray]:
    """The dictionary of tensors in a file of `torch.save`, as arrays.

    check: is given the tensors' shapes by name before their numbers are read, and may raise.
    Raises TorchFileError for files that hold anything but a dictionary of tensors, and OSError.
    """
    try:
        with path.open("rb") as file:
            start = file.read(4)
            file.seek(0)
            return _read_zip(file, check) if start == b"PK\x03\x04" else _read_old(file, check)
    except (TorchFileError, OSError):
        raise
    except PickleError as error:
        raise TorchFileError(str(error)) from error
    except Exception as error:  # a damaged archive can fail in any way
        raise TorchFileError(f"it cannot be read as a file of torch ({one_line(error)}): copy it again") from error


def _checked(content: Any, check: Check | None) -> dict[str, _Tensor]:
    """The tensors of a state dict, in their place; what else is in it is refused."""
    if not isinstance(content, dict) or not content:
        raise TorchFileError(f"it holds a {type(content).__name__}, expected a dictionary of tensors")
    for name, tensor in content.items():
        if not isinstance(name, str) or not isinstance(tensor, _Tensor):
            raise TorchFileError(f"it holds {name!r:.60}: a {type(tensor).__name__}, expected tensors only")
    stored = sum({tensor.storage.key: tensor.storage.numel for tensor in content.values()}.values())
    if sum(math.prod(tensor.shape) for tensor in content.values()) > stored:
        raise TorchFileError(f"found tensors that share numbers, expected as many as the {stored} that are stored")
    if check is not None:
        check({name: tensor.shape for name, tensor in content.items()})
    return content


def _read_zip(file: BinaryIO, check: Check | None) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(file) as archive:
        entries = {entry.filename.partition("/")[2]: entry for entry in archive.infolist()}
        if "data.pkl" not in entries:
            raise TorchFileError("found a ZIP archive without data.pkl, expected a file of torch.save")
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries.values()):
            raise TorchFileError("found compressed entries, which torch never writes: expected a file of torch.save")
        if sum(entry.file_size for entry in entries.values()) > file.seek(0, io.SEEK_END):
            raise TorchFileError("found entries that are longer than the file, expected a file of torch.save")
        if "byteorder" in entries and archive.read(entries["byteorder"]).strip() == b"big":
            raise TorchFileError(
                "found numbers in big-endian order, expected little-endian: save it on another machine"
            )
        tensors = _checked(load_pickle(archive.read(entries["data.pkl"]), _allowed()), check)
        storages = {tensor.storage for tensor in tensors.values()}
        numbers = {storage: _numbers(archive.read(entries[f"data/{storage.key}"]), storage) for storage in storages}
    return {name: tensor.array(numbers[tensor.storage]) for name, tensor in tensors.items()}


def _read_old(file: BinaryIO, check: Check | None) -> dict[str, np.ndarray]:
    try:
        magic, version = load_pickle(file), load_pickle(file)
    except PickleError:
        raise TorchFileError("it is no file of torch.save: expected a ZIP archive or a sequence of pickles") from None
    if magic != _OLD_MAGIC or version != 1001:
        raise TorchFileError("it is no file of torch.save: expected its mark at the beginning")
    load_pickle(file)  # facts about the machine
    tensors = _checked(load_pickle(file, _allowed()), check)
    storages = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
    numbers: dict[str, np.ndarray] = {}
    for key in load_pickle(file):
        storage = storages[str(key)]
        (count,) = struct.unpack("<q", file.read(8))
        left = os.fstat(file.fileno()).st_size - file.tell()
        if not 0 <= count <= left // storage.dtype.itemsize:
            raise TorchFileError(f"found {count} numbers of a tensor, expected fewer: the file is damaged")
        data = file.read(count * storage.dtype.itemsize)
        numbers[storage.key] = _numbers(data, storage._replace(numel=count))
    return {name: tensor.array(numbers[tensor.storage.key]) for name, tensor in tensors.items()}


def _numbers(data: bytes, storage: _Storage) -> np.ndarray:
    if len(data) != storage.numel * storage.dtype.itemsize:
        raise TorchFileError(f"found {len(data)} bytes of {storage.numel} numbers: the file is cut short")
    if storage.dtype.kind == "V":
        return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(data, storage.dtype)


def _allowed() -> Allowed:
    """Torch's own names, and what is built in their place."""
    return {
        **{("torch", name): code for name, code in _TYPES.items()},
        ("torch._utils", "_rebuild_tensor_v2"): Sealed(_rebuild_tensor),
        ("torch._utils", "_rebuild_tensor"): Sealed(_rebuild_tensor),
        ("torch._utils", "_rebuild_parameter"): Sealed(_rebuild_parameter),
        ("", "storage"): Sealed(_storage),
    }


def _storage(reference: Any) -> _Storage:
    _, code, key, _, count = reference[:5]
    if code not in _TYPES.values() or not isinstance(count, int) or not 0 <= count <= MAX_BYTES:
        raise PickleError("found a storage of another kind than numbers, expected one of numbers")
    return _Storage(str(key), np.dtype(code).newbyteorder("<"), count)


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> _Tensor:
    if not isinstance(storage, _Storage) or len(shape) != len(strides):
        raise PickleError("found a tensor without numbers, expected a storage")
    return _Tensor(storage, int(offset), tuple(map(int, shape)), tuple(map(int, strides)))


def _rebuild_parameter(tensor: Any, *_: Any) -> _Tensor:
    if not isinstance(tensor, _Tensor):
        raise PickleError("found a parameter that is no tensor")
    return tensor


def torch_bytes(tensors: Mapping[str, np.ndarray], name: str = "archive") -> bytes:
    """What `torch.save` would write of an ordered dictionary of tensors (float32 or int64).

    >>> sorted(zipfile.ZipFile(io.BytesIO(torch_bytes({"a": np.ones(2, np.float32)}))).namelist())
    ['archive/byteorder', 'archive/data.pkl', 'archive/data/0', 'archive/version']
    """
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:

        def put(entry: str, data: bytes) -> None:  # without the time, so that equal tensors give equal files
            archive.writestr(zipfile.ZipInfo(f"{name}/{entry}"), data)

        put("data.pkl", _pickled(tensors))
        put("byteorder", b"little")
        for key, tensor in enumerate(tensors.values()):
            put(f"data/{key}", np.ascontiguousarray(tensor, tensor.dtype.newbyteorder("<")).tobytes())
        put("version", b"3\n")
    return target.getvalue()


def _pickled(tensors: Mapping[str, np.ndarray]) -> bytes:
    """The pickle in such a file, instruction by instruction: torch itself is not needed."""
    stream = io.BytesIO()
    write = stream.write
    write(pickle.PROTO + b"\x02" + _global("collections", "OrderedDict") + pickle.EMPTY_TUPLE + pickle.REDUCE)
    write(pickle.MARK)
    for key, (name, tensor) in enumerate(tensors.items()):
        write(_word(name) + _global("torch._utils", "_rebuild_tensor_v2") + pickle.MARK)
        storage = _global("torch", _STORAGES[tensor.dtype.str[1:]])
        write(pickle.MARK + _word("storage") + storage + _word(str(key)) + _word("cpu"))
        write(_number(tensor.size) + pickle.TUPLE + pickle.BINPERSID)
        strides = tuple(math.prod(tensor.shape[axis + 1 :]) for axis in range(tensor.ndim))
        write(_number(0) + _numbers_tuple(tensor.shape) + _numbers_tuple(strides) + pickle.NEWFALSE)
        write(_global("collections", "OrderedDict") + pickle.EMPTY_TUPLE + pickle.REDUCE)  # its hooks: none
        write(pickle.TUPLE + pickle.REDUCE)
    write(pickle.SETITEMS + pickle.STOP)
    return stream.getvalue()


def _global(module: str, name: str) -> bytes:
    return pickle.GLOBAL + f"{module}\n{name}\n".encode("ascii")


def _word(text: str) -> bytes:
    data = text.encode()
    return pickle.BINUNICODE + struct.pack("<I", len(data)) + data


def _number(value: int) -> bytes:
    return pickle.BININT + struct.pack("<i", value)


def _numbers_tuple(values: tuple[int, ...]) -> bytes:
    return pickle.MARK + b"".join(map(_number, values)) + pickle.TUPLE

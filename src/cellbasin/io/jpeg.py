"""Whether a JPEG file holds as many blocks of pixels as its header says: decoders fill up or leave over in silence."""

from __future__ import annotations

from dataclasses import dataclass, field

import numba
import numpy as np

_HUFFMAN = (0xC0, 0xC1, 0xC2)  # frames: baseline, extended, progressive; others are left to the decoder
_PROGRESSIVE = 0xC2
_JUNK = 16  # bytes that may stand after the last block: some cameras leave a few
_ALONE = (0x01, 0xD8, *range(0xD0, 0xD8))  # markers without a segment
_jit = numba.njit(nogil=True, cache=True)


@dataclass
class _Header:
    """What comes before the first scan. components: number → how often it is sampled (across, down)."""

    kind: int = 0
    width: int = 0
    height: int = 0
    components: dict[int, tuple[int, int]] = field(default_factory=dict)
    interval: int = 0
    # Of tables 0..3 for DC and 4..7 for AC, by the length of a code: the largest; where symbols begin, less the least.
    codes: np.ndarray = field(default_factory=lambda: np.full((2, 8, 17), -1, np.int32))
    symbols: np.ndarray = field(default_factory=lambda: np.zeros((8, 256), np.uint8))


def jpeg_damage(data: bytes) -> str:
    """What is wrong with the first scan of a JPEG file, "" where it holds what its frame asks for.

    Every picture has such a scan of all its blocks (the whole of them, or of progressive files the means). Files of
    other kinds than baseline, extended and progressive Huffman are not looked at. Raises IndexError, KeyError or
    ValueError for headers that make no sense.
    """
    header, place = _Header(), 2
    while True:
        place = data.index(b"\xff", place)
        while data[place] == 0xFF:
            place += 1
        marker = data[place]
        place += 1
        if marker in _ALONE:
            continue
        length = int.from_bytes(data[place : place + 2], "big")
        segment = data[place + 2 : place + length]
        place += length
        if marker == 0xDA:
            return _scan(header, segment, data, place)
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            if marker not in _HUFFMAN:
                return ""
            _frame(header, marker, segment)
        elif marker == 0xC4:
            _tables(header, segment)
        elif marker == 0xDD:
            header.interval = int.from_bytes(segment[:2], "big")


def _frame(header: _Header, kind: int, segment: bytes) -> None:
    header.kind = kind
    header.height, header.width = (int.from_bytes(segment[k : k + 2], "big") for k in (1, 3))
    for k in range(segment[5]):
        number, sampling = segment[6 + 3 * k], segment[7 + 3 * k]
        header.components[number] = (sampling >> 4, sampling & 15)


def _tables(header: _Header, segment: bytes) -> None:
    """Canonical Huffman tables: codes of one length follow each other."""
    while segment:
        table = 4 * (segment[0] >> 4) + (segment[0] & 15)
        counts, code, first = segment[1:17], 0, 0
        for length, count in enumerate(counts, 1):
            header.codes[:, table, length] = code + count - 1 if count else -1, first - code
            code, first = (code + count) << 1, first + count
        header.symbols[table, :first] = np.frombuffer(segment[17 : 17 + first], np.uint8)
        segment = segment[17 + first :]


def _scan(header: _Header, segment: bytes, data: bytes, start: int) -> str:
    chosen = [(segment[1 + 2 * k], segment[2 + 2 * k]) for k in range(segment[0])]
    if (
        not header.height
        or (header.codes[0] < 0).all()
        or (header.kind == _PROGRESSIVE and segment[1 + 2 * len(chosen)] != 0)
    ):
        return ""  # the height comes later, tables are left out, or not the means first: rare, and left to the decoder
    across, down = (max(sampling[axis] for sampling in header.components.values()) for axis in (0, 1))
    if len(chosen) > 1:
        columns, rows = -(-header.width // (8 * across)), -(-header.height // (8 * down))
        repeats = [header.components[number][0] * header.components[number][1] for number, _ in chosen]
    else:
        h, v = header.components[chosen[0][0]]
        columns, rows = -(-header.width * h // (8 * across)), -(-header.height * v // (8 * down))
        repeats = [1]
    used = np.repeat([(tables >> 4, 4 + (tables & 15)) for _, tables in chosen], repeats, axis=0)
    if used.max() > 7:
        raise IndexError(f"no Huffman table has the number {used.max()}")
    stream = np.frombuffer(data + b"\xff\xd9", np.uint8)
    tables = used, header.codes, header.symbols
    done, place = _blocks(stream, start, columns * rows, header.interval, *tables, header.kind != _PROGRESSIVE)
    if done < 0:
        return "its compressed data make no sense"
    if done < columns * rows:
        return f"its data end after {done} of {columns * rows} blocks"
    left = _left(stream, place)
    return f"{left} bytes are left over" if left > max(_JUNK, (place - start) // (2 * rows)) else ""


@_jit
def _blocks(data, place, count, interval, used, codes, symbols, details):  # type: ignore[no-untyped-def]
    """How many groups of blocks there are, up to `count` (-1: a code that no table has), and where the last one ends.

    used (N, 2): the tables for DC and AC of each block of a group; details: whether AC follows DC.
    """
    buffer, bits = 0, 0  # what is read ahead: the lowest `bits` of the buffer, at least 32 unless a marker comes
    for done in range(count):
        if interval and done and done % interval == 0:
            if data[place] != 0xFF or not 0xD0 <= data[place + 1] <= 0xD7:
                return done, place
            place, bits = place + 2, 0
        for block in range(len(used)):
            k = 0
            while k < 64:
                buffer, bits, place = _read_ahead(data, place, buffer, bits)
                symbol, length = _decoded(buffer, bits, codes, symbols, used[block, min(k, 1)])
                if symbol < 0 and bits >= 16:
                    return -1, place
                bits -= length + (symbol & 15)
                if bits < 0:
                    return done, place
                k = _next(k, symbol) if details else 64
            if k > 64 and symbol & 15:
                return -1, place
    return count, place - bits // 8


@_jit
def _read_ahead(data, place, buffer, bits):  # type: ignore[no-untyped-def]
    while bits < 32 and (data[place] != 0xFF or data[place + 1] == 0):
        buffer, bits = ((buffer & 0xFFFFFFFF) << 8) | np.int64(data[place]), bits + 8
        place += 2 if data[place] == 0xFF else 1
    return buffer, bits, place


@_jit
def _decoded(buffer, bits, codes, symbols, table):  # type: ignore[no-untyped-def]
    """The symbol that comes next and the bits of its code; -1 and 17 where no symbol has that code."""
    ahead = (buffer >> (bits - 16)) & 0xFFFF if bits >= 16 else (buffer << (16 - bits)) & 0xFFFF
    for length in range(1, 17):
        code = ahead >> (16 - length)
        if code <= codes[0, table, length]:
            return np.int64(symbols[table, code + codes[1, table, length]]), length
    return -1, 17


@_jit
def _next(k, symbol):  # type: ignore[no-untyped-def]
    """Number of the coefficient after the one that a symbol tells, 64 after the last."""
    if k == 0:
        return 1
    if symbol & 15 == 0 and symbol != 0xF0:
        return 64
    return k + (symbol >> 4) + 1


@_jit
def _left(data, place):  # type: ignore[no-untyped-def]
    """Bytes before the next marker that is none of those within a scan."""
    start = place
    while data[place] != 0xFF or data[place + 1] == 0 or 0xD0 <= data[place + 1] <= 0xD7:
        place += 1
    return place - start

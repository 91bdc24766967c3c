"""One thread pool for the whole package, over objects or blocks of arrays."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")
Tell = Callable[[float], None]  # is told the part 0..1 of some work that is done, and may raise to end it

_lock = threading.Lock()
_pool: ThreadPoolExecutor | None = None
_inside = threading.local()


def ignore_progress(part: float) -> None:
    """The `Tell` of work that nobody watches."""


def subrange(tell: Tell, first: float, last: float) -> Tell:
    """The `Tell` of a step that takes the work from its part `first` to `last`.

    >>> told: list[float] = []
    >>> subrange(told.append, 0.5, 1.0)(0.5)
    >>> told
    [0.75]
    """
    return lambda part: tell(first + part * (last - first))


def thread_count() -> int:
    """Number of threads that array kernels use: `CELLBASIN_THREADS`, else the processors this process may run on.

    Raises ValueError where the environment variable is no whole number from 1.
    """
    wanted = os.environ.get("CELLBASIN_THREADS")
    if wanted:
        if not wanted.isdecimal() or int(wanted) < 1:
            raise ValueError(f"CELLBASIN_THREADS is {wanted!r}, expected a whole number from 1: change or unset it")
        return int(wanted)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def parallel_map(function: Callable[[T], R], items: Iterable[T], tell: Tell = ignore_progress) -> list[R]:
    """Apply a function to every item on the package's threads and return the results in the order of the items.

    tell: called here with the part 0..1 that is done; where it raises, what has not begun is not done.

    Useful only for functions that release the interpreter lock (numba `nogil` kernels, numpy on large arrays).
    Called from inside one of its own threads it runs serially, so nested calls cannot deadlock.

    >>> parallel_map(lambda x: x * x, [1, 2, 3])
    [1, 4, 9]
    """
    work = list(items)
    if len(work) < 2 or thread_count() == 1 or getattr(_inside, "worker", False):
        return _told(map(function, work), len(work), tell)
    # Closed here, not with the traceback of what `tell` raised: until then the rest would be done all the same.
    with closing(_shared_pool().map(function, work)) as results:  # type: ignore[type-var]
        return _told(results, len(work), tell)


def _told(results: Iterable[R], count: int, tell: Tell) -> list[R]:
    found = []
    for result in results:
        found.append(result)
        tell(len(found) / count)
    return found


def _shared_pool() -> ThreadPoolExecutor:
    global _pool
    with _lock:
        if _pool is None:
            _pool = ThreadPoolExecutor(thread_count(), "cellbasin", initializer=_mark_worker)
        return _pool


def _mark_worker() -> None:
    _inside.worker = True


def _forget_pool() -> None:
    """A forked child has none of its parent's threads."""
    global _pool, _lock
    _pool, _lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)

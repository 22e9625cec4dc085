"""Tools that keep state, for one caller at a time, in any process."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Turns(Generic[T]):
    """Hands out a tool to one thread after the other.

    It can be pickled. Where it is unpickled, and in a forked child, the tool is made anew: a thread
    of the parent may have been using the old one, and holding its lock, when the child was made.
    """

    def __init__(self, make: Callable[..., T], *arguments: Any) -> None:
        """Make the tool.

        Args:
            make: a function that gives one; it and its arguments can be pickled.
            arguments: what it is called with.
        """
        self._recipe = (make, arguments)
        self._lock = threading.Lock()
        self._tool: T | None = make(*arguments)
        _ALL.add(self)

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._tool = None

    @contextmanager
    def taken(self) -> Iterator[T]:
        """The tool, for as long as the context lasts."""
        with self._lock:
            if self._tool is None:
                make, arguments = self._recipe
                self._tool = make(*arguments)
            yield self._tool

    def __getstate__(self) -> tuple[Callable[..., T], tuple[Any, ...]]:
        return self._recipe

    def __setstate__(self, recipe: tuple[Callable[..., T], tuple[Any, ...]]) -> None:
        self._recipe = recipe
        self._forget()
        _ALL.add(self)


_ALL: weakref.WeakSet[Turns[Any]] = weakref.WeakSet()


def _forget_all() -> None:
    for turns in list(_ALL):
        turns._forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)

"""A cache bounded in entries and bytes, least recently used first out."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any


class BoundedCache:
    """The last few values by key; safe to use from several threads.

    Args:
        size: most entries. n_bytes: largest total size of the arrays among them. leave: called with an evicted value.
    """

    def __init__(
        self, size: int, n_bytes: int = 256 * 2**20, leave: Callable[[Any], None] = lambda value: None
    ) -> None:
        self._size, self._n_bytes, self._leave = size, n_bytes, leave
        self._items: OrderedDict[Hashable, Any] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> Any | None:
        with self._lock:
            if key in self._items:
                self._items.move_to_end(key)
            return self._items.get(key)

    def put(self, key: Hashable, value: Any) -> None:
        with self._lock:
            self._items[key] = value
            self._items.move_to_end(key)
            while len(self._items) > self._size or (len(self._items) > 1 and self._weight() > self._n_bytes):
                self._leave(self._items.popitem(last=False)[1])

    def _weight(self) -> int:
        return sum(getattr(value, "nbytes", 0) for value in self._items.values())

    def clear(self) -> None:
        with self._lock:
            for value in self._items.values():
                self._leave(value)
            self._items.clear()

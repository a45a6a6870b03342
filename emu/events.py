"""What happened, for whoever listens: QMP clients, the command line. Names and data are QMP's."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import TypeAlias

from migration.vmstate import Wire

Listener: TypeAlias = Callable[[str, Mapping[str, Wire]], None]


class Events:
    """Hands events to listeners, on the thread where they happen; thread-safe."""

    def __init__(self) -> None:
        self._listeners: list[Listener] = []
        self._lock = threading.Lock()

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call `listener(name, data)` for every event; returns what ends that."""
        with self._lock:
            self._listeners.append(listener)

        def unsubscribe() -> None:
            with self._lock:
                self._listeners.remove(listener)

        return unsubscribe

    def emit(self, name: str, data: Mapping[str, Wire] | None = None) -> None:
        """Tell everybody."""
        with self._lock:
            listeners = list(self._listeners)
        for listener in listeners:
            listener(name, data or {})

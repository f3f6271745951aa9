"""Signals that wait: SIGINT and SIGTERM while a run is on file are answered between two steps, after a checkpoint."""

import signal
import threading
from types import FrameType, TracebackType


class Deferred:
    """While it lasts, the first SIGINT or SIGTERM is only noted; a second one has its ordinary effect.

    caught : number of the signal, or None

    In another thread than the main one signals are left as they are.
    """

    def __init__(self) -> None:
        self.caught: int | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> "Deferred":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.caught = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)  # pyright: ignore
        self._before = {}

    def __exit__(self, kind: type | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._restore()


def deliver(number: int) -> None:
    """The ordinary effect of a signal that waited; KeyboardInterrupt if its handler returns."""
    signal.raise_signal(number)
    raise KeyboardInterrupt

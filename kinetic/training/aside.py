"""Calls that may never return, made aside."""

import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")


class Aside:
    """Makes calls in a daemon thread, one after another, and waits for each no longer than it is told to."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[tuple[Callable[[], Any], SimpleQueue[Any]]] = SimpleQueue()
        threading.Thread(target=self._serve, daemon=True, name="weights-and-biases").start()

    def __call__(self, call: Callable[[], T], seconds: float) -> T:
        """What `call` returns or raises; TimeoutError when it takes longer than `seconds`."""
        answers: SimpleQueue[Any] = SimpleQueue()
        self._calls.put((call, answers))
        try:
            value, error = answers.get(timeout=seconds)
        except Empty:
            raise TimeoutError(f"no answer in {seconds:.0f} s") from None
        if error is not None:
            raise error if isinstance(error, Exception) else RuntimeError(f"{type(error).__name__} {error}")
        return value

    def _serve(self) -> None:
        while True:
            call, answers = self._calls.get()
            try:
                answers.put((call(), None))
            except BaseException as error:
                answers.put((None, error))

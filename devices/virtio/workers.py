"""Requests of one device on worker threads: handed over and taken back on the vCPU thread, many with one post.

start -> waiting -> worker: carry_out -> done -> post -> give_back(all that are done by then)
                                              '-> settle, when the vCPU thread still waits there
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

RequestT = TypeVar("RequestT")


class Executor(Protocol):
    """Where workers run: concurrent.futures.ThreadPoolExecutor, or a fake."""

    def submit(self, fn: Callable[[], None], /) -> object:
        """Call `fn` once, on any thread."""


class Workers(Generic[RequestT]):
    """Up to `limit` workers. `carry_out` runs on them; all else, `give_back` among it, on the vCPU thread."""

    def __init__(
        self,
        limit: int,
        executor: Executor,
        post: Callable[[Callable[[], None]], None],
        *,
        carry_out: Callable[[RequestT], None],
        give_back: Callable[[list[RequestT]], None],
    ) -> None:
        """`post` runs a function on the vCPU thread, soon."""
        self._limit = limit
        self._executor = executor
        self._post = post
        self._carry_out = carry_out
        self._give_back = give_back
        self._changed = threading.Condition()  # guards the five below
        self._waiting: deque[RequestT] = deque()
        self._done: list[RequestT] = []
        self._unfinished = 0  # requests waiting or with a worker
        self._workers = 0
        self._posted = False

    def start(self, request: RequestT) -> None:
        """Have a worker carry the request out; `settle` follows."""
        with self._changed:
            self._posted = True  # so to say: a worker that is done before `settle` ends need not stop the guest
            self._waiting.append(request)
            self._unfinished += 1
            start = self._workers < min(self._limit, self._unfinished)
            self._workers += start
        if start:
            self._executor.submit(self._work)

    def carry_out_here(self, request: RequestT) -> bool:
        """Carry the request out on this thread, if none comes before it: whether it was. `settle` follows."""
        with self._changed:
            if self._unfinished:
                return False
        self._carry_out(request)
        with self._changed:
            self._done.append(request)
        return True

    def settle(self, patience: float) -> list[RequestT]:
        """Wait up to `patience` seconds for what is under way; takes what is done by then, which is not given back."""
        with self._changed:
            self._changed.wait_for(lambda: self._unfinished == 0, patience)
            return self._take()

    def quiet(self, within: float) -> bool:
        """Wait up to `within` seconds for what is under way: whether all of it is done."""
        with self._changed:
            return self._changed.wait_for(lambda: self._unfinished == 0, within)

    def drain(self) -> None:
        """Return when every request was given back."""
        self._wait()
        self._complete()

    def drop(self) -> None:
        """Return when nothing is under way; what is done is not given back."""
        self._wait()
        self._done.clear()

    def _wait(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._unfinished == 0)

    def _complete(self) -> None:
        with self._changed:
            done = self._take()
        self._give_back(done)

    def _take(self) -> list[RequestT]:
        done, self._done = self._done, []
        self._posted = False
        return done

    def _work(self) -> None:
        """Carry out requests until none waits."""
        while True:
            with self._changed:
                if not self._waiting:
                    self._workers -= 1
                    return
                request = self._waiting.popleft()
            try:
                self._carry_out(request)
            except Exception as exc:  # our bug: it must stop the machine, not this thread alone
                self._post(_raiser(exc))
            with self._changed:
                self._done.append(request)
                self._unfinished -= 1
                post, self._posted = not self._posted, True
                self._changed.notify_all()
            if post:
                self._post(self._complete)


def _raiser(exc: Exception) -> Callable[[], None]:
    def bug() -> None:
        raise exc

    return bug

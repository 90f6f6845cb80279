"""Work on several threads that tells how far it is, and stops together."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

from ..clock import POLL

LAST_WAIT = 1.0  # seconds for threads that are told to stop: looking up a name or connecting, they do not hear it

Item = TypeVar("Item")
Result = TypeVar("Result")


class Stoppable(Protocol):
    """What the threads wait for."""

    def stop(self) -> None:
        """End every wait and every transfer with an exception."""


def in_parallel(
    connection: Stoppable,
    work: Callable[[Item], Result],
    items: Iterable[Item],
    tick: Callable[[], None],
    workers: int,
) -> Iterator[tuple[Item, Result]]:
    """Yield each item with its result as they come, calling `tick` several times a second.

    Whatever is raised, by `work`, by `tick` (Cancel) or by whoever iterates, stops all threads before it goes on. One
    that does not hear it within a second is left behind, to end by itself.
    """
    pool = concurrent.futures.ThreadPoolExecutor(workers, thread_name_prefix="impasto-fetch")
    running: dict[concurrent.futures.Future[Result], Item] = {}
    try:
        running.update((pool.submit(work, item), item) for item in items)
        while running:
            done, _ = concurrent.futures.wait(running, POLL, concurrent.futures.FIRST_COMPLETED)
            for future in done:  # before `tick`, so that Cancel loses nothing that has come
                yield running.pop(future), future.result()
            tick()
    except BaseException:
        connection.stop()
        pool.shutdown(wait=False, cancel_futures=True)
        concurrent.futures.wait(running, LAST_WAIT)
        raise
    pool.shutdown()

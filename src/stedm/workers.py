"""Work spread over processes: results in the order of the tasks, whatever the number of workers."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from stedm.errors import UserError

Task = TypeVar("Task")
Result = TypeVar("Result")

LOOK_AHEAD = 2
"""Finished results that may wait for their turn, beside one a worker: they bound the memory."""


def ordered(
    function: Callable[[Task], Result],
    tasks: Iterable[Task],
    workers: int,
    *,
    start: Callable[..., None] | None = None,
    arguments: tuple[Any, ...] = (),
) -> Iterator[Result]:
    """Yield ``function(task)`` for each task, in order.

    Parameters
    ----------
    function
        Of a module's top level, so that it travels to other processes.
    tasks
        What to do; drawn from no faster than results are taken.
    workers
        Processes; 0 works in this one.
    start, arguments
        Called once in each process before its first task.

    Raises
    ------
    UserError
        If a process was killed.
    """
    if workers == 0:
        if start is not None:
            start(*arguments)
        yield from map(function, tasks)
        return
    # Forked processes would share the threads and handles of torch, libvips and OpenSlide.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=_start, initargs=(start, arguments))
    waiting: deque = deque()
    try:
        for task in tasks:
            waiting.append(pool.submit(function, task))
            if len(waiting) >= workers + LOOK_AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool:
        raise UserError(
            "a worker process was killed, most likely for memory; use fewer workers (execution in the configuration)."
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _start(start: Callable[..., None] | None, arguments: tuple[Any, ...]) -> None:
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    if start is not None:
        start(*arguments)


def _leave_with_parent() -> None:
    # Workers of a killed process wait for work for ever, and would write while others hold the lock.
    multiprocessing.parent_process().join()
    os._exit(1)

"""Progress of long work: a bar on a terminal, plain lines in a log, both with rate and time left."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

log = logging.getLogger("stedm")

Item = TypeVar("Item")

LINE_SECONDS = 15.0
"""Seconds between two plain lines."""

_bars = False


def use_bars(wanted: bool) -> None:
    """Draw bars where stderr is a terminal; jobs that share a terminal should not."""
    global _bars
    _bars = wanted and sys.stderr.isatty()


def duration(seconds: float) -> str:
    """Write a duration as ``M:SS`` or ``H:MM:SS``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class Progress:
    """Counts the units of a piece of work; made by :func:`progress`."""

    def __init__(self, label: str, total: int, unit: str, done: int = 0) -> None:
        self.label, self.total, self.unit = label, total, unit
        self.done = self._first = done
        self._began = self._line = time.monotonic()
        self._bar = self._task = None

    def advance(self, units: int = 1, note: str = "") -> None:
        """Say that units are done; `note` stands behind the figures."""
        self.done += units
        now = time.monotonic()
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, note=note)
        elif now - self._line >= LINE_SECONDS and self.done < self.total:
            self._line = now
            rate = (self.done - self._first) / (now - self._began)
            left = duration((self.total - self.done) / rate) if rate > 0 else "?"
            log.info(
                "%s: %d of %d %s, %.1f a second, %s left%s",
                *(self.label, self.done, self.total, self.unit, rate, left, f", {note}" if note else ""),
            )


@contextmanager
def progress(label: str, total: int, unit: str = "steps", done: int = 0) -> Iterator[Progress]:
    """Show the progress of `total` units of work, `done` of which an earlier process did."""
    counter = Progress(label, total, unit, done)
    if not _bars:
        yield counter
    else:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(unit),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Bars(*columns, console=Console(stderr=True)) as bars:
            counter._bar = bars
            counter._task = bars.add_task(label, total=total, completed=done, note="")
            yield counter
    spent = time.monotonic() - counter._began
    log.info("%s: %d %s in %s", label, counter.done - counter._first, unit, duration(spent))


def tracked(items: Iterable[Item], label: str, total: int, unit: str) -> Iterator[Item]:
    """Pass items on and show how many have been consumed."""
    with progress(label, total, unit) as counter:
        for item in items:
            yield item
            counter.advance()

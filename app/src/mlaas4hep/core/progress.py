"""How long-running work reports progress: a bar for a person, a file for the server."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress

from mlaas4hep.core.files import write_json


class Progress(Protocol):
    """Called by long work, often: an implementation limits its own rate."""

    def __call__(self, phase: str, done: int, total: int, **figures: float) -> None:
        """``done`` of ``total`` events of ``phase``; of "drawing", pictures.

        Phases are "selection", "specs", "reading", "drawing", "training", "testing", "publishing".
        ``figures`` are numbers worth showing beside the bar, such as epoch, loss, val_loss.
        """


def silent(phase: str, done: int, total: int, **figures: float) -> None:
    """A Progress that shows nothing."""


def _figures(figures: dict[str, float]) -> str:
    return "  ".join(
        f"{name} {value:g}" if float(value).is_integer() else f"{name} {value:.4f}"
        for name, value in figures.items()
    )


class Bars:
    """A bar per phase on stderr; where stderr is no terminal, a line per phase and ten per cent."""

    def __init__(self) -> None:
        self._console = Console(file=sys.stderr)
        self._bars = RichProgress(
            TextColumn("[bold]{task.description:<11}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._phase, self._done, self._total, self._figures = "", 0, 0, ""
        self._tenth = 0
        """The last of the phase that has a line."""

    def __enter__(self) -> Bars:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._done >= self._total:
            self._end()
        self._bars.stop()

    def __call__(self, phase: str, done: int, total: int, **figures: float) -> None:
        """Show that ``done`` of ``total`` are done (a core.progress.Progress).

        Phases follow one another: when one begins, those before it are complete. One may come
        again, as those of each fold do.
        """
        if phase != self._phase or done < self._done:
            self._end()
            self._tenth = 0
        self._phase, self._done, self._total = phase, done, total
        self._figures = _figures(figures)
        if self._console.is_terminal:
            self._draw(done)
            return
        tenth = 10 if total <= 0 else min(10, 10 * done // total)
        if tenth > self._tenth and (tenth < 10 or not figures):
            self._tenth = tenth
            self._print(done)

    def _end(self) -> None:
        """Show that the phase is complete; its last figures may come after its last event."""
        if not self._phase or self._tenth == 10:
            return
        if self._done < self._total:
            self._figures = ""  # those of the end weren't told
        if self._console.is_terminal:
            self._draw(self._total)
        else:
            self._tenth = 10
            self._print(self._total)

    def _draw(self, done: int) -> None:
        phase, total = self._phase, self._total
        if phase not in self._tasks:
            self._tasks[phase] = self._bars.add_task(phase, total=total, figures="")
        self._bars.update(self._tasks[phase], completed=done, total=total, figures=self._figures)

    def _print(self, done: int) -> None:
        line = f"{self._phase:<11} {10 * self._tenth:3d} %  {done}/{self._total}  {self._figures}"
        self._console.print(line.rstrip(), highlight=False, soft_wrap=True)


class ProgressFile:
    """Progress in a JSON file, at most four times a second; the runner reads it."""

    INTERVAL = 0.25

    def __init__(self, path: Path) -> None:
        self._path = path
        self._written = 0.0
        self._phase = ""

    def __call__(self, phase: str, done: int, total: int, **figures: float) -> None:
        """Note that ``done`` of ``total`` are done (a core.progress.Progress)."""
        now = time.monotonic()
        if phase == self._phase and done < total and now - self._written < self.INTERVAL:
            return
        self._phase, self._written = phase, now
        finite = {k: v for k, v in figures.items() if abs(v) != float("inf") and v == v}
        state: dict[str, Any] = {"phase": phase, "done": done, "total": total} | finite
        write_json(self._path, state)

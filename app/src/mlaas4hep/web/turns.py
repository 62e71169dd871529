"""Fair turns for users' long work, so that nobody blocks the others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar
from weakref import WeakValueDictionary

from starlette.concurrency import run_in_threadpool

P = ParamSpec("P")
T = TypeVar("T")


class Turns:
    """Long work of users, in threads: a few at a time, first come, first served.

    Of one owner one fewer runs, so that the others need not wait until all of theirs is done. What
    waits for its turn holds no thread.
    """

    def __init__(self, at_once: int = 2) -> None:
        self._at_once = at_once
        self._all = asyncio.Semaphore(at_once)
        self._owners: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    async def run(self, owner: str, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What ``work`` returns; the owner "" is everybody."""
        mine = self._at_once - 1 if owner else self._at_once
        turn = self._owners.setdefault(owner, asyncio.Semaphore(max(1, mine)))
        async with turn, self._all:
            return await run_in_threadpool(work, *args, **kwargs)

"""The API of TFaaS without any protocol: models, predictions, publishing, by owner.

For a caller, another user's model does not exist.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from weakref import WeakValueDictionary

from mlaas4hep.core.errors import MlaasError, NotFoundError
from mlaas4hep.core.settings import Settings
from mlaas4hep.inference.engine import Answers, Model
from mlaas4hep.inference.events import EventAnswers, example, predict_events
from mlaas4hep.inference.registry import Registry
from mlaas4hep.models.bundle import Bundle
from mlaas4hep.models.owners import Owners, base_of
from mlaas4hep.models.repository import Repository

_log = logging.getLogger(__name__)

EVENTS_AT_ONCE = 16
"""Requests with events of one owner that are answered at once; the others wait."""
PUBLISHED_AT_ONCE = 4
MOST_KNOWN = 1000
"""Bundles that lists don't read again."""
MOST_SHOWN = 200
"""Branches of a model whose example is shown."""


@dataclass(frozen=True)
class Listed:
    """A bundle as lists show it: what needs little memory, however many columns it has.

    ``flat`` and ``jagged`` are numbers of branches; ``example`` is an event, or nothing when it
    would have more than ``MOST_SHOWN`` branches.
    """

    bundle: Bundle
    flat: int
    jagged: int
    example: dict[str, Any] | None

    @classmethod
    def of(cls, bundle: Bundle) -> Listed:
        """Of a bundle that was opened."""
        specs = bundle.specs
        few = sum(map(len, specs.inputs)) <= MOST_SHOWN
        event = example(specs) if few else None
        # Another object, as this one keeps specs and columns once they were read.
        return cls(Bundle(bundle.path, bundle.manifest), len(specs.flat), len(specs.jagged), event)


class Service:
    """The models of a repository, for their owners; the owner "" is everybody.

    Coroutines belong to one event loop's thread, all else to any. NotFoundError names the nearest
    of the owner's models.
    """

    def __init__(self, settings: Settings) -> None:
        self.repository = Repository(settings.models)
        self.registry = Registry(self.repository, settings)
        self._owners = Owners(self.repository)
        self._publishing = asyncio.Semaphore(PUBLISHED_AT_ONCE)
        self._packing = asyncio.Lock()
        self._encoding = ThreadPoolExecutor(thread_name_prefix="encode")
        self._turns: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        self._known: dict[str, Listed] = {}

    async def start(self) -> None:
        """Remove what killed processes left, and start the workers."""
        await asyncio.to_thread(self.repository.sweep)
        self.registry.pool.start()

    def close(self) -> None:
        """End the workers."""
        self.registry.close()
        self._encoding.shutdown(wait=False, cancel_futures=True)

    async def model(self, name: str, owner: str) -> Model:
        """The newest version of a model, in memory.

        NotFoundError when it is not the owner's; ConflictError when it can't be served.
        """
        self._owners.check(name, owner)
        try:
            return self.registry.loaded(name) or await self.registry.get(name)
        except NotFoundError:
            raise self._owners.missing(name, owner) from None

    async def predict(
        self, name: str, owner: str, values: Sequence[Any], keys: Sequence[str] = ()
    ) -> tuple[Answers, Sequence[str]]:
        """The answer to one normalised row, of shape (1, outputs), and the labels of its numbers.

        ``values`` and ``keys`` are those of ``Model.row``. Raises like it, like ``model``, and
        BusyError when too many wait already.
        """
        model = await self.model(name, owner)
        answers = await model.predict(model.row(values, keys))
        return answers, model.labels[-answers.shape[1] :]

    def turn(self, owner: str) -> asyncio.Semaphore:
        """What is held while a request with events is parsed and answered."""
        turn = self._turns.get(owner)
        if turn is None:
            turn = self._turns[owner] = asyncio.Semaphore(EVENTS_AT_ONCE)
        return turn

    async def predict_events(self, name: str, owner: str, events: Any) -> EventAnswers:
        """The answers to events as they are in the tree (see EventTable).

        Raises like ``model``, UsageError, EventError where lists of one collection differ in
        length, and LimitError for too many events.
        """
        return await predict_events(await self.model(name, owner), events, self._encoding)

    def bundles(self, owner: str) -> list[Listed]:
        """The whole bundles of the owner, sorted by name; each version is read once."""
        found = []
        for name in self._owners.names(owner):
            try:
                version = self.repository.version(name)
                listed = self._known.pop(version, None) or Listed.of(self.repository.get(name))
            except (MlaasError, OSError) as error:
                _log.warning("left out the model %s: %s", name, error)
                continue
            self._known[version] = listed  # the last one used is the last
            found.append(listed)
        while len(self._known) > MOST_KNOWN:
            self._known.pop(next(iter(self._known)), None)
        return found

    @contextmanager
    def reading(self, name: str, owner: str) -> Iterator[Bundle]:
        """The bundle of a model; its files stay meanwhile. NotFoundError if it isn't theirs."""
        self._owners.check(name, owner)
        with ExitStack() as stack:
            try:
                bundle = stack.enter_context(self.repository.reading(name))
            except NotFoundError:
                raise self._owners.missing(name, owner) from None
            yield bundle

    async def archive(self, bundle: Bundle) -> Path:
        """NAME.tar.gz of a bundle that ``reading`` gave, packed once for each version.

        One is packed at a time, and whoever waits for that holds no thread.
        """
        if packed := self.repository.packed(bundle):
            return packed
        async with self._packing:
            return await asyncio.to_thread(self.repository.archive, bundle)

    async def publish(self, archive: IO[bytes], max_bytes: int, owner: str) -> Bundle:
        """Publish a bundle's archive; every later prediction is the new model's.

        TakenError for another user's name; otherwise it raises like ``Registry.publish``.
        """
        async with self._publishing:
            return await self.registry.publish(
                archive, max_bytes, lambda name: self._owners.claim(base_of(name), owner)
            )

    async def delete(self, name: str, owner: str) -> None:
        """Remove a model; NotFoundError when it is not the owner's."""
        self._owners.check(name, owner)
        try:
            await self.registry.delete(name)
        except NotFoundError:
            raise self._owners.missing(name, owner) from None

"""The models in memory: loaded at the first use, replaced when the repository's are."""

from __future__ import annotations

import asyncio
import logging
import os
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

from mlaas4hep.core.errors import BundleError, ConflictError, MlaasError, NotFoundError
from mlaas4hep.core.settings import Settings
from mlaas4hep.inference.engine import Counts, Model
from mlaas4hep.models.bundle import Bundle, unpack
from mlaas4hep.models.repository import Repository

_log = logging.getLogger(__name__)


class Registry:
    """Gives the model of a name as it is in the repository at that moment.

    Each look-up compares the version in memory with the repository's, which costs less than a
    microsecond: a model published by any process answers the very next request, and nothing polls.
    Methods belong to one event loop's thread.
    """

    def __init__(self, repository: Repository, settings: Settings) -> None:
        self.repository = repository
        self._settings = settings
        self._models: OrderedDict[str, Model] = OrderedDict()
        self._loads: dict[str, asyncio.Task[Model]] = {}
        self._broken: dict[str, MlaasError] = {}
        self.counts = Counts()
        self._runs = ThreadPoolExecutor(max(2, os.cpu_count() or 1), "predict")
        self._loader = ThreadPoolExecutor(1, "load")

    def models(self) -> list[Model]:
        """The models in memory."""
        return list(self._models.values())

    def loaded(self, name: str) -> Model | None:
        """The model if its newest version is in memory, else None.

        NotFoundError, naming the nearest, when there is no such model.
        """
        try:
            version = self.repository.version(name)
        except NotFoundError:
            self._models.pop(name, None)
            raise
        model = self._models.get(name)
        if model is None or model.version != version:
            return None
        self._models.move_to_end(name)
        return model

    async def get(self, name: str) -> Model:
        """The model, loaded once however many ask for it at the same time.

        NotFoundError when there is none; ConflictError when it can't be served, saying why.
        """
        while (model := self.loaded(name)) is None:
            version = self.repository.version(name)
            try:
                model = await self._load(name, version)
            except MlaasError as error:
                if self.repository.version(name) == version:
                    message = f"can't serve {name}: {error.message}"
                    raise ConflictError(message, error.remedy) from error
            else:
                if self.repository.version(name) == version:
                    break
        return model

    async def publish(
        self, archive: IO[bytes], max_bytes: int, claim: Callable[[str], object] = lambda _: None
    ) -> Bundle:
        """Unpack a bundle's archive from a stranger, see that it can be served, and publish it.

        ``claim`` is called with its name before it appears under it, and raises if it may not.
        When this returns, every later look-up finds the new model. A failure leaves everything
        as it was: BundleError, or LimitError beyond ``max_bytes``.
        """
        bundle, model = await asyncio.to_thread(self._install, archive, max_bytes, claim)
        if model is not None:
            self._keep(bundle.name, model)
        return bundle

    async def delete(self, name: str) -> None:
        """Remove the model from the repository and from memory; NotFoundError if there is none."""
        await asyncio.to_thread(self.repository.delete, name)
        self._models.pop(name, None)

    def close(self) -> None:
        """End the threads; what they run ends first."""
        self._loader.shutdown()
        self._runs.shutdown()

    async def _load(self, name: str, version: str) -> Model:
        if broken := self._broken.get(version):
            raise BundleError(broken.message, broken.remedy)
        task = self._loads.get(version)
        if task is None:
            task = asyncio.create_task(self._load_once(name, version))
            self._loads[version] = task
        return await asyncio.shield(task)

    async def _load_once(self, name: str, version: str) -> Model:
        try:
            loop = asyncio.get_running_loop()
            path = self.repository.root / version
            model = await loop.run_in_executor(self._loader, self._read, path, version)
        except (MlaasError, OSError) as error:
            _log.warning("can't serve %s: %s", version, error)
            if not isinstance(error, MlaasError):
                error = BundleError(f"its bundle can't be read: {error}")
            self._broken[version] = error
            asyncio.get_running_loop().call_later(60, self._broken.pop, version, None)
            raise error from None
        finally:
            del self._loads[version]
        self._keep(name, model)
        return model

    def _install(
        self, archive: IO[bytes], max_bytes: int, claim: Callable[[str], object]
    ) -> tuple[Bundle, Model | None]:
        with self.repository.staging() as folder:
            path = unpack(archive, folder, max_bytes)
            model = self._read(path, "") if Bundle.open(path).servable else None
            claim(path.name)
            bundle = self.repository.adopt(path, path.name)
        if model is not None:
            model.version = str(bundle.path.relative_to(self.repository.root))
        return bundle, model

    def _read(self, path: Path, version: str) -> Model:
        settings = self._settings
        return Model(
            Bundle.open(path),
            version,
            self._runs,
            settings.max_batch_rows,
            settings.max_waiting_requests,
            self.counts,
        )

    def _keep(self, name: str, model: Model) -> None:
        self._models[name] = model
        self._models.move_to_end(name)
        while len(self._models) > max(1, self._settings.max_loaded_models):
            self._models.popitem(last=False)

"""The models in memory: loaded at the first use, replaced when the repository's are."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import IO

from mlaas4hep.core.errors import BundleError, ConflictError, MlaasError, NotFoundError
from mlaas4hep.core.settings import ServingSettings
from mlaas4hep.inference.engine import Counts, Model
from mlaas4hep.inference.pool import Pool
from mlaas4hep.models.bundle import Bundle, unpack
from mlaas4hep.models.repository import Repository

_log = logging.getLogger(__name__)


class Registry:
    """Gives the model of a name as it is in the repository at that moment.

    Each look-up compares the version in memory with the repository's, which costs less than a
    microsecond: a model published by any process answers the very next request, and nothing polls.
    Methods belong to one event loop's thread.
    """

    def __init__(self, repository: Repository, settings: ServingSettings) -> None:
        self.repository = repository
        self._settings = settings
        self._models: OrderedDict[str, Model] = OrderedDict()
        self._loads: dict[str, asyncio.Task[Model]] = {}
        self._broken: dict[str, MlaasError] = {}
        self.counts = Counts()
        self.pool = Pool(settings)

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
            self._forget(name)
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
        as it was: ArchiveError, BundleError, or LimitError beyond ``max_bytes``.
        """
        stack, model = ExitStack(), None
        try:
            folder = await asyncio.to_thread(stack.enter_context, self.repository.staging())
            path = await asyncio.to_thread(unpack, archive, folder, max_bytes)
            bundle = await asyncio.to_thread(Bundle.open, path)
            model = await self._read(bundle, "") if bundle.servable else None
            bundle = await asyncio.to_thread(self._adopt, path, claim)
        except BaseException:
            if model is not None:
                model.close()
            raise
        finally:
            await asyncio.to_thread(stack.close)
        if model is not None:
            model.version = str(bundle.path.relative_to(self.repository.root))
            self._keep(bundle.name, model)
        return bundle

    async def delete(self, name: str) -> None:
        """Remove the model from the repository and from memory; NotFoundError if there is none."""
        await asyncio.to_thread(self.repository.delete, name)
        self._forget(name)

    def close(self) -> None:
        """End the workers."""
        self.pool.close()

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
            bundle = await asyncio.to_thread(Bundle.open, self.repository.root / version)
            model = await self._read(bundle, version)
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

    def _adopt(self, path: Path, claim: Callable[[str], object]) -> Bundle:
        claim(path.name)
        return self.repository.adopt(path, path.name)

    async def _read(self, bundle: Bundle, version: str) -> Model:
        """The model of the bundle, loaded."""
        settings = self._settings
        return await Model.load(
            bundle,
            version,
            self.pool,
            settings.max_batch_rows,
            settings.max_waiting_requests,
            self.counts,
        )

    def _keep(self, name: str, model: Model) -> None:
        self._forget(name)
        self._models[name] = model
        size = sum(each.memory for each in self._models.values())
        while len(self._models) > 1 and (
            len(self._models) > self._settings.max_loaded_models
            or size > self._settings.max_loaded_bytes
        ):
            _, oldest = self._models.popitem(last=False)
            size -= oldest.memory
            oldest.close()

    def _forget(self, name: str) -> None:
        if model := self._models.pop(name, None):
            model.close()

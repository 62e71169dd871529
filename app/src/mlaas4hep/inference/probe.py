"""One prediction by a model of the store, whoever owns it: for the check after a deployment.

    python -m mlaas4hep.inference.probe

It needs no token, as whoever can run it can read the models anyway. Exit status: 0 a model answers,
or there is none; 1 none answers. One line says what was found.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from mlaas4hep.core.errors import MlaasError
from mlaas4hep.core.settings import Settings
from mlaas4hep.inference.events import example, predict_events
from mlaas4hep.inference.registry import Registry
from mlaas4hep.models.repository import Repository

MOST_MODELS = 5
"""A single model may be damaged; when as many fail, the service does."""


async def probe(settings: Settings) -> tuple[bool, str]:
    """Whether a model answers, and a line about it."""
    registry = Registry(Repository(settings.models), settings)
    failures = []
    registry.pool.start()
    try:
        for name in registry.repository.names()[:MOST_MODELS]:
            try:
                model = await registry.get(name)
                found = await predict_events(model, [example(model.specs)])
            except (MlaasError, OSError) as error:
                failures.append(f"{name}: {error}")
            else:
                return True, f"the model {name} answers {found.predictions[0].tolist()}"
    finally:
        registry.close()
    if failures:
        return False, f"no model answers: {'; '.join(failures)}"
    return True, "there is no model"


def main() -> int:
    """Probe the store of the environment's settings; print what was found."""
    well, found = asyncio.run(probe(Settings(**dict[str, Any]())))
    print(found)
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())

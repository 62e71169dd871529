"""MLaaS4HEP: machine learning as a service for high-energy physics.

``open_data`` gives a notebook the events that a training would get.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlaas4hep.training.library import open_data

__all__ = ["__version__", "open_data"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """``open_data`` is imported when it is asked for: services come without what it needs."""
    if name == "open_data":
        from mlaas4hep.training.library import open_data

        return open_data
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

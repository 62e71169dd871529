"""MLaaS4HEP: machine learning as a service for high-energy physics."""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlaas4hep.training.library import open_data

# onnxruntime reports to Microsoft, from its import on, unless this is set before.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

__version__ = "0.1.0"
__all__ = ["open_data"]


def __getattr__(name: str) -> Any:
    """``open_data`` is imported when it is used: all else shall not wait for uproot."""
    if name == "open_data":
        return import_module("mlaas4hep.training.library").open_data
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

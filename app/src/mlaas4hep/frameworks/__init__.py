"""Machine-learning frameworks behind one contract (base.Framework); adding one is one file."""

from __future__ import annotations

from collections.abc import Iterable

from mlaas4hep.core.errors import ModelError
from mlaas4hep.frameworks.base import Batches, Fit, FitPlan, Framework, History, NotServable
from mlaas4hep.frameworks.keras import Keras
from mlaas4hep.frameworks.sklearn import Sklearn

FRAMEWORKS: tuple[Framework, ...] = (Keras(), Sklearn())
"""The first that accepts a model trains it. Keras comes before scikit-learn, whose classes are also
mixed into models of others for their methods (``ClassifierMixin``'s score)."""

__all__ = [
    "FRAMEWORKS",
    "Batches",
    "Fit",
    "FitPlan",
    "Framework",
    "History",
    "NotServable",
    "framework_of",
    "set_up",
]


def framework_of(model: object) -> Framework:
    """The framework whose model this is; ModelError naming the type when there is none."""
    for framework in FRAMEWORKS:
        if framework.accepts(model):
            return framework
    kind = type(model)
    raise ModelError(
        f"model(idim) returned a {kind.__module__}.{kind.__qualname__}, which is not a model of "
        + " or ".join(framework.name for framework in FRAMEWORKS),
        f"Return {' or '.join(framework.wanted for framework in FRAMEWORKS)}.",
    )


def set_up(imported: Iterable[str], seed: int) -> None:
    """Import and seed the frameworks that the user's file imports (top-level module names)."""
    for framework in FRAMEWORKS:
        if framework.modules & set(imported):
            framework.set_up(seed)

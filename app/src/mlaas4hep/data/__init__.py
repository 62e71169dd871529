"""From events in memory to a matrix, with numpy alone; use it in a notebook as it is."""

from mlaas4hep.data.derivation import Cuts, Derivation
from mlaas4hep.data.encode import PADDING, Encoder
from mlaas4hep.data.events import Branch, Events, Jagged
from mlaas4hep.data.limits import Limits
from mlaas4hep.data.mixing import EventsToUse, Range, plan_chunks
from mlaas4hep.data.passing import Passing
from mlaas4hep.data.preprocess import Preprocessing
from mlaas4hep.data.specs import FileRecord, Specs, SpecsScan
from mlaas4hep.data.split import (
    TEST,
    TRAIN,
    VALIDATION,
    Split,
    file_key,
    fingerprint,
    membership,
    membership_by,
)
from mlaas4hep.data.target import Target

__all__ = [
    "PADDING",
    "TEST",
    "TRAIN",
    "VALIDATION",
    "Branch",
    "Cuts",
    "Derivation",
    "Encoder",
    "Events",
    "EventsToUse",
    "FileRecord",
    "Jagged",
    "Limits",
    "Passing",
    "Preprocessing",
    "Range",
    "Specs",
    "SpecsScan",
    "Split",
    "Target",
    "file_key",
    "fingerprint",
    "membership",
    "membership_by",
    "plan_chunks",
]

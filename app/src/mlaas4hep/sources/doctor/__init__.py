"""Why a file can't be read: each hop to it, the credentials, and what to do, within half a minute.

No step changes anything.
"""

from mlaas4hep.sources.doctor.diagnose import diagnose
from mlaas4hep.sources.doctor.reasons import are_silent, explain
from mlaas4hep.sources.doctor.steps import Diagnosis, State, Step

__all__ = ["Diagnosis", "State", "Step", "are_silent", "diagnose", "explain"]

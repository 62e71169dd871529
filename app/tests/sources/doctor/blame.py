"""What all tests of diagnoses want of one."""

from __future__ import annotations

from mlaas4hep.sources.doctor import Diagnosis, State


def blamed(diagnosis: Diagnosis, what: str, *says: str) -> None:
    """One step failed, the one expected; problem and remedy are a line each, and say this."""
    failed = [step.what for step in diagnosis.steps if step.state == State.FAILED]
    text = f"{diagnosis.problem}\n{diagnosis.remedy}"
    assert failed == [what], f"{text}\n{[step.found for step in diagnosis.steps]}"
    for each in says:
        assert each in text
    assert diagnosis.remedy
    assert len(text.splitlines()) == 2

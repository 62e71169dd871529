"""A job's state and durations in the words of ``docker ps``, which the prototype's clients know."""

from __future__ import annotations

from mlaas4hep.jobs.database import Job, State


def ago(seconds: float) -> str:
    """A duration in docker's words: ``Less than a second``, ``8 seconds``, ``About an hour``."""
    whole = max(0, int(seconds))
    minutes, hours = whole // 60, int(seconds / 3600 + 0.5)
    if whole < 1:
        return "Less than a second"
    if whole < 60:
        return f"{whole} second{'s' * (whole > 1)}"
    if minutes < 60:
        return "About a minute" if minutes == 1 else f"{minutes} minutes"
    if hours < 48:
        return "About an hour" if hours == 1 else f"{hours} hours"
    if hours < 24 * 14:
        return f"{hours // 24} days"
    if hours < 24 * 60:
        return f"{hours // 24 // 7} weeks"
    if hours < 24 * 730:
        return f"{hours // 24 // 30} months"
    return f"{hours // 24 // 365} years"


def docker_status(job: Job, now: float) -> str:
    """The job's state as ``docker ps`` would say it."""
    if job.state == State.WAITING or (job.started is None and job.finished is None):
        return "Created"
    if job.state == State.RUNNING:
        return f"Up {ago(now - (job.started or now))}"
    if job.state == State.SUCCEEDED:
        code = 0
    elif job.exit_code is not None and job.exit_code < 0:
        code = 128 - job.exit_code  # as docker tells a signal
    else:
        code = job.exit_code or 1
    return f"Exited ({code}) {ago(now - (job.finished or now))} ago"

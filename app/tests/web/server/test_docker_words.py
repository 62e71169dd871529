import pytest

from mlaas4hep.jobs.database import Job, State
from mlaas4hep.web.server.docker_words import ago, docker_status


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.4, "Less than a second"),
        (1, "1 second"),
        (8.9, "8 seconds"),
        (59, "59 seconds"),
        (60, "About a minute"),
        (119, "About a minute"),
        (180, "3 minutes"),
        (59 * 60, "59 minutes"),
        (60 * 60, "About an hour"),
        (100 * 60, "2 hours"),
        (47 * 3600, "47 hours"),
        (48 * 3600, "2 days"),
        (14 * 86400, "2 weeks"),
        (60 * 86400, "2 months"),
        (731 * 86400, "2 years"),
        (-3, "Less than a second"),
    ],
)
def test_durations_in_dockers_words(seconds: float, words: str) -> None:
    assert ago(seconds) == words


@pytest.mark.parametrize(
    ("state", "started", "finished", "exit_code", "status"),
    [
        (State.WAITING, None, None, None, "Created"),
        (State.RUNNING, 92.0, None, None, "Up 8 seconds"),
        (State.SUCCEEDED, 10.0, 40.0, 0, "Exited (0) About a minute ago"),
        (State.FAILED, 10.0, 98.0, 1, "Exited (1) 2 seconds ago"),
        (State.FAILED, 10.0, 98.0, 0, "Exited (1) 2 seconds ago"),
        (State.FAILED, 10.0, 98.0, -9, "Exited (137) 2 seconds ago"),
        (State.FAILED, None, 98.0, None, "Exited (1) 2 seconds ago"),
    ],
)
def test_states_in_dockers_words(
    state: State,
    started: float | None,
    finished: float | None,
    exit_code: int | None,
    status: str,
) -> None:
    job = Job(state=state, started=started, finished=finished, exit_code=exit_code)
    assert docker_status(job, 100.0) == status

"""What a job's row may hold when somebody who can write to the database wants more."""

from pathlib import Path
from typing import Any

import pytest

from mlaas4hep.core.errors import LimitError, UsageError
from mlaas4hep.jobs.database import Job
from mlaas4hep.jobs.orders import order_of
from support.service import Service


def changed(service: Service, **values: Any) -> Job:
    service.upload("luca")
    job = service.submit("luca")
    for name, value in values.items():
        setattr(job, name, value)
    return job


def test_an_order_names_two_folders_of_the_store(service: Service) -> None:
    job = changed(service)
    order = order_of(job, service.settings)
    assert order.home == service.settings.store / "jobs/luca_1"
    assert order.cwd == service.settings.store / "uploads" / job.version / "files"
    assert (order.cpus, order.memory, order.environment, order.gpu) == (
        1,
        3 << 30,
        "default",
        False,
    )


def test_an_order_has_the_folders_of_its_owners_groups(service: Service) -> None:
    job = changed(service, groups=["cms"])
    assert order_of(job, service.settings).paths is None
    limited = service.settings.model_copy(update={"data_paths": {"cms": ["/a/"], "lhcb": ["/b/"]}})
    assert order_of(job, limited).paths == ("/a/",)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"process_name": "../models/luca_1"}, "this service never creates such names"),
        ({"process_name": ".."}, "this service never creates such names"),
        ({"process_name": "luca"}, "this service never creates such names"),
        ({"process_name": "luca_1\n"}, "this service never creates such names"),
        ({"process_name": "luca_0"}, "this service never creates such names"),
        ({"version": "../../../../etc"}, "this service never creates such names"),
        ({"version": "luca"}, "this service never creates such names"),
        ({"version": "luca.0123456789ab"}, "is not there any more"),
        ({"environment": "evil/image:latest"}, "is not offered here"),
        ({"device": "gpu"}, "no GPU"),
        ({"model": "../../../../etc/passwd"}, "leads outside"),
        ({"files": "/etc/passwd"}, "leads outside"),
        ({"params": "--job=/etc"}, "no file"),
        ({"labels": "../x"}, "leads outside"),
    ],
)
def test_a_row_that_names_something_else_is_refused(
    service: Service, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        order_of(changed(service, **values), service.settings)


@pytest.mark.parametrize("values", [{"cpus": 65.0}, {"memory": 65 << 30}])
def test_a_row_beyond_the_limits_is_refused(service: Service, values: dict[str, Any]) -> None:
    with pytest.raises(LimitError, match="that a training may have"):
        order_of(changed(service, **values), service.settings)


def test_a_version_that_is_a_link_is_refused(service: Service, tmp_path: Path) -> None:
    (tmp_path / "elsewhere/files").mkdir(parents=True)
    (service.settings.uploads / "luca.ffffffffffff").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="is not there any more"):
        order_of(changed(service, version="luca.ffffffffffff"), service.settings)


def test_the_runner_ends_such_a_job_and_starts_nothing(service: Service) -> None:
    service.upload("luca")
    job = service.submit("luca")
    with service.database.write() as session:
        session.get_one(Job, job.id).files = "../../../mlaas4hep.sqlite"
    [job] = service.run(job)
    assert job.state == "failed"
    assert "leads outside" in job.reason
    assert not service.home(job).exists()

import json
from pathlib import Path
from typing import Any

import pytest

from mlaas4hep.core.errors import UsageError
from mlaas4hep.jobs.checks import parse_cpus
from support.service import Service, small_files


@pytest.mark.parametrize("text", ["", "0", "-1", "nan", "inf", "two", "2;id"])
def test_cpus_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="is not a number of cores"):
        parse_cpus(text)


@pytest.mark.hostile("cpus 1e-10 becomes no limit")
@pytest.mark.parametrize("cpus", ["1e-10", "0.0099"])
def test_next_to_no_core_is_refused_naming_the_least(service: Service, cpus: str) -> None:
    service.upload("luca")
    with pytest.raises(UsageError, match=r"cpus: .* is less than 0\.01, the least"):
        service.submit("luca", cpus=cpus)
    assert service.submit("luca", cpus="0.01").cpus == 0.01


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"files": "../files.txt"}, "files: .* leads outside"),
        ({"files": "/etc/passwd"}, "files: .* leads outside"),
        ({"files": "nothing.txt"}, "files: the folder has no file 'nothing.txt'"),
        ({"files": "files.txt,nothing.root"}, "files: the folder has no file 'nothing.root'"),
        ({"files": "nothing.root:TreeS"}, "files: the folder has no file 'nothing.root'"),
        ({"files": "../a.root:TreeS"}, "files: .* leads outside"),
        ({"files": " , "}, "files is empty"),
        ({"files": "a\nb"}, "files holds control characters"),
        ({"files": "deep"}, "files: the folder has no file 'deep'"),
        ({"files": "deep/*.root"}, r"files: the folder has no file 'deep/\*.root'"),
        ({"files": "deep/x.t?t,no*.root"}, r"files: the folder has no file 'no\*.root'"),
        ({"files": "../*.root"}, "files: .* leads outside"),
        ({"files": "deep/../../*"}, "files: .* leads outside"),
        ({"files": "/etc/*"}, "files: .* leads outside"),
        ({"files": "file:///etc/passwd"}, "files: the folder has no file 'file:///etc/passwd'"),
        ({"files": "~/*.root"}, "files: the folder has no file '~/"),
        ({"files": "*a" * 600}, "files: .* is not a file name"),
        ({"labels": "../../etc/passwd"}, "labels: .* leads outside"),
        ({"labels": "lables.txt"}, "labels: the folder has no file"),
        ({"model": "model.py;rm -rf ~"}, "model: the folder has no file"),
        ({"model": "/tmp/model.py"}, "model: .* leads outside"),
        ({"model": ""}, "model: '' is not a file name"),
        ({"model": "m" * 300}, "model: "),
        ({"model": "m" * 3000}, "model: .* is not a file name"),
        ({"model": "mödel.py"}, "model: the folder has no file"),
        ({"params": "a\0b"}, "params: .* is not a file name"),
        ({"params": "-rf"}, "params: the folder has no file"),
        ({"device": "gpu"}, "no GPU"),
        ({"device": "tpu"}, "device: 'tpu' is unknown"),
        ({"memory": "lots"}, "memory: 'lots' is not a size"),
        ({"cpus": "all"}, "cpus: 'all' is not a number"),
    ],
)
def test_what_can_not_be_trained_is_refused_by_name(
    service: Service, changes: dict[str, str], message: str
) -> None:
    service.upload("luca", small_files() | {"deep/x.txt": b""})
    with pytest.raises(UsageError, match=message):
        service.submit("luca", **changes)
    assert service.queue.recent() == []


@pytest.mark.parametrize(
    "changes",
    [
        {"files": "files.txt"},
        {"files": "deep/a.root"},
        {"files": "deep"},
        {"files": "deep/"},
        {"files": "deep/*.root,https://example.org/b.root"},
        {"files": "**/a.root:TreeS"},
        {"files": "*/?.root"},
        {"files": "root://eos.example.org//store/"},
        {"files": "deep/a.root:TreeS,deep/a.root:dir/TreeB"},
        {"files": "root://eos.example.org//a.root, https://example.org/b.root,deep/a.root"},
        {"files": "/store/user/a.root"},
        {"labels": "1,0"},
        {"labels": ""},
        {"labels": "signal,background"},
        {"labels": "Type"},
        {"model": "deep/model two.py"},
        {"model": "./model.py"},
    ],
)
def test_what_can_be_trained(service: Service, changes: dict[str, str]) -> None:
    more = {"deep/a.root": b"root", "deep/model two.py": b""}
    service.upload("luca", small_files() | more)
    assert service.submit("luca", **changes).state == "waiting"


@pytest.mark.parametrize(
    ("files", "place", "message"),
    [
        ("deep/a.root", "other.root", "friends: F: the folder has no file 'other.root'"),
        ("files.txt", "../other.root:T", "friends: F: .* leads outside"),
        ("deep/a.root", "/data/f.root", "friends: F: .* leads outside"),
        ("deep/a.root:T", "{dir}/{stem}_g.root", "friends: F: the folder has no .*deep/a_g.root"),
        ("deep/a.root", "{dir}/{stem}_f.root:T", ""),
        ("https://x.example/a.root", "{dir}/{stem}_g.root", ""),
        ("deep/a.root", "root://x.example//f.root", ""),
        ("files.txt", "{dir}/{stem}_g.root", ""),
        ("deep/a.root", "{file}:T", ""),
    ],
)
def test_friends_are_looked_for(service: Service, files: str, place: str, message: str) -> None:
    params: dict[str, Any] = {"friends": {"F": place}}
    more = small_files() | {"deep/a.root": b"", "deep/a_f.root": b""}
    service.upload("luca", more | {"params.json": json.dumps(params).encode()})
    if not message:
        assert service.submit("luca", files=files).state == "waiting"
        return
    with pytest.raises(UsageError, match=message):
        service.submit("luca", files=files)
    if "leads outside" in message:
        return
    params |= {"redirector": "root://x.example"}
    service.upload("luca", more | {"params.json": json.dumps(params).encode()})
    assert service.submit("luca", files=files).state == "waiting"


@pytest.mark.parametrize("params", ["", "[1]", "{", '{"friends": [1]}', '{"friends": {"F": 1}}'])
def test_params_that_a_training_refuses_are_left_to_it(service: Service, params: str) -> None:
    service.upload("luca", small_files() | {"params.json": params.encode()})
    assert service.submit("luca").state == "waiting"


def test_a_link_that_a_training_left_leads_nowhere(service: Service) -> None:
    folder = service.upload("luca")
    (service.folders.path(folder.version) / "model2.py").symlink_to("/etc/passwd")
    with pytest.raises(UsageError, match=r"no file 'model2\.py'"):
        service.submit("luca", model="model2.py")


@pytest.mark.hostile("a wildcard that reads the host's files through a link")
@pytest.mark.parametrize("files", ["link/*", "link", "**/passwd", "link/**/passwd"])
def test_wildcards_follow_no_link_that_a_training_left(service: Service, files: str) -> None:
    folder = service.upload("luca")
    (service.folders.path(folder.version) / "link").symlink_to("/etc")
    with pytest.raises(UsageError, match="the folder has no file"):
        service.submit("luca", files=files)


@pytest.mark.hostile("a submission that takes the server and the runner hours, or all memory")
@pytest.mark.parametrize(
    ("files", "friends", "message"),
    [
        (f"s3://{'a' * 10_000}", {"a": "s3://{file}"}, "files holds .* too long"),
        ("s3://b/a.root", {"a": "s3://" + "{file}" * 9}, "friends: a: .* is too long"),
        ("s3://b/a.root", {f"a{n}": "b.root" for n in range(101)}, "friends: 101 are given"),
        ("s3://b/a.root", {"a": "{x}.root"}, "friends: a: {x} stands for nothing"),
        (",".join(f"??**{n}z.dat" for n in range(11)), {}, "files: more than 10 names"),
    ],
)
def test_what_a_submission_names_is_bounded(
    service: Service, files: str, friends: dict[str, str], message: str
) -> None:
    params = json.dumps({"friends": friends}).encode()
    service.upload("luca", small_files() | {"params.json": params})
    with pytest.raises(UsageError, match=message):
        service.submit("luca", files=files)


ENVIRONMENTS = {"default": "a/job:1", "torch": "a/torch:1", "gpu": {"image": "a/gpu:1", "gpus": 2}}


@pytest.mark.parametrize(
    ("asked", "device", "got"),
    [
        ("", "cpu", "default"),
        ("torch", "cpu", "torch"),
        ("gpu", "gpu", "gpu"),
        ("gpu", "cpu", "gpu"),
    ],
)
def test_environments_that_are_offered(tmp_path: Path, asked: str, device: str, got: str) -> None:
    service = Service(tmp_path / "s", executor="container", environments=ENVIRONMENTS)
    service.upload("luca")
    job = service.submit("luca", environment=asked, device=device)
    assert (job.environment, job.device) == (got, device)


@pytest.mark.parametrize(
    ("asked", "device", "message", "remedy"),
    [
        ("tourch", "cpu", "environment: 'tourch' is not offered here", "'torch'"),
        ("a/job:1", "cpu", "environment: 'a/job:1' is not offered here", ""),
        ("torch", "gpu", "the environment 'torch' has no GPU", "'gpu'"),
        ("", "gpu", "the environment 'default' has no GPU", "'gpu'"),
        ("gpu", "tpu", "device: 'tpu' is unknown", '"gpu"'),
    ],
)
def test_environments_that_are_not_offered(
    tmp_path: Path, asked: str, device: str, message: str, remedy: str
) -> None:
    service = Service(tmp_path / "s", executor="container", environments=ENVIRONMENTS)
    service.upload("luca")
    with pytest.raises(UsageError, match=message) as caught:
        service.submit("luca", environment=asked, device=device)
    assert remedy in caught.value.remedy


def test_processes_have_one_environment(service: Service) -> None:
    service.upload("luca")
    assert service.submit("luca").environment == "default"
    with pytest.raises(UsageError, match="'torch' is not offered here"):
        service.submit("luca", environment="torch")

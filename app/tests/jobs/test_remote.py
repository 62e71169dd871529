from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from mlaas4hep.core.errors import UsageError
from mlaas4hep.jobs.remote import (
    EndedError,
    credential,
    job_of,
    make_key,
    read_key,
    reads_remote,
)


@dataclass
class Asked:
    files: str = "files.txt"
    labels: str = "labels.txt"
    model: str = "model.py"
    params: str = "params.json"


@pytest.mark.parametrize(
    ("files", "params", "remote"),
    [
        ("signal.root\nbackground.root\n", {}, False),
        ("signal.root\nhttps://eospublic.cern.ch/eos/a.root\n", {}, True),
        ("http://a.org/a.root", {}, True),
        ("davs://a.org/a.root", {}, True),
        ("s3://bucket/a.root", {}, True),
        ('{"signal": ["https:\\/\\/a.org\\/a.root"]}', {}, True),
        ("root://eospublic.cern.ch//eos/a.root", {}, False),
        ("signal.root", {"friends": [{"file": "https://a.org/friend.root"}]}, True),
        ("/store/data/a.root", {"redirector": "https://xcache.example.org"}, True),
        ("/store/data/a.root", {"redirector": "root://xrootd-cms.infn.it"}, False),
    ],
)
def test_a_training_reads_remote_files_if_its_lists_or_params_say_so(
    tmp_path: Path, files: str, params: dict[str, object], remote: bool
) -> None:
    (tmp_path / "files.txt").write_text(files)
    (tmp_path / "params.json").write_text(json.dumps(params))
    assert reads_remote(tmp_path, Asked()) is remote


@pytest.mark.parametrize(
    ("text", "remote"),
    [
        ("signal.root\nroot://eospublic.cern.ch//eos/a.root\n", True),
        ("xrootd://a.org//a.root", True),
        ("/store/data/a.root", True),
        ('{"signal": ["\\/store\\/a.root"]}', True),
        ("https://a.org/a.root", True),
        ("store/data/a.root", False),
        ("in/store/a.root", False),
        ("uproot-HZZ.root", False),
    ],
)
def test_with_a_cache_so_do_files_of_the_grid(tmp_path: Path, text: str, remote: bool) -> None:
    (tmp_path / "files.txt").write_text(text)
    assert reads_remote(tmp_path, Asked(), grid=True) is remote


def test_so_does_one_whose_order_names_addresses(tmp_path: Path) -> None:
    assert reads_remote(tmp_path, Asked(files="signal.root,https://a.org/a.root"))
    assert not reads_remote(tmp_path, Asked(files="signal.root,gone.txt"))


@pytest.mark.hostile
def test_lists_that_are_no_plain_files_are_not_read(tmp_path: Path) -> None:
    """The runner would wait for ever on a pipe, and read others' files by a link."""
    (tmp_path / "outside").write_text("https://a.org/a.root")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "folder/files.txt")
    (tmp_path / "folder/params.json").symlink_to(tmp_path / "outside")
    assert not reads_remote(tmp_path / "folder", Asked())


def test_a_key_is_made_once_and_needed(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="reach none of its remote files"):
        read_key(tmp_path)
    key = make_key(tmp_path)
    assert len(key) == 64
    assert make_key(tmp_path) == read_key(tmp_path) == key
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600


def test_a_credential_is_of_one_training_and_one_key() -> None:
    until = int(time.time()) + 100
    line = credential(b"key", "luca_1", until, "0.2@ab")
    assert job_of(b"key", line) == ("luca_1", "0.2@ab")
    assert job_of(b"key", line.replace("0.2@", "0.3@")) is None
    assert job_of(b"other", line) is None
    for wrong in (
        *("", " ", "luca_1", "luca_1 é", f"{line}x", f"{line}\n"),
        line.replace("luca_1", "luca_2"),
        line.replace(str(until), str(until + 1)),
        line.replace(str(until), "٣"),
    ):
        assert job_of(b"key", wrong) is None


def test_a_credential_ends_with_its_training() -> None:
    with pytest.raises(EndedError, match="luca_1"):
        job_of(b"key", credential(b"key", "luca_1", time.time() - 2))

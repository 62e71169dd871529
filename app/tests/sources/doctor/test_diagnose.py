from __future__ import annotations

from pathlib import Path

import pytest

from mlaas4hep.sources.doctor import State, diagnose
from sources.doctor.blame import blamed


def test_a_file_that_can_be_read(small_files: list[Path]) -> None:
    for name in (str(small_files[0]), f"{small_files[0]}:events", f"file://{small_files[0]}"):
        found = diagnose(name)
        assert [(step.what, step.state) for step in found.steps] == [
            ("file", State.OK),
            ("ROOT", State.OK),
        ]
        assert found.detail("file", "size") == small_files[0].stat().st_size
        assert found.detail("ROOT", "trees") == ["events"]
        assert (found.failed, found.problem, found.remedy) == (None, "", "")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty: 0 bytes"),
        (b"root:x:0:0:root", "is not a ROOT file: it starts with 'root:x:0:0:root'"),
        (b"PK\x03\x04" + bytes(100), "is not a ROOT file"),
        (b"root\0\0", "is truncated: it has 6 bytes"),
    ],
)
def test_a_file_that_is_none(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "a.root").write_bytes(content)
    blamed(diagnose(str(tmp_path / "a.root")), "ROOT", says)


def test_a_truncated_file(small_files: list[Path], tmp_path: Path) -> None:
    whole = small_files[0].read_bytes()
    (tmp_path / "a.root").write_bytes(whole[:-1000])
    blamed(
        diagnose(str(tmp_path / "a.root")), "ROOT", "is truncated", "1000 bytes less than it should"
    )


def test_a_damaged_file(small_files: list[Path], tmp_path: Path) -> None:
    """Its beginning and length are right."""
    whole = bytearray(small_files[0].read_bytes())
    whole[100:400] = b"\xff" * 300
    (tmp_path / "a.root").write_bytes(whole)
    blamed(diagnose(str(tmp_path / "a.root")), "ROOT", "can't be read")


def test_a_path_that_is_wrong(tmp_path: Path) -> None:
    blamed(diagnose(f"{tmp_path}/none.root"), "file", f"no such file: {tmp_path}/none.root")
    blamed(diagnose(f"{tmp_path}/*.root"), "file", "wildcards are not expanded")
    blamed(diagnose(str(tmp_path)), "file", f"{tmp_path} is a folder")


def test_an_address_that_is_wrong() -> None:
    for name, says in (
        ("gsiftp://host.test/a.root", "gsiftp:// is not supported"),
        ("root:///store/a.root", "names no host"),
        ("root://host.test:port//a.root", "is no address"),
        ("https:///a.root", "is no web address with a host"),
        ("s3://bucket", "is not s3://BUCKET/KEY"),
    ):
        blamed(diagnose(name), "address", says)

from __future__ import annotations

from pathlib import Path

import pytest

from mlaas4hep.core.errors import UsageError
from mlaas4hep.training.inputs import read_files_option, read_labels_option


def test_a_text_file(tmp_path: Path) -> None:
    (tmp_path / "files.txt").write_text("# signal\na.root\n\n  /store/b.root \r\n#c.root\n")
    assert read_files_option("files.txt", tmp_path) == ["a.root", "/store/b.root"]
    assert read_files_option(str(tmp_path / "files.txt"), Path("/")) == ["a.root", "/store/b.root"]


def test_a_text_file_that_begins_with_a_root_address(tmp_path: Path) -> None:
    (tmp_path / "files.txt").write_text("root://h//a.root\nroot://h//b.root\n")
    assert read_files_option("files.txt", tmp_path) == ["root://h//a.root", "root://h//b.root"]


def test_a_text_file_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "files.txt").write_text("a.root\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert read_files_option("~/files.txt", Path("/")) == ["a.root"]


def test_a_comma_list(tmp_path: Path) -> None:
    assert read_files_option("a.root, root://h//b.root,", tmp_path) == [
        "a.root",
        "root://h//b.root",
    ]
    assert read_files_option("http://h/a,b", tmp_path) == ["http://h/a", "b"]


def test_a_root_file_is_a_list_of_one(tmp_path: Path) -> None:
    (tmp_path / "a.root").write_bytes(b"root\0\1\2")
    (tmp_path / "b.data").write_bytes(b"root\0\1\2")
    assert read_files_option("a.root", tmp_path) == ["a.root"]
    assert read_files_option("b.data", tmp_path) == ["b.data"]


def test_labels(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("1\n0\n0\n")
    assert read_labels_option("labels.txt", tmp_path) == ["1", "0", "0"]
    assert read_labels_option("sig,bkg", tmp_path) == ["sig", "bkg"]
    assert read_labels_option("Type", tmp_path) == ["Type"]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "--files is empty"),
        (" ", "--files is empty"),
        (",", "names nothing"),
        ("none.txt", "no such file: none.txt"),
        ("blank.txt", "names nothing"),
        ("bytes.txt", "bytes.txt is not a text file"),
        ("a.root,b.root,a.root", "names 'a.root' twice"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, match: str) -> None:
    (tmp_path / "blank.txt").write_text("\n# nothing\n")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\0")
    with pytest.raises(UsageError, match=match):
        read_files_option(text, tmp_path)

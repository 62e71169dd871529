from __future__ import annotations

import json
import math
import os
import subprocess
import time
from pathlib import Path

import pytest

from mlaas4hep.core.files import disk_use, open_plain, remove_tree, write_atomic, write_json


def test_the_file_is_replaced_whole_and_nothing_is_left_beside_it(tmp_path):
    path = tmp_path / "x"
    write_atomic(path, "old")
    write_atomic(path, b"new", mode=0o600)
    assert path.read_text() == "new"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_what_is_not_json_leaves_the_old_file(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"a": math.nan})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_a_failed_write_leaves_the_old_file_and_no_temporary_one(tmp_path, monkeypatch):
    path = tmp_path / "x"
    write_atomic(path, "old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_only_a_plain_file_is_opened(tmp_path):
    plain = tmp_path / "plain"
    plain.write_text("content")
    (tmp_path / "link").symlink_to(plain)
    os.mkfifo(tmp_path / "pipe")
    with open_plain(plain) as stream:
        assert stream.read() == b"content"
    for name in ("link", "pipe", ".", "missing"):
        with pytest.raises(OSError):
            open_plain(tmp_path / name)


def test_what_a_folder_takes(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/a").write_bytes(bytes(10_000))
    (tmp_path / "empty").touch()
    with (tmp_path / "hole").open("wb") as hole:
        hole.truncate(1 << 30)
    (tmp_path / "out").symlink_to("/usr")
    assert disk_use(tmp_path) == 10_000 + (1 << 30) + 3 * 4096  # deep/, empty and out
    assert disk_use(tmp_path / "missing") == 0
    assert disk_use(tmp_path, changed_since=time.time() + 10) == 0


def test_counting_stops_beyond_the_limit(tmp_path):
    for number in range(100):
        (tmp_path / str(number)).touch()
    assert disk_use(tmp_path, most=10 * 4096) == 11 * 4096


def test_what_changed_lately_is_counted_alone(tmp_path):
    (tmp_path / "old").write_bytes(bytes(10_000))
    status = (tmp_path / "old").stat()
    while (tmp_path / "probe").touch() or (tmp_path / "probe").stat().st_ctime == status.st_ctime:
        (tmp_path / "probe").unlink()
    begun = (tmp_path / "probe").stat().st_ctime
    (tmp_path / "new").write_bytes(bytes(20_000))
    assert disk_use(tmp_path, changed_since=begun) == 20_000 + 4096  # new and probe
    os.utime(tmp_path / "new", (0, 0))  # a time that can be chosen doesn't help
    assert disk_use(tmp_path, changed_since=begun) == 20_000 + 4096


def test_folders_too_deep_to_be_looked_at_are_an_error(tmp_path):
    here = Path.cwd()
    os.chdir(tmp_path)
    try:
        for _ in range(2100):
            Path("d").mkdir()
            os.chdir("d")
    finally:
        os.chdir(here)
    with pytest.raises(OSError, match="File name too long"):
        disk_use(tmp_path)
    subprocess.run(["rm", "-rf", tmp_path / "d"], check=True)


def test_a_tree_of_locked_folders_is_removed_and_nothing_else(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    outside.chmod(0o750)
    deep = tmp_path / "tree/a/b"
    deep.mkdir(parents=True)
    (deep / "x").touch()
    (deep / "link").symlink_to(outside)
    for folder in (deep, deep.parent, tmp_path / "tree"):
        folder.chmod(0)
    remove_tree(tmp_path / "tree")
    assert [p.name for p in tmp_path.iterdir()] == ["outside"]
    assert outside.stat().st_mode & 0o777 == 0o750

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from mlaas4hep.core.files import (
    DEEPEST,
    copy_tree,
    disk_use,
    is_full,
    open_plain,
    remove_tree,
    walk,
    write_atomic,
    write_json,
)


def test_the_file_is_replaced_whole_and_nothing_is_left_beside_it(tmp_path):
    path = tmp_path / "x"
    write_atomic(path, "old")
    write_atomic(path, b"new", mode=0o600)
    assert path.read_text() == "new"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_no_room_is_told_from_other_errors():
    with pytest.raises(OSError, match="No space left") as full:
        Path("/dev/full").write_text("x")
    with pytest.raises(OSError, match="No such file") as missing:
        Path("/dev/none").read_text()
    assert is_full(full.value)
    assert not is_full(missing.value)
    assert not is_full(None)


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


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def nest(folder: Path, levels: int) -> None:
    """Make folders in folders, with a file in each; the path is longer than the kernel takes."""
    here = os.open(folder, os.O_RDONLY)
    for _ in range(levels):
        os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=here))
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)


def test_folders_nested_too_deep_to_be_looked_at_are_an_error(tmp_path):
    nest(tmp_path, DEEPEST)
    assert disk_use(tmp_path) == 2 * DEEPEST * 4096
    before = open_files()
    nest(tmp_path / ("d/" * DEEPEST), 1)
    with pytest.raises(OSError, match=f"deeper than {DEEPEST}"):
        disk_use(tmp_path)
    assert open_files() == before


def test_a_walk_gives_folders_before_their_content_and_follows_no_link(tmp_path):
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/x").write_text("x")
    (tmp_path / "a/out").symlink_to("/usr")
    found = {f.path: (f.is_folder, f.is_file) for f in walk(tmp_path)}
    assert found == {
        "a": (True, False),
        "a/b": (True, False),
        "a/b/x": (False, True),
        "a/out": (False, False),
    }
    assert next(iter(found)) == "a"
    assert list(walk(tmp_path / "a/b/x")) == list(walk(tmp_path / "missing")) == []


def test_what_vanishes_while_it_is_looked_at_is_left_out(tmp_path):
    for name in "abc":
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").touch()
    seen = []
    for found in walk(tmp_path):
        seen.append(found.path)
        if len(seen) == 3:
            for name in "abc":
                remove_tree(tmp_path / name)
    assert sorted(seen) == ["a", "b", "c"]


def test_a_copy_holds_the_same_and_no_link(tmp_path):
    (tmp_path / "from/a").mkdir(parents=True)
    (tmp_path / "from/a/x").write_bytes(b"x" * 3_000_000)
    (tmp_path / "from/y").touch()
    copy_tree(tmp_path / "from", tmp_path / "to")
    assert (tmp_path / "to/a/x").read_bytes() == b"x" * 3_000_000
    assert sorted(f.path for f in walk(tmp_path / "to")) == ["a", "a/x", "y"]
    (tmp_path / "from/a/link").symlink_to("/etc/passwd")
    with pytest.raises(OSError, match="a/link"):
        copy_tree(tmp_path / "from", tmp_path / "again")


@pytest.mark.hostile("3,000 nested folders")
def test_folders_nested_beyond_any_path_are_removed(tmp_path):
    (tmp_path / "tree").mkdir()
    nest(tmp_path / "tree", 3000)
    (tmp_path / "tree/d/d").chmod(0)
    before = open_files()
    remove_tree(tmp_path / "tree")
    assert list(tmp_path.iterdir()) == []
    assert open_files() == before


def test_many_files_are_removed(tmp_path):
    for folder in ("a", "a/b", "c"):
        (tmp_path / "tree" / folder).mkdir(parents=True)
        for number in range(5000):
            (tmp_path / "tree" / folder / str(number)).touch()
    remove_tree(tmp_path / "tree")
    assert list(tmp_path.iterdir()) == []
    remove_tree(tmp_path / "tree")  # gone already


def test_a_link_in_place_of_the_folder_is_removed_alone(tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "tree").symlink_to("outside")
    remove_tree(tmp_path / "tree")
    assert [p.name for p in tmp_path.iterdir()] == ["outside"]


def test_what_can_not_be_removed_keeps_nothing_else(tmp_path, monkeypatch):
    """What another user owns can't: here the kernel's answer is put in its place."""
    for name in ("tree/a/kept", "tree/a/b", "tree/c"):
        (tmp_path / name).mkdir(parents=True)
    unlink = os.unlink

    def refuse(path, **more):
        if path == "kept.txt":
            raise PermissionError(1, "Operation not permitted", path)
        unlink(path, **more)

    (tmp_path / "tree/a/kept/kept.txt").touch()
    monkeypatch.setattr("os.unlink", refuse)
    with pytest.raises(PermissionError, match=r"kept\.txt"):
        remove_tree(tmp_path / "tree")
    assert [f.name for f in walk(tmp_path) if f.is_file] == ["kept.txt"]


AS_NOBODY = """
import os, sys
from pathlib import Path
from mlaas4hep.core.files import remove_tree
if os.geteuid() == 0:
    os.setgid(65534); os.setuid(65534)
tree = Path(sys.argv[1]) / "tree"
deep = tree / "a/b/c"
deep.mkdir(parents=True)
(deep / "x").touch()
for folder in (deep, deep.parent, deep.parent.parent, tree):
    folder.chmod(0)
remove_tree(tree)
"""


@pytest.mark.hostile("chmod 0 leaves data")
def test_an_ordinary_user_removes_locked_folders_too():
    with tempfile.TemporaryDirectory(prefix="mlaas4hep-") as folder:
        Path(folder).chmod(0o777)
        done = subprocess.run(
            [sys.executable, "-c", AS_NOBODY, folder],
            capture_output=True,
            text=True,
            cwd="/",
            timeout=240,
        )
        assert done.returncode == 0, done.stderr
        assert list(Path(folder).iterdir()) == []


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

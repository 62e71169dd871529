from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path

import pytest

from mlaas4hep.core.errors import BundleError, ConflictError, NotFoundError, UsageError
from mlaas4hep.core.files import remove_tree
from mlaas4hep.models.bundle import Bundle
from mlaas4hep.models.repository import Repository
from support.bundles import constant, make_bundle
from support.small_job import nest


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "models")


def bundle(folder: Path, name: str, description: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return make_bundle(folder, name, lambda width: constant(width, description))


def value(opened: Bundle) -> bytes:
    return opened.onnx.read_bytes()


def versions(repository: Repository, name: str) -> list[Path]:
    return sorted((repository.root / ".versions").glob(f"{name}.*"))


def test_put_get_names_delete(repository: Repository, tmp_path: Path) -> None:
    source = bundle(tmp_path, "b")
    put = repository.put(source, "b")
    repository.put(bundle(tmp_path, "a"), "a")

    assert source.exists()
    assert value(repository.get("b")) == value(put) == value(Bundle.open(source))
    assert repository.names() == ["a", "b"]
    assert (repository.root / "b").is_symlink()
    assert (repository.root / "b" / "1" / "model.onnx").exists()

    repository.delete("b")
    assert repository.names() == ["a"]
    assert versions(repository, "b") == []
    with pytest.raises(NotFoundError, match="no model 'b'"):
        repository.get("b")
    with pytest.raises(NotFoundError, match="no model 'b'"):
        repository.delete("b")


def test_an_unknown_name_names_the_nearest(repository: Repository, tmp_path: Path) -> None:
    repository.put(bundle(tmp_path, "luca_1"), "luca_1")
    with pytest.raises(NotFoundError) as caught:
        repository.get("luca1")
    assert "'luca_1'" in caught.value.remedy
    for odd in ("../luca_1", ".versions", "a/b", "", "x" * 129, "a\0b", "é"):
        with pytest.raises(NotFoundError):
            repository.get(odd)
        with pytest.raises(NotFoundError):
            repository.delete(odd)
        with pytest.raises(UsageError):
            repository.put(tmp_path / "luca_1", odd)


def test_a_new_version_replaces_the_old(repository: Repository, tmp_path: Path) -> None:
    repository.put(bundle(tmp_path / "1", "m", 1), "m")
    first = repository.version("m")
    repository.put(bundle(tmp_path / "2", "m", 2), "m")
    assert repository.version("m") != first
    assert value(repository.get("m")) == (tmp_path / "2/m/1/model.onnx").read_bytes()
    for number in range(3, 6):
        repository.put(bundle(tmp_path / str(number), "m", number), "m")
    assert len(versions(repository, "m")) == 2  # the present one, and one for late readers
    assert list((repository.root / ".staging").iterdir()) == []


def test_what_is_wrong_changes_nothing(repository: Repository, tmp_path: Path) -> None:
    good = bundle(tmp_path, "m", 1)
    repository.put(good, "m")
    before = repository.version("m")

    damaged = bundle(tmp_path / "damaged", "m", 2)
    (damaged / "specs.json").write_text("{}")
    with pytest.raises(BundleError, match=r"specs\.json"):
        repository.put(damaged, "m")
    with pytest.raises(ConflictError, match=r"'m'.*'other'"):
        repository.put(good, "other")

    assert repository.version("m") == before
    assert repository.names() == ["m"]
    assert list((repository.root / ".staging").iterdir()) == []


def test_a_damaged_bundle_hides_no_other(repository: Repository, tmp_path: Path) -> None:
    for name in ("a", "b"):
        repository.put(bundle(tmp_path, name), name)
    (repository.root / "a" / "specs.json").unlink()
    (repository.root / "dangling").symlink_to("nowhere")
    (repository.root / "a_file").touch()
    assert repository.get("b").name == "b"
    with pytest.raises(BundleError, match=r"lacks specs\.json"):
        repository.get("a")
    with pytest.raises(BundleError):
        repository.get("dangling")
    repository.put(tmp_path / "a", "a")
    assert repository.get("a").name == "a"


def test_files_stay_while_they_are_read(repository: Repository, tmp_path: Path) -> None:
    repository.put(bundle(tmp_path / "0", "m", 0), "m")
    with repository.reading("m") as held:
        first = value(held)
        for number in range(1, 4):
            repository.put(bundle(tmp_path / str(number), "m", number), "m")
        repository.sweep()
        repository.delete("m")
        assert value(held) == first
    repository.sweep()
    assert versions(repository, "m") == []


def test_an_error_of_the_reader_is_the_readers(repository: Repository, tmp_path: Path) -> None:
    repository.put(bundle(tmp_path, "m"), "m")
    with pytest.raises(FileNotFoundError), repository.reading("m") as held:
        (held.path / "absent").read_bytes()
    with pytest.raises(FileNotFoundError), repository.staging() as folder:
        (folder / "absent").read_bytes()
    with pytest.raises(NotFoundError), repository.reading("n"):
        pass


def test_the_archive_holds_the_bundle(repository: Repository, tmp_path: Path) -> None:
    repository.put(bundle(tmp_path, "m"), "m")
    with repository.reading("m") as held:
        archive = repository.archive(held)
        assert repository.archive(held) == archive
    with tarfile.open(archive) as tar:
        assert {"m", "m/1/model.onnx", "m/bundle.json"} <= set(tar.getnames())
    assert repository.names() == ["m"]


def test_sweep_removes_what_the_dead_left_and_nothing_else(
    repository: Repository, tmp_path: Path
) -> None:
    repository.put(bundle(tmp_path, "m"), "m")
    (repository.root / ".staging" / "dead" / "m").mkdir(parents=True)
    (repository.root / ".versions" / "m.0000" / "m").mkdir(parents=True)
    (repository.root / ".versions" / "gone.0000").mkdir()
    with repository.staging() as alive:
        Repository(repository.root).sweep()
        assert list((repository.root / ".staging").iterdir()) == [alive]
    assert len(versions(repository, "m")) == 1
    assert versions(repository, "gone") == []
    assert repository.get("m").name == "m"


@pytest.mark.hostile("1,100 nested folders")
def test_what_somebody_nested_or_locked_is_swept_too(repository: Repository) -> None:
    for folder in (".staging/dead", ".versions/m.0000"):
        (repository.root / folder / "m").mkdir(parents=True)
        nest(repository.root / folder / "m")
        (repository.root / folder / "m").chmod(0)
    repository.sweep()
    assert list((repository.root / ".staging").iterdir()) == []
    assert versions(repository, "m") == []


def test_a_folder_that_can_not_be_removed_keeps_no_other(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abc":
        (repository.root / ".staging" / name).mkdir()

    def refuse(path: Path) -> None:
        if path.name == "b":
            raise OSError(errno.EBUSY, "Device or resource busy")
        remove_tree(path)

    monkeypatch.setattr("mlaas4hep.models.repository.remove_tree", refuse)
    repository.sweep()
    assert [p.name for p in (repository.root / ".staging").iterdir()] == ["b"]


def test_readers_see_the_old_or_the_new_one(repository: Repository, tmp_path: Path) -> None:
    sources = [bundle(tmp_path / str(number), "m", number) for number in range(3)]
    allowed = {value(Bundle.open(source)) for source in sources}
    repository.put(sources[0], "m")
    done = threading.Event()
    problems: list[BaseException] = []
    reads = 0

    def read() -> None:
        nonlocal reads
        try:
            while not done.is_set():
                with repository.reading("m") as held:
                    assert value(held) in allowed
                assert repository.get("m").name == "m"
                reads += 1
        except BaseException as error:
            problems.append(error)

    def write(source: Path) -> None:
        try:
            for _ in range(8):
                repository.put(source, "m")
        except BaseException as error:
            problems.append(error)

    readers = [threading.Thread(target=read) for _ in range(2)]
    writers = [threading.Thread(target=write, args=(source,)) for source in sources]
    for thread in [*readers, *writers]:
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    for thread in readers:
        thread.join()
    assert problems == []
    assert reads > 0
    assert len(versions(repository, "m")) <= 3


PUT_FOREVER = """
import sys
from pathlib import Path
from mlaas4hep.models.repository import Repository
repository = Repository(Path(sys.argv[1]))
print("ready", flush=True)
while True:
    for source in sys.argv[2:]:
        repository.put(Path(source), "m")
"""


def test_a_kill_leaves_the_old_or_the_new_one(repository: Repository, tmp_path: Path) -> None:
    sources = [bundle(tmp_path / str(number), "m", number) for number in range(2)]
    allowed = {value(Bundle.open(source)) for source in sources}
    repository.put(sources[0], "m")
    for moment in range(6):
        process = subprocess.Popen(
            [sys.executable, "-c", PUT_FOREVER, repository.root, *sources],
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        time.sleep(0.003 * moment)
        process.send_signal(signal.SIGKILL)
        process.wait(240)
        process.stdout.close()
        assert value(repository.get("m")) in allowed
        Bundle.open(repository.get("m").path, verify=True)
        repository.sweep()
        assert len(versions(repository, "m")) == 1
        assert list((repository.root / ".staging").iterdir()) == []
        repository.put(sources[1], "m")

import io
import resource
import tarfile
import threading
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

from mlaas4hep.core.errors import (
    ArchiveError,
    ConflictError,
    LimitError,
    MlaasError,
    NotFoundError,
    UsageError,
)
from mlaas4hep.core.files import remove_tree
from mlaas4hep.jobs.database import Counter, Folder
from support.service import Service, packed, small_files

HOSTILE = [
    "../x", "..", ".", "", "/etc", "a/b", "a b", "luca;rm -rf ~", "$(id)", "`id`", "a\nb", "a\0b",
    "Luçà", "моя", "a-b", "a.b", "x" * 101, "x" * 300, "-rf", "*",
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_refused_and_touch_nothing(service: Service, name: str) -> None:
    with pytest.raises(UsageError, match="can't be used"):
        service.folders.upload(name)
    with pytest.raises(NotFoundError):
        service.folders.delete(name)
    assert list(service.settings.uploads.iterdir()) == []


@pytest.mark.parametrize("name", ["luca", "luca_1", "a_b_3", "1", "_", "x" * 100])
def test_names_with_letters_digits_and_underscores(service: Service, name: str) -> None:
    service.upload(name)
    assert [folder.name for folder in service.folders.all()] == [name]


@pytest.mark.parametrize("top", ["folder/", "./folder/", "", "./"])
@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_the_top_folder_is_the_content(service: Service, top: str, mode: str) -> None:
    files = {"a.txt": b"1", "deep/b.txt": b"22"}
    folder = service.upload_archive("luca", packed(files, top, mode))
    root = service.folders.path(folder.version)
    assert (root / "a.txt").read_bytes() == b"1"
    assert (root / "deep/b.txt").read_bytes() == b"22"
    assert (folder.files, folder.size) == (2, 3)
    assert [p.name for p in root.parent.iterdir()] == ["files"]


def hostile(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        good = tarfile.TarInfo("folder/good.txt")
        tar.addfile(good, io.BytesIO())
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, target
        tar.addfile(info, io.BytesIO())
    return stream.getvalue()


@pytest.mark.parametrize(
    "archive",
    [
        hostile("../evil"),
        hostile("/tmp/evil"),
        hostile("folder/link", tarfile.SYMTYPE, "/etc/passwd"),
        hostile("folder/hard", tarfile.LNKTYPE, "folder/good.txt"),
        hostile("folder/device", tarfile.CHRTYPE),
        hostile("folder/pipe", tarfile.FIFOTYPE),
        packed(small_files())[:-40],
        b"no archive at all",
        b"",
        packed({}),
    ],
)
def test_hostile_archives_leave_the_folder_as_it_was(service: Service, archive: bytes) -> None:
    before = service.upload("luca", {"a.txt": b"1"})
    with pytest.raises(ArchiveError):
        service.upload_archive("luca", archive)
    assert service.folders.get("luca").version == before.version
    assert [p.name for p in service.settings.uploads.iterdir()] == [before.version]
    assert not Path("/tmp/evil").exists()


def test_limits_of_an_unpacked_folder(tmp_path: Path) -> None:
    service = Service(tmp_path / "store", max_folder_bytes=1000, max_folder_files=3)
    with pytest.raises(LimitError, match=r"1000 bytes unpacked.*max_folder_bytes"):
        service.upload("luca", {"zeros": bytes(1001)})
    with pytest.raises(LimitError, match=r"more than 3.*max_folder_files"):
        service.upload("luca", {f"{i}.txt": b"" for i in range(4)})
    assert list(service.settings.uploads.iterdir()) == []


def test_all_folders_of_one_user_are_limited_together(tmp_path: Path) -> None:
    service = Service(tmp_path / "store", max_user_folders_bytes=1000)
    service.upload("a", {"x": bytes(600)})
    with pytest.raises(
        LimitError, match=r"'b' has 500 .* 600 .* is 1000 .*max_user_folders"
    ) as caught:
        service.upload("b", {"x": bytes(500)})
    assert "DELETE /folders/" in caught.value.remedy
    assert [folder.name for folder in service.folders.all()] == ["a"]
    assert len(list(service.settings.uploads.iterdir())) == 1
    service.upload("a", {"x": bytes(900)})  # one's own folder is replaced, not added
    with service.database.write() as session:
        session.get_one(Folder, "a").owner = "somebody else"
    service.upload("b", {"x": bytes(1000)})


def test_a_second_upload_replaces_the_first_wholly(service: Service) -> None:
    first = service.upload("luca", {"a.txt": b"1", "old.txt": b""})
    second = service.upload("luca", {"a.txt": b"2"})
    root = service.folders.path(second.version)
    assert [(p.name, p.read_bytes()) for p in root.iterdir()] == [("a.txt", b"2")]
    assert not (service.settings.uploads / first.version).exists()
    assert len(service.folders.all()) == 1


def test_uploads_of_one_name_at_the_same_time_leave_one(service: Service) -> None:
    failures: list[BaseException] = []

    def upload(number: int) -> None:
        try:
            service.upload("luca", {f"{number}.txt": b""})
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=upload, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    service.folders.sweep()
    [folder] = service.folders.all()
    assert [p.name for p in service.settings.uploads.iterdir()] == [folder.version]
    assert folder.files == 1


def test_a_sweep_leaves_an_upload_on_its_way_alone(service: Service) -> None:
    with service.folders.upload("luca") as upload:
        upload.archive.write_bytes(packed(small_files()))
        service.folders.sweep()
        (upload.archive.parent / "files").mkdir()  # as just before the row is written
        service.folders.sweep()
        (upload.archive.parent / "files").rmdir()
        upload.finish()
    assert service.folders.path(service.folders.get("luca").version).is_dir()


def test_a_sweep_looks_again_when_it_has_the_lock(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = service.upload("luca")
    needed = service.folders._needed
    first = iter([False])  # the answer from before the upload's row was committed
    monkeypatch.setattr(service.folders, "_needed", lambda v: next(first, True) and needed(v))
    service.folders.sweep()
    assert service.folders.path(folder.version).is_dir()


def test_a_folder_in_use_is_not_deleted(service: Service) -> None:
    service.upload("luca", small_files("hang"))
    job = service.submit("luca")
    for started in (False, True):
        if started:
            service.until(job, condition=lambda job: job.state == "running")
        with pytest.raises(ConflictError, match="in use by the job luca_1"):
            service.folders.delete("luca")
        with pytest.raises(ConflictError, match="in use by the job luca_1"):
            service.folders.delete_specs("luca")
    service.queue.cancel("luca_1")
    service.run(job)
    service.folders.delete("luca")
    assert service.folders.all() == []
    assert list(service.settings.uploads.iterdir()) == []


def test_delete_specs_removes_specs_and_nothing_else(service: Service) -> None:
    files = small_files() | {"global-specs.json": b"{}", "specs-a.json": b"{}", "myspecs.py": b""}
    folder = service.upload("luca", files)
    assert service.folders.delete_specs("luca") == ["global-specs.json", "specs-a.json"]
    left = {p.name for p in service.folders.path(folder.version).iterdir()}
    assert left == set(small_files()) | {"myspecs.py"}


def test_an_unknown_folder_names_the_nearest(service: Service) -> None:
    service.upload("luca")
    with pytest.raises(NotFoundError) as caught:
        service.folders.get("lucca")
    assert "'luca'" in caught.value.remedy


def test_a_full_disk_is_said_and_leaves_nothing(service: Service, small_disk: None) -> None:
    with pytest.raises((MlaasError, OSError), match=r"can't be unpacked|File too large"):
        service.upload("luca", {"big.bin": bytes(3_000_000)})
    assert list(service.settings.uploads.iterdir()) == []
    assert service.folders.all() == []


@pytest.fixture
def small_disk() -> object:
    """No file may grow beyond 1 MB in this process: what a full disk looks like to a writer."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.hostile("full disk: DELETE answers 503")
def test_a_folder_is_deleted_though_the_journal_has_no_room(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full for this process until the folder's files are gone."""
    version = service.upload("luca").version
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    rows = []

    def make_room(path: Path) -> None:
        remove_tree(path)
        rows.append(len(service.folders.all()))
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

    monkeypatch.setattr("mlaas4hep.jobs.folders.remove_tree", make_room)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, before[1]))
    try:
        with pytest.raises(OperationalError), service.database.write() as session:
            session.add(Counter(name="a", last=0))
        service.folders.delete("luca")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert rows == [1]  # the files went first, then the row
    assert service.folders.all() == []
    assert not (service.settings.uploads / version).exists()
    assert list(service.settings.uploads.iterdir()) == []


def test_a_full_disk_spares_a_folder_in_use(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = service.upload("luca")
    service.submit("luca")
    with pytest.raises(ConflictError, match="in use"):
        service.folders._vacate("luca", folder.version)
    assert service.folders.path(folder.version).is_dir()


@pytest.mark.hostile("chmod 0 leaves data")
def test_what_a_training_locked_goes_with_its_folder(service: Service) -> None:
    folder = service.upload("luca")
    home = service.folders.path(folder.version)
    (home / "locked/deep").mkdir(parents=True)
    (home / "locked/deep/big").write_bytes(bytes(1000))
    for locked in (home / "locked/deep", home / "locked", home, home.parent):
        locked.chmod(0)
    service.folders.delete("luca")
    assert list(service.settings.uploads.iterdir()) == []


def test_a_name_is_its_first_owners(service: Service) -> None:
    upload(service, "luca", "user:alice")
    with pytest.raises(ConflictError, match="'luca' belongs to another user"):
        service.folders.upload("luca", "user:bob")
    service.folders.delete("luca", "user:alice")
    with pytest.raises(ConflictError, match="'luca' belongs to another user"):
        service.folders.upload("luca", "user:bob")
    assert upload(service, "luca", "user:alice").owner == "user:alice"


def test_an_upload_that_fails_takes_no_name(service: Service) -> None:
    with service.folders.upload("luca", "user:alice") as incoming:
        incoming.archive.write_bytes(b"no archive")
        with pytest.raises(MlaasError):
            incoming.finish()
    assert upload(service, "luca", "user:bob").owner == "user:bob"


def test_someone_elses_folder_is_not_there(service: Service) -> None:
    upload(service, "luca", "user:alice")
    upload(service, "mario", "user:bob")
    assert [f.name for f in service.folders.all("user:bob")] == ["mario"]
    assert [f.name for f in service.folders.all()] == ["luca", "mario"]
    for ask in (service.folders.get, service.folders.delete, service.folders.delete_specs):
        with pytest.raises(NotFoundError) as caught:
            ask("luca", "user:bob")  # type: ignore[operator]
        assert "mario" in caught.value.remedy
        assert "luca" not in caught.value.remedy
    assert service.folders.get("luca", "user:alice").owner == "user:alice"


def test_a_folder_of_before_sign_in_is_nobodys(service: Service) -> None:
    upload(service, "luca", "")
    (service.settings.models / ".owners/luca").unlink()  # as of a version without owners
    with pytest.raises(ConflictError, match="belongs to another user"):
        service.folders.upload("luca", "user:alice")
    assert service.folders.all("user:alice") == []


def test_without_sign_in_an_upload_changes_no_owner(service: Service) -> None:
    upload(service, "luca", "user:alice")
    assert upload(service, "luca", "").owner == "user:alice"


def upload(service: Service, name: str, owner: str) -> Folder:
    with service.folders.upload(name, owner) as incoming:
        incoming.archive.write_bytes(packed(small_files()))
        return incoming.finish()

from __future__ import annotations

from pathlib import Path

import pytest

from mlaas4hep.core.errors import DataError
from mlaas4hep.sources.names import resolve, split_tree

REDIRECTOR = "root://xrootd-cms.infn.it/"


@pytest.mark.parametrize(
    "url", ["root://host//store/a.root", "http://host/a.root", "https://host/a", "s3://bucket/a"]
)
def test_urls_pass(url: str, tmp_path: Path) -> None:
    assert resolve(url, REDIRECTOR, tmp_path) == url
    assert resolve(url, "", tmp_path) == url


def test_what_exists_here_is_here(tmp_path: Path) -> None:
    file = tmp_path / "in" / "a.root"
    file.parent.mkdir()
    file.touch()
    assert resolve("in/a.root", REDIRECTOR, tmp_path) == str(file)
    assert resolve(str(file), REDIRECTOR, Path("/nowhere")) == str(file)


def test_names_in_the_working_directory_stay_as_they_were_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.root").touch()
    monkeypatch.chdir(tmp_path)
    assert resolve("a.root", REDIRECTOR, Path.cwd()) == "a.root"


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("/store/user/a.root", "root://xrootd-cms.infn.it//store/user/a.root"),
        ("store/user/a.root", "root://xrootd-cms.infn.it//store/user/a.root"),
        ("a.root", "root://xrootd-cms.infn.it//a.root"),
    ],
)
def test_the_redirector_prefixes_what_is_not_here(name: str, address: str, tmp_path: Path) -> None:
    assert resolve(name, REDIRECTOR, tmp_path) == address
    assert resolve(name, REDIRECTOR.rstrip("/"), tmp_path) == address


def test_a_web_server_can_be_the_redirector(tmp_path: Path) -> None:
    assert resolve("a.root", "https://host/data/", tmp_path) == "https://host/data/a.root"


@pytest.mark.parametrize("redirector", ["", REDIRECTOR])
@pytest.mark.parametrize("name", ["/data/none.root", "/storey/none.root"])
def test_an_absolute_missing_path_is_an_error_at_once(
    name: str, redirector: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=f"no such file: {name}"):
        resolve(name, redirector, tmp_path)


@pytest.mark.parametrize("name", ["none.root", "/store/none.root", "x" * 5000])
def test_without_redirector_the_remedy_names_it(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file") as error:
        resolve(name, "", tmp_path)
    assert "redirector" in error.value.remedy


@pytest.mark.parametrize("redirector", ["", REDIRECTOR])
@pytest.mark.parametrize(
    ("name", "why", "remedy"),
    [
        ("sig*.root", "wildcards are not expanded", "List the files"),
        ("/data/sig[12].root", "wildcards are not expanded", "List the files"),
        ("store/a?.root", "wildcards are not expanded", "List the files"),
    ],
)
def test_names_that_are_no_files(
    name: str, why: str, remedy: str, redirector: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="no such file: ") as error:
        resolve(name, redirector, tmp_path)
    assert why in error.value.message
    assert name in error.value.message
    assert remedy in error.value.remedy


@pytest.mark.parametrize(
    ("name", "file", "tree"),
    [
        ("a.root:TreeS", "a.root", "TreeS"),
        ("/data/a.root:dir/sub/Events", "/data/a.root", "dir/sub/Events"),
        ("a.root:Events;2", "a.root", "Events;2"),
        ("DAOD.pool.root.1:CollectionTree", "DAOD.pool.root.1", "CollectionTree"),
        ("C:\\data\\a.root:Events", "C:\\data\\a.root", "Events"),
        ("odd:name.root:Events", "odd:name.root", "Events"),
        ("a.root:b.root:Events", "a.root:b.root", "Events"),
        ("root://host:1094//store/a.root:Events", "root://host:1094//store/a.root", "Events"),
        ("https://host.root:8443/a.root:Events", "https://host.root:8443/a.root", "Events"),
        ("C:\\data\\a.root", "C:\\data\\a.root", ""),
        ("root://host.root:1094//store/a.root", "root://host.root:1094//store/a.root", ""),
        ("https://host.root:8443/a.root", "https://host.root:8443/a.root", ""),
        ("a.root:", "a.root:", ""),
        ("labels.txt:Events", "labels.txt:Events", ""),
    ],
)
def test_a_file_and_its_tree(name: str, file: str, tree: str) -> None:
    assert split_tree(name) == (file, tree)


def test_the_tree_goes_with_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.root").touch()
    assert resolve("a.root:dir/t", "", tmp_path) == f"{tmp_path}/a.root:dir/t"
    assert resolve("/store/a.root:t", REDIRECTOR, tmp_path) == f"{REDIRECTOR}/store/a.root:t"
    with pytest.raises(DataError, match=r"no such file: \S+/b\.root\n"):
        resolve("b.root:t", "", tmp_path)


def test_odd_names_of_files_that_exist(tmp_path: Path) -> None:
    for name in ("a*[1].root", "b.root:Events", "c d.root", "~nobody-of-that-name"):
        (tmp_path / name).touch()
        assert resolve(name, REDIRECTOR, tmp_path) == str(tmp_path / name)


def test_home_and_file_addresses_are_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.root"
    file.touch()
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("~/a.root", f"file:{file}", f"file://{file}", f"file://localhost{file}"):
        assert resolve(name, REDIRECTOR, Path("/nowhere")) == str(file)
    with pytest.raises(DataError, match=f"no such file: {tmp_path}/none.root"):
        resolve("~/none.root", REDIRECTOR, Path("/nowhere"))

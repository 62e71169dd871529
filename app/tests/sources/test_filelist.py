"""The shapes are those that the programs write: see the docstrings of filelist.py."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from mlaas4hep.core.errors import UsageError
from mlaas4hep.sources import filelist
from mlaas4hep.sources.filelist import Content, Listed, read_list

A, B = "root://a.cern.ch:1094//store/a.root", "root://b.infn.it//store/b.root"
STEPS = {"object_path": "Events", "steps": [[0, 60], [60, 100]], "num_entries": 100, "uuid": "u"}


def read(folder: Path, content: Any, name: str = "list.json") -> Content:
    path = folder / name
    text = content if isinstance(content, str | bytes) else json.dumps(content)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_list(path, name)


def names(content: Content) -> list[str]:
    return [file.name for file in content.files]


@pytest.mark.parametrize(
    "text",
    [
        '{"ds": {"files": {"a.root": {"object_path": "T", "steps": {"a": 1}}}}}',
        '{"ds": {"files": {"a.root": {"object_path": "T", "steps": [[0, 1], 2]}}}}',
        '{"name": "a.root", "pfns": {"root://h//a.root": {"rse": []}}}',
        "[" + "1" * 5000 + "]",
    ],
)
def test_json_of_another_shape_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "list.json").write_text(text)
    with pytest.raises(UsageError, match=r"list\.json"):
        read_list(tmp_path / "list.json", "list.json")


def test_a_name_per_line(tmp_path: Path) -> None:
    found = read(tmp_path, f"\ufeff# of DAS\r\n/store/b.root\r\n\r\n  {A} \n", "das.txt")
    assert found.files == [
        Listed("/store/b.root", "line 2 of das.txt"),
        Listed(A, "line 4 of das.txt"),
    ]


def test_a_list_that_begins_like_a_root_file(tmp_path: Path) -> None:
    assert names(read(tmp_path, f"{A}\n{B}\n")) == [A, B]


@pytest.mark.parametrize(
    ("fileset", "wanted"),
    [
        ({"TT": [A], "QCD": [B, "c.root"]}, [A, B, "c.root"]),
        ({"TT": {"files": [A]}, "QCD": {"files": [B, "c.root"]}}, [A, B, "c.root"]),
        (
            {"TT": {"treename": "T", "files": [A]}, "QCD": {"files": {B: "T", "c.root": None}}},
            [f"{A}:T", f"{B}:T", "c.root"],
        ),
        (
            {"TT": {"files": {A: STEPS}}, "QCD": {B: "Events", "c.root": {"object_path": "d/T"}}},
            [f"{A}:Events", f"{B}:Events", "c.root:d/T"],
        ),
    ],
)
def test_filesets_of_coffea(tmp_path: Path, fileset: Any, wanted: list[str]) -> None:
    for content in (fileset, gzip.compress(json.dumps(fileset).encode())):
        found = read(tmp_path, content)
        assert names(found) == wanted
        assert [file.dataset for file in found.files] == ["TT", "QCD", "QCD"]


def test_what_a_fileset_says_of_files_and_datasets(tmp_path: Path) -> None:
    about = {"metadata": {"xsec": 831.8, "isMC": True}, "year": "2018"}
    found = read(tmp_path, {"TT": {"files": {A: STEPS}, "form": "long", **about}})
    assert found.files == [
        Listed(f"{A}:Events", "the dataset 'TT' of list.json", "TT", entries=100, uuid="u")
    ]
    assert found.metadata == {"TT": about}


def test_files_of_uproot_without_datasets(tmp_path: Path) -> None:
    found = read(tmp_path, {A: "Events", "b.root": {"object_path": "T", "steps": [0, 10, 20]}})
    assert names(found) == [f"{A}:Events", "b.root:T"]
    assert [(file.dataset, file.entries) for file in found.files] == [("", None), ("", 20)]


def replicas(name: str, **pfns: Any) -> dict[str, Any]:
    """A file as Rucio's server answers; the keys of ``pfns`` are hosts."""
    return {
        "scope": "mc16_13TeV",
        "name": name,
        "bytes": 162088,
        "adler32": "e2e05678",
        "md5": None,
        "pfns": {
            f"{about.pop('scheme', 'root')}://{host}//rucio/{name}": {
                "rse_id": "8c", "rse": f"{host}_DISK", "type": "DISK", "volatile": False,
                "domain": "wan", "client_extract": False, **about,
            }
            for host, about in pfns.items()
        },
        "rses": {},
    }  # fmt: skip


def test_replicas_of_rucio(tmp_path: Path) -> None:
    """By priority, tape last; a protocol that can't be read and a site that is down are left out.

    One object per line, as the server answers, or a list of them, as its Python client does.
    """
    first = replicas(
        "a.root",
        far={"priority": 3},
        tape={"priority": 1, "type": "TAPE"},
        near={"priority": 2, "scheme": "davs"},
        srm={"priority": 1, "scheme": "srm"},
        down={"priority": 1},
        zip={"priority": 1, "client_extract": True},
    ) | {"states": {"down_DISK": "UNAVAILABLE", "far_DISK": "AVAILABLE"}}
    second = replicas("b.root", only={"priority": 1})
    for content in ([first, second], "\n".join(map(json.dumps, (first, second))) + "\n"):
        found = read(tmp_path, content)
        assert found.files == [
            Listed(
                "davs://near//rucio/a.root",
                "entry 1 of list.json",
                replicas=("root://far//rucio/a.root", "root://tape//rucio/a.root"),
                bytes=162088,
            ),
            Listed("root://only//rucio/b.root", "entry 2 of list.json", bytes=162088),
        ]
    assert names(read(tmp_path, second)) == ["root://only//rucio/b.root"]


def test_replicas_by_site_alone(tmp_path: Path) -> None:
    (one,) = read(tmp_path, [{"name": "a.root", "rses": {"CERN": [A], "INFN": [B]}}]).files
    assert (one.name, one.replicas) == (A, (B,))
    (one,) = read(tmp_path, [{"name": "a.root", "pfns": [A, B]}]).files
    assert (one.name, one.replicas) == (A, (B,))


def test_files_of_a_bundle(tmp_path: Path) -> None:
    record = {"name": "a.root", "uuid": "u", "size": 9, "entries": 3, "tree": "T"}
    found = read(
        tmp_path,
        [
            record | {"label": "1"},
            record | {"name": f"{A}:T", "label": "s", "dataset": "TT", "replicas": [B]},
            record | {"size": None, "name": "c.root", "label": None},
        ],
    )
    assert [
        (one.name, one.dataset, one.replicas, one.entries, one.bytes, one.uuid)
        for one in found.files
    ] == [
        ("a.root:T", "1", (), 3, 9, "u"),
        (f"{A}:T", "TT", (B,), 3, 9, "u"),
        ("c.root:T", "", (), 3, None, "u"),
    ]


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("\n# nothing\n", "list.json names nothing"),
        (b"\xff\xfe\0", "list.json is not a ROOT file, nor a text: .*0xff"),
        (b"\x1f\x8b\x08nonsense", "list.json is not a ROOT file, nor a text"),
        ("<!doctype html><html>", "list.json is HTML or XML, .* begins with '<!doctype"),
        ("{", "list.json begins like JSON, but isn't: .*line 1 column 2"),
        ('{"name": "a", "pfns": {}}\nb.root\n', "line 2 of list.json is not JSON"),
        ("[" * 100_000, "list.json is nested too deeply"),
        ("[]", "list.json names nothing"),
        ("{}", "list.json names nothing"),
        ([1, 2], "entry 1 of list.json is int, which names no file"),
        ([A, {"lfn": "a"}], "entry 2 of list.json is an object with 'lfn'"),
        ('{"TT": ["a.root"], "TT": ["b.root"]}', "list.json has the key 'TT' twice"),
        ({"TT": []}, "the dataset 'TT' of list.json has no files"),
        ({"TT": "a.root"}, "the dataset 'TT' of list.json is an object with 'TT'"),
        ({"TT": ["a.root", 3]}, "the dataset 'TT' of list.json is an object"),
        ({"files": ["a.root"], "metadata": {}}, "list.json is an object with 'files', 'metadata'"),
        ({"a\nb": ["a.root"]}, "no name that can be a label"),
        ({" ": ["a.root"]}, "no name that can be a label"),
        ({"TT": {"https://h/a": "Events"}}, "https://h/a in .*: the tree 'Events' can be named"),
        ({"TT": {"a.root": STEPS | {"steps": [[0, 60]]}}}, "a.root in .* leave out entries of 100"),
        ({"TT": {"a.root": STEPS | {"steps": [[0, 9], [10, 100]]}}}, "its steps leave out"),
        ({"TT": {"a.root": STEPS | {"num_entries": -1}}}, "-1 is no number of entries"),
        ({"TT": {"a.parquet": STEPS | {"format": "parquet"}}}, "is 'parquet', not ROOT"),
        ([replicas("a.root", s={"scheme": "srm"})], "entry 1 of .*: mc16_13TeV:a.root has no rep"),
        ([{"name": "a.root", "pfns": {}}], "a.root has no replica that can be read: none"),
        ([{"name": 7, "pfns": {A: {}}}], "entry 1 of list.json is an object"),
        ([{"name": "a", "pfns": {A: 3}}], "entry 1 of list.json is an object"),
        ([{"name": "a", "pfns": 3}], "entry 1 of list.json is an object"),
    ],
)
def test_what_is_no_list_says_what_it_was_taken_for(
    tmp_path: Path, content: Any, match: str
) -> None:
    with pytest.raises(UsageError, match=match):
        read(tmp_path, content)


@pytest.mark.hostile("a list that fills the memory")
def test_lists_without_an_end_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "sparse.txt").open("wb") as stream:
        stream.write(b"a.root\n")
        stream.truncate(2**40)
    with pytest.raises(UsageError, match=r"sparse\.txt is larger than 64 MB"):
        read_list(tmp_path / "sparse.txt", "sparse.txt")
    with pytest.raises(UsageError, match=r"list\.json is larger than 64 MB"):
        read(tmp_path, gzip.compress(b"a" * (filelist.MOST_BYTES + 1), 1))
    monkeypatch.setattr(filelist, "MOST_FILES", 10)
    with pytest.raises(UsageError, match=r"list\.json names more than 10 files"):
        read(tmp_path, "a.root\n" * 11)
    with pytest.raises(UsageError, match=r"list\.json names more than 10 files"):
        read(tmp_path, ["a.root"] * 11)
    assert len(read(tmp_path, "a.root\n" * 10).files) == 10

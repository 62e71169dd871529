from __future__ import annotations

import json
import os
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from mlaas4hep.core.errors import DataError, UsageError
from mlaas4hep.sources import web
from mlaas4hep.sources.filelist import Listed
from mlaas4hep.sources.listing import list_files


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """data/{b,a10,a9}.root, data/deep/c.root, which begin as ROOT files do, and other files."""
    (tmp_path / "data" / "deep").mkdir(parents=True)
    for name in ("b.root", "a10.root", "a9.root", "deep/c.root", ".hidden.root", "pool.root.1"):
        (tmp_path / "data" / name).write_bytes(b"root\0\1\2")
    (tmp_path / "data" / "notes.txt").write_text("notes\n")
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def names(text: str, folder: Path) -> list[str]:
    return list_files(text, folder, "--files").names


def test_names_joined_by_commas(folder: Path) -> None:
    text = "data/b.root, root://h//b.root,"
    assert names(text, folder) == ["data/b.root", "root://h//b.root"]
    assert names("http://h/a,b", folder) == ["http://h/a", "b"]
    assert names("data/b.root:dir/T", folder) == ["data/b.root:dir/T"]
    assert list_files(text, folder, "--files").source == text


def test_a_root_file_is_a_list_of_one(folder: Path) -> None:
    assert names("data/b.root", folder) == ["data/b.root"]
    assert names("data/pool.root.1", folder) == ["data/pool.root.1"]
    (folder / "with,comma[1].root").touch()
    assert names("with,comma[1].root", folder) == ["with,comma[1].root"]


def test_wildcards_are_sorted_by_name(folder: Path) -> None:
    assert names("data/a*.root", folder) == ["data/a10.root", "data/a9.root"]
    assert names("data/[ab]*.root", folder) == ["data/a10.root", "data/a9.root", "data/b.root"]
    assert names("data/**/?.root", folder) == ["data/b.root", "data/deep/c.root"]
    assert names("data/a?.root:dir/T", folder) == ["data/a9.root:dir/T"]
    assert names(f"file://{folder}/data/a?.root", Path("/")) == [f"{folder}/data/a9.root"]
    assert names("~/data/a?.root", Path("/")) == [f"{folder}/data/a9.root"]


def test_a_folder_is_its_root_files_sorted(folder: Path) -> None:
    wanted = [f"data/{name}.root" for name in ("a10", "a9", "b")]
    assert names("data", folder) == wanted
    assert names("data/", folder) == wanted


def test_a_list_keeps_its_order_and_its_lines_may_be_wildcards(folder: Path) -> None:
    (folder / "files.txt").write_text("data/b.root\ndata/a*.root\nroot://h//c.root\n~/data/deep\n")
    listed = list_files("files.txt", folder, "--files")
    assert listed.files == [
        Listed("data/b.root", "line 1 of files.txt"),
        Listed("data/a10.root", "line 2 of files.txt"),
        Listed("data/a9.root", "line 2 of files.txt"),
        Listed("root://h//c.root", "line 3 of files.txt"),
        Listed(f"{folder}/data/deep/c.root", "line 4 of files.txt"),
    ]
    assert names("~/files.txt", folder) == listed.names


def test_lists_can_be_joined_and_given_one_by_one(folder: Path) -> None:
    (folder / "s.json").write_text(json.dumps({"signal": ["data/b.root"]}))
    (folder / "b.json").write_text(json.dumps({"other": {"files": ["data/a*"], "x": 1}}))
    listed = list_files("s.json,b.json", folder, "--files")
    assert listed.labels == ["signal", "other", "other"]
    assert listed.metadata == {"other": {"x": 1}}
    assert list_files([folder / "s.json", "b.json"], folder, "f").names == listed.names
    mixed = list_files("s.json,data/a9.root", folder, "--files")
    assert (mixed.datasets, mixed.labels) == (["signal", ""], [])


def test_a_list_from_another_command(folder: Path) -> None:
    """What bash's --files <(dasgoclient ...) gives: a pipe, which is read once."""
    reader, writer = os.pipe()
    os.write(writer, b"root://h//a.root\nroot://h//b.root\n")
    os.close(writer)
    assert names(f"/dev/fd/{reader}", folder) == ["root://h//a.root", "root://h//b.root"]
    os.close(reader)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (",", "names nothing"),
        ("none.txt", "no such file: none.txt"),
        ("none.json", "no such file: none.json"),
        ("data/x*.root", "no file matches data/x[*].root\n.* holds .*a10.root"),
        ("none/*.root", "no file matches none/[*].root\n.*There is no folder"),
        ("/store/user/*.root", "no file matches .*\n.*root://HOST//store/user/"),
        ("empty", "the folder empty holds no [*].root"),
        ("C:\\data\\a.root", "is a path of Windows\n.*/mnt/c"),
        ("data/b.root,data/*.root", "it names 'data/b.root' twice"),
        ("data/b.root,data/a9.root,data/b.root", "it names 'data/b.root' twice"),
    ],
)
def test_what_is_wrong_is_named(folder: Path, text: str, match: str) -> None:
    with pytest.raises(UsageError, match=f"--files: .*{match}"):
        names(text, folder)


@pytest.mark.parametrize(
    ("line", "match"),
    [
        (
            "Error: the proxy has expired",
            "'Error: .*expired' is not the name of a file",
        ),
        ("data/b.root,signal", "is not the name of a file"),
        ("root://h//a.root,signal", "is not the name of a file"),
        ("root://h//a.root\t1234\tadler32:1", "is not the name of a file"),
        ("| mc16 | a.root | 1 GB |", "is a line of a table\n.*--pfns"),
        ("\\\\server\\a.root", "is a path of Windows"),
        ("/store/\x07.root", "is not the name of a file"),
        ("data/none*.root", "no file matches"),
        ("empty", "the folder empty holds no"),
        ("data/notes.txt", "data/notes.txt is a list in a list"),
        ("/store/7.root", "it names '/store/7.root' twice: line 8 of das.txt and line 1000 of"),
    ],
)
def test_one_odd_line_of_a_thousand(folder: Path, line: str, match: str) -> None:
    lines = [f"/store/{number}.root" for number in range(1000)]
    lines[999] = line
    (folder / "das.txt").write_text("\n".join(lines))
    where = "" if "twice" in match else "line 1000 of das.txt: .*"
    with pytest.raises(UsageError, match=f"--files: {where}{match}"):
        names("das.txt", folder)


def test_a_csv_is_no_list(folder: Path) -> None:
    (folder / "events.csv").write_text("pt,eta\n1,2\n")
    with pytest.raises(UsageError, match=r"line 1 of events\.csv: 'pt,eta' is not the name"):
        names("events.csv", folder)


def test_what_is_said_of_one_file_can_not_be_of_several(folder: Path) -> None:
    (folder / "f.json").write_text(
        json.dumps({"a": {"data/*.root": {"object_path": "T", "num_entries": 3}}})
    )
    with pytest.raises(UsageError, match="described as one file, but names several"):
        names("f.json", folder)


def test_a_folder_of_a_web_server_that_sends_a_page_of_links(tmp_path: Path) -> None:
    (tmp_path / "data/deep").mkdir(parents=True)
    for name in ("b.root", "a b&c.root", "it's.root", "._b.root", "deep/c.root", "notes.txt"):
        (tmp_path / "data" / name).touch()
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        folder = f"http://127.0.0.1:{server.server_port}/data/"
        try:
            assert list_files(folder, tmp_path, "--files").names == [
                f"{folder}a%20b%26c.root",
                f"{folder}b.root",
                f"{folder}it%27s.root",
            ]
            with pytest.raises(DataError, match="/none/ can't be listed: there is none"):
                list_files(f"{folder}none/", tmp_path, "--files")
            (tmp_path / "data/index.html").write_text("<a " * 300_000)  # no quadratic search
            with pytest.raises(UsageError, match="It is empty"):
                list_files(folder, tmp_path, "--files")
        finally:
            server.shutdown()


def test_the_query_of_a_folder_is_each_file_s(tmp_path: Path) -> None:
    """Such as a token; a star in it is no wildcard."""
    asked = []

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            super().do_GET()

    for name in ("a.root", "b.root"):
        (tmp_path / name).touch()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(tmp_path))) as server:
        threading.Thread(target=server.serve_forever).start()
        host = f"http://127.0.0.1:{server.server_port}"
        try:
            query = "?authz=a/b*"
            assert names(f"{host}/{query}", tmp_path) == [
                f"{host}/a.root{query}",
                f"{host}/b.root{query}",
            ]
            assert asked == [f"/{query}"]
            assert names(f"{host}/b*.root{query}", tmp_path) == [f"{host}/b.root{query}"]
            assert names(f"{host}/c.root{query}", tmp_path) == [f"{host}/c.root{query}"]
        finally:
            server.shutdown()


@pytest.mark.parametrize(
    "name", ["data.root?x.root", "sub/x.root", "a.root:b.root", "a\nb.root", "a#b.root", "a b.root"]
)
@pytest.mark.parametrize("scheme", ["root", "s3"])
def test_names_on_a_server_that_no_url_can_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str, name: str
) -> None:
    """They would name another file, or a tree of one; where they aren't meant they don't matter."""
    monkeypatch.setattr("mlaas4hep.sources.opening.list_folder", lambda _: ["data.root", name])
    with pytest.raises(UsageError, match="has a file that no URL can name: ") as error:
        names(f"{scheme}://h/data/", tmp_path)
    assert repr(name) in error.value.message
    assert names(f"{scheme}://h/data/da*a.root", tmp_path) == [f"{scheme}://h/data/data.root"]


def test_links_as_servers_write_them() -> None:
    page = """<A class="x>1" HREF='a.root'>a</A> <a href="b c.root"> <a href=d.root>
    <a href="a%2Eroot"><a href="it's.root"><a href="?C=N;O=D"><a href="/data/">
    <a href="../x.root"><a href="deep/"><a href="http://other/data/y.root">
    <a href="http://[x/"><a data-href="no.root">"""
    folder = "http://here/data/"
    found = web._names(folder, web._linked(folder, page))
    assert found == ["a.root", "b%20c.root", "d.root", "it's.root"]


def test_members_as_servers_write_them() -> None:
    answer = """<D:multistatus xmlns:D="DAV:">{}</D:multistatus>"""
    member = "<D:response><D:href>{}</D:href>{}</D:response>"
    files = ["http://in.side:80/data/a.root", "/data/cut&amp;para=1.root", "//data/n#1.root"]
    folder = (
        "<D:propstat><D:prop><D:resourcetype><D:collection/></D:resourcetype></D:prop></D:propstat>"
    )
    said = answer.format(
        "".join(member.format(f, "") for f in files) + member.format("/data/d", folder)
    )
    found = web._names("https://here/data/", web._members(said))
    assert found == ["a.root", "cut&para=1.root", "n%231.root"]
    full = member.format("/data/", "<D:status>HTTP/1.1 507 Insufficient Storage</D:status>")
    with pytest.raises(OSError, match="a part of it only"):
        web._members(answer.format(full))

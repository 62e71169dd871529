from __future__ import annotations

import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mlaas4hep.core.errors import UsageError
from mlaas4hep.training.inputs import read_files_option, read_labels_option
from mlaas4hep.training.library import open_data
from sources.test_remote import RangeHandler
from training.root_files import two


def test_files_are_read_by_listing(tmp_path: Path) -> None:
    (tmp_path / "files.txt").write_text("# signal\na.root\n\n  /store/b.root \r\n#c.root\n")
    listed = read_files_option("files.txt", tmp_path)
    assert listed.names == ["a.root", "/store/b.root"]
    assert read_files_option(listed, tmp_path) is listed


def test_labels(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("1\n0\n0\n")
    assert read_labels_option("labels.txt", tmp_path) == ["1", "0", "0"]
    assert read_labels_option("sig,bkg", tmp_path) == ["sig", "bkg"]
    assert read_labels_option("Type", tmp_path) == ["Type"]


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    for text in ("", " "):
        with pytest.raises(UsageError, match="--files is empty"):
            read_files_option(text, tmp_path)
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\0")
    for text, match in (("none.txt", "no such file"), ("bytes.txt", "is not a text file")):
        with pytest.raises(UsageError, match=f"--labels: .*{match}"):
            read_labels_option(text, tmp_path)


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    handler = type("Handler", (RangeHandler,), {"folder": tmp_path})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as web:
        threading.Thread(target=web.serve_forever).start()
        yield f"http://127.0.0.1:{web.server_port}"
        web.shutdown()


def test_one_set_named_each_way_is_one_matrix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, web: str
) -> None:
    """Two files, here and on a web server, by each form: the rows and classes are the same."""
    store = tmp_path / "store"
    store.mkdir()
    two(store)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    names = "store/background.root", "store/signal.root"
    urls = [f"{web}/{name}" for name in names]

    def written(name: str, content: object) -> str:
        text = content if isinstance(content, str) else json.dumps(content)
        (tmp_path / name).write_text(text)
        return name

    tree = {"object_path": "Events"}
    replicas = [{"name": url[-9:], "pfns": {url: {"priority": 1}}} for url in urls]
    with open_data(names, PATTERNS) as data:
        bundle = [
            record.to_json() | {"label": label}
            for record, label in zip(data.specs.files, ("b", "s"), strict=True)
        ]
    labelled = [
        ",".join(names),
        ",".join(f"~/{name}" for name in names),
        ",".join(f"file://{tmp_path}/{name}" for name in names),
        ",".join(f"{name}:Events" for name in names),
        "store",
        "store/*.root",
        ",".join(urls),
        written("files.txt", "\n".join(names)),
        written("open_data.txt", "\n".join(urls)),  # as cernopendata-client prints
        written("das.txt", "".join(f"/{name}\n" for name in names)),  # as dasgoclient
        written("rucio.txt", "\n".join(urls)),  # by --pfns
        written("rucio.json", replicas),
        written("rucio.ndjson", "\n".join(map(json.dumps, replicas))),
    ]
    datasets = [
        written("lists.json", {"b": names[:1], "s": names[1:]}),
        written("trees.json", {"b": {"files": {urls[0]: "Events"}}, "s": {names[1]: None}}),
        written("steps.json", {
            "b": {"files": {names[0]: tree | {"steps": [[0, 400], [400, 900]]}}},
            "s": {"files": {urls[1]: tree | {"num_entries": 600}}, "metadata": {"xsec": 1.5}},
        }),
        written("bundle.json", bundle),
    ]  # fmt: skip
    asked = [(text, PATTERNS) for text in labelled] + [(text, "") for text in datasets]
    found = {text: matrix(text, labels, web) for text, labels in asked}
    assert len(set(found.values())) == 1, found
    assert matrix("store/signal.root,store/background.root", PATTERNS, web) not in found.values()


PATTERNS = "*background*=0,*signal*=1"


def matrix(files: str, labels: str, redirector: str) -> str:
    """sha256 of all rows with their classes, weights, parts and entries."""
    digest = hashlib.sha256()
    weights = {"*background*": 2, "*signal*": 0.5}
    with open_data(
        files, labels, {"redirector": redirector, "weights": {"files": weights}}
    ) as data:
        for rows in data.rows():
            for each in (rows.x, rows.mask, rows.y, rows.w, rows.part, rows.entry):
                digest.update(np.ascontiguousarray(each).tobytes())
    return digest.hexdigest()

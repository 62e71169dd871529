"""The whole main job with real processes, as ``make demo`` runs it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import awkward as ak
import numpy as np
import psutil
import pytest
import uproot

from mlaas4hep.demo.simulate import collisions, write

DEMO = [sys.executable, "-m", "mlaas4hep.cli.main", "demo"]


def listening() -> set[int]:
    """Ports on which a Python process of ours listens."""
    return {
        c.laddr.port for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN
    }  # fmt: skip


def processes_of(folder: Path) -> list[list[str]]:
    """Command lines of processes that work below ``folder``."""
    found = []
    for process in psutil.process_iter(["cmdline", "pid"]):
        line = process.info["cmdline"] or []
        if process.pid != os.getpid() and any(str(folder) in part for part in line):
            found.append(line)
    return found


def run(folder: Path, *options: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*DEMO, f"--folder={folder}", *map(str, options)], capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    before = listening()
    ended = run(folder)
    return folder, ended, before


def test_the_demo_ends_with_a_good_auc(demo):
    _, ended, _ = demo
    assert ended.returncode == 0, ended.stderr
    found = re.search(r"(\d+) events, AUC (\d\.\d+)", ended.stdout)
    assert found is not None
    assert int(found[1]) == 10_000
    assert float(found[2]) > 0.8
    assert "training    100 %" in ended.stderr


def test_it_says_where_things_are_and_they_are_there(demo):
    folder, ended, _ = demo
    for line in ("Bundle", "ROC curve", "Report page"):
        path = Path(re.search(rf"^{line} +(\S+)$", ended.stdout, re.M)[1])
        assert path.exists()
        assert path.is_relative_to(folder)
    assert "Try next" in ended.stdout


def test_it_leaves_no_process_and_no_port(demo):
    folder, ended, before = demo
    assert processes_of(folder) == []
    url_ports = {int(p) for p in re.findall(r"http://127\.0\.0\.1:(\d+)", ended.stdout)}
    assert len(url_ports) == 2
    assert not url_ports & (listening() - before)


def test_the_bundle_knows_where_it_is_from(demo):
    folder, ended, _ = demo
    bundle = Path(re.search(r"^Bundle +(\S+)$", ended.stdout, re.M)[1])
    files = json.loads((bundle / "provenance/files.json").read_text())
    uuids = [str(uproot.open(folder / f"{n}.root").file.uuid) for n in ("signal", "background")]
    assert [f["uuid"] for f in files] == uuids


def test_ctrl_c_while_it_trains_leaves_no_process_and_no_port(tmp_path):
    process = subprocess.Popen(
        [*DEMO, f"--folder={tmp_path}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    for line in process.stderr:
        if line.startswith("training"):
            break
    assert processes_of(tmp_path)
    os.killpg(process.pid, signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert processes_of(tmp_path) == []
    ports = {int(p) for p in re.findall(r"http://127\.0\.0\.1:(\d+)", out)}
    assert ports
    assert not ports & listening()


def test_keep_leaves_the_pages_open_until_ctrl_c(tmp_path):
    import httpx

    process = subprocess.Popen(
        [*DEMO, f"--folder={tmp_path}", "--keep"], stdout=subprocess.PIPE, text=True
    )
    said = []
    for line in process.stdout:
        said.append(line)
        if "until Ctrl-C" in line and "stay open" in line:
            break
    pages = re.search(r"^Pages +(\S+).* (http\S+)", "".join(said), re.M)
    for url in pages.groups():
        answer = httpx.get(url, trust_env=False)
        assert answer.status_code == 200
        assert "demo_1" in answer.text
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0
    time.sleep(0.1)
    assert processes_of(tmp_path) == []


def test_own_files_with_shuffled_labels_give_an_auc_of_one_half(tmp_path):
    rng = np.random.default_rng(8)
    parts = [collisions(10_000, signal=s, rng=rng) for s in (True, False)]
    mixed = {k: ak.concatenate([p[k] for p in parts]) for k in parts[0]}
    mixed["kind"] = rng.permutation(np.repeat(np.array([0, 1], np.int32), 10_000))
    file = write(tmp_path / "mine.root", mixed, rng)
    params = tmp_path / "params.json"
    params.write_text(
        json.dumps({"identifier": ["runNo", "evtNo", "lumi"], "epochs": 2, "batch_size": 500})
    )
    ended = run(tmp_path / "d", f"--files={file}", "--labels=kind", f"--params={params}")
    assert ended.returncode == 0, ended.stderr
    found = re.search(r"(\d+) events, AUC (\d\.\d+)", ended.stdout)
    assert 3_500 < int(found[1]) < 4_500
    assert float(found[2]) == pytest.approx(0.5, abs=0.03)


def test_a_missing_file_is_named(tmp_path):
    ended = run(tmp_path / "d", f"--files={tmp_path}/no.root", "--labels=1")
    assert ended.returncode == 1
    assert f"no such file: {tmp_path}/no.root" in ended.stderr


def test_labels_are_needed(tmp_path):
    ended = run(tmp_path / "d", "--files=a.root")
    assert ended.returncode == 2
    assert "LABELS=" in ended.stderr

"""The whole main job with real processes, as ``make demo`` runs it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import awkward as ak
import httpx
import numpy as np
import psutil
import pytest
import uproot

from mlaas4hep.demo.simulate import collisions, write, write_files

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


def ports_in(said: str) -> set[int]:
    """Ports of the services that a demo said it started."""
    return {int(port) for port in re.findall(r"http://127\.0\.0\.1:(\d+)", said)}


def run(folder: Path, *options: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*DEMO, f"--folder={folder}", *map(str, options)],
        capture_output=True,
        text=True,
        timeout=240,
    )


@dataclass
class Demo:
    """What a demo with --keep left and said, its pages, and the ports in use before it."""

    folder: Path
    pages: list[httpx.Response]
    out: str
    err: str
    code: int
    ports_before: set[int]


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> Demo:
    folder = tmp_path_factory.mktemp("demo")
    before = listening()
    errors = tmp_path_factory.mktemp("said") / "errors"
    with errors.open("w") as err:
        process = subprocess.Popen(
            [*DEMO, f"--folder={folder}", "--keep"], stdout=subprocess.PIPE, stderr=err, text=True
        )
    out = ""
    for line in process.stdout:
        out += line
        if "stay open until Ctrl-C" in line:
            break
    found = re.search(r"^Pages +(\S+).* (http\S+)", out, re.M)
    pages = [httpx.get(url, trust_env=False) for url in found.groups()] if found else []
    process.send_signal(signal.SIGINT)
    out += process.communicate(timeout=60)[0]
    return Demo(folder, pages, out, errors.read_text(), process.returncode, before)


def test_the_demo_ends_with_a_good_auc(demo):
    assert demo.code == 0, demo.err
    found = re.search(r"(\d+) events of another seed: AUC (\d\.\d+)", demo.out)
    assert found is not None
    assert int(found[1]) == 10_000
    assert float(found[2]) > 0.8
    assert "training    100 %" in demo.err


def test_it_says_where_things_are_and_they_are_there(demo):
    for line in ("Bundle", "ROC curve", "Report page"):
        path = Path(re.search(rf"^{line} +(\S+)$", demo.out, re.M)[1])
        assert path.exists()
        assert path.is_relative_to(demo.folder)
    assert "Try next" in demo.out


def test_keep_leaves_the_pages_open_until_ctrl_c(demo):
    assert [page.status_code for page in demo.pages] == [200, 200]
    assert all("demo_1" in page.text for page in demo.pages)
    assert processes_of(demo.folder) == []
    url_ports = ports_in(demo.out)
    assert len(url_ports) == 2
    assert not url_ports & (listening() - demo.ports_before)


def test_the_bundle_knows_where_it_is_from(demo):
    bundle = Path(re.search(r"^Bundle +(\S+)$", demo.out, re.M)[1])
    files = json.loads((bundle / "provenance/files.json").read_text())
    names = ("signal", "background")
    uuids = [str(uproot.open(demo.folder / f"{n}.root").file.uuid) for n in names]
    assert [f["uuid"] for f in files] == uuids


SLOW = """
import time
from sklearn.linear_model import SGDClassifier

class Slow(SGDClassifier):
    def partial_fit(self, *rows, **more):
        time.sleep(1)
        return super().partial_fit(*rows, **more)

def model(idim):
    return Slow(loss="log_loss")
"""


def test_ctrl_c_while_it_trains_leaves_no_process_and_no_port(tmp_path):
    signal_file, background, _ = write_files(tmp_path, n=300)
    (tmp_path / "model.py").write_text(SLOW)
    process = subprocess.Popen(
        [
            *DEMO, f"--folder={tmp_path / 'd'}", f"--files={signal_file},{background}",
            "--labels=1,0", f"--model={tmp_path / 'model.py'}",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )  # fmt: skip
    for line in process.stderr:
        if line.startswith("training"):
            break
    assert processes_of(tmp_path / "d")
    os.killpg(process.pid, signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert processes_of(tmp_path / "d") == []
    ports = ports_in(out)
    assert ports
    assert not ports & listening()


SGD = """
from sklearn.linear_model import SGDClassifier

def model(idim):
    return SGDClassifier(loss="log_loss", random_state=0)
"""


HELD_OUT = re.compile(r"(\d+) events that the training held out: AUC (\d\.\d+)")


def test_own_files_are_tested_on_what_the_training_held_out(tmp_path):
    """By what identifies events, and within the selection; other files in the folder stay."""
    signal_file, background, _ = write_files(tmp_path, n=2000)
    (tmp_path / "model.py").write_text(SGD)
    params = {"split": {"by": ["evtNo"]}, "selection": "MET_pt > 20", "epochs": 1}
    (tmp_path / "params.json").write_text(json.dumps(params))
    mine = tmp_path / "d/demo/mine.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("my work")
    ended = run(
        tmp_path / "d", f"--files={signal_file},{background}", "--labels=1,0",
        f"--model={tmp_path / 'model.py'}", f"--params={tmp_path / 'params.json'}",
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    (bundle,) = (tmp_path / "d/store/models").glob("demo_1")
    metrics = json.loads((bundle / "metrics.json").read_text())
    assert int(HELD_OUT.search(ended.stdout)[1]) == metrics["events"]
    assert mine.read_text() == "my work"
    assert "warning: " in ended.stdout
    assert "probably" in ended.stdout
    names = {path.name for path in (tmp_path / "d/store").rglob("mine.txt")}
    assert names == set()


def test_folds_are_refused(tmp_path):
    signal_file, background, _ = write_files(tmp_path, n=100)
    (tmp_path / "params.json").write_text('{"split": {"folds": 2}}')
    ended = run(
        tmp_path / "d", f"--files={signal_file},{background}", "--labels=1,0",
        f"--params={tmp_path / 'params.json'}",
    )  # fmt: skip
    assert ended.returncode == 2
    assert "the demo can't test a training with folds" in ended.stderr


def test_own_files_with_shuffled_labels_give_an_auc_of_one_half(tmp_path):
    rng = np.random.default_rng(8)
    parts = [collisions(10_000, signal=s, rng=rng) for s in (True, False)]
    mixed = {k: ak.concatenate([p[k] for p in parts]) for k in parts[0]}
    mixed["kind"] = rng.permutation(np.repeat(np.array([0, 1], np.int32), 10_000))
    file = write(tmp_path / "mine.root", mixed, rng)
    model, params = tmp_path / "model.py", tmp_path / "params.json"
    model.write_text(SGD)
    params.write_text(
        json.dumps({"identifier": ["runNo", "evtNo", "lumi"], "epochs": 2, "batch_size": 500})
    )
    ended = run(
        tmp_path / "d", f"--files={file}", "--labels=kind", f"--model={model}", f"--params={params}"
    )
    assert ended.returncode == 0, ended.stderr
    found = re.search(HELD_OUT, ended.stdout)
    assert 3_500 < int(found[1]) < 4_500
    assert float(found[2]) == pytest.approx(0.5, abs=0.03)
    assert processes_of(tmp_path / "d") == []
    assert len(ports := ports_in(ended.stdout)) == 2
    assert not ports & listening()


def test_three_classes_need_an_own_model(tmp_path):
    file = tmp_path / "mine.root"
    with uproot.recreate(file) as made:
        made.mktree("events", {"x": "float64", "kind": "int32"})
        kinds = np.arange(300, dtype=np.int32) % 3
        made["events"].extend({"x": np.random.default_rng(1).normal(kinds), "kind": kinds})
    ended = run(tmp_path / "d", f"--files={file}", "--labels=kind")
    assert ended.returncode == 1
    assert "1 column, but there are 3 classes" in ended.stderr
    assert "example model is for two classes. Give your own: MODEL=" in ended.stderr


def test_a_missing_file_is_named(tmp_path):
    ended = run(tmp_path / "d", f"--files={tmp_path}/no.root", "--labels=1")
    assert ended.returncode == 1
    assert f"no such file: {tmp_path}/no.root" in ended.stderr


def test_labels_are_needed(tmp_path):
    ended = run(tmp_path / "d", "--files=a.root")
    assert ended.returncode == 2
    assert "LABELS=" in ended.stderr

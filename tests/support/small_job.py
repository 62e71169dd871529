"""A training in half a second: ``small_job.py HOME NAME``, told by params.json what to do.

It writes what ``mlaas4hep train --job`` writes: progress.json, a bundle, its archive, result.json.
"""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

from mlaas4hep.core.files import write_json
from mlaas4hep.data.specs import Specs
from mlaas4hep.models.bundle import Manifest, card, labels_text, pack, seal, triton_config

WARNINGS = {"warn": ["genWeight <b>is</b> a weight", "x" * 100_000, *["y"] * 1000]}


def bundle(path: Path, onnx: Path | None, bias: float = 0.0) -> None:
    """A bundle of two flat branches; ``onnx`` None makes it one that can't be served."""
    path.mkdir(parents=True)
    specs = Specs(
        tree="events",
        flat=["met", "pt"],
        jagged=[],
        minv={"met": 0.0, "pt": 0.0},
        maxv={"met": 100.0, "pt": 50.0},
        jdim={},
        scanned=10,
    )
    specs.save(path / "specs.json")
    write_json(path / "columns.json", specs.columns)
    write_json(path / "metrics.json", {"auc": 0.75})
    write_json(path / "history.json", {"loss": [0.5]})
    created = "2026-01-02T03:04:05+00:00"
    write_json(path / "params.json", card(path.name, "small", created, {}))
    (path / "labels.txt").write_text(labels_text(["0", "1"]))
    (path / "report.html").write_text("<h1>report</h1>")
    if onnx:
        (path / "config.pbtxt").write_text(triton_config(path.name, 2, 1))
        (path / "1").mkdir()
        (path / "1/model.onnx").write_bytes(onnx.read_bytes())
    seal(
        path,
        Manifest(
            name=path.name,
            framework="sklearn",
            servable=onnx is not None,
            why_not="" if onnx else "no ONNX operator does that",
            classes=["0", "1"],
            columns=2,
            created=created,
            comparison={},
        ),
    )
    pack(path)


def result(home: Path, **values: object) -> None:
    write_json(home / "result.json", values)


def nest(folder: Path) -> None:
    """Make 1,100 folders, each in the one before: deeper than a path or a recursion may be."""
    here = os.open(folder, os.O_RDONLY)
    for _ in range(1100):
        os.mkdir("deep", dir_fd=here)
        below = os.open("deep", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)


def main() -> None:
    home, name = Path(sys.argv[1]), sys.argv[2]
    params = json.loads(Path("params.json").read_text())
    mode = params.get("mode", "succeed")
    print("training of", name, "in", Path.cwd().name, flush=True)
    (home / "seen.json").write_text(
        json.dumps(
            {
                "env": dict(os.environ),
                "cores": sorted(os.sched_getaffinity(0)),
                "core_dump": resource.getrlimit(resource.RLIMIT_CORE)[0],
            }
        )
    )
    write_json(home / "progress.json", {"phase": "training", "done": 3, "total": 10, "loss": 0.5})
    time.sleep(params.get("seconds", 0))
    match mode:
        case "fail":
            error = {"message": "no branch 'mett' in a.root", "remedy": "Did you mean 'met'?"}
            result(home, state="failed", error=error)
            sys.exit(1)
        case "exit":
            sys.exit(3)
        case "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "memory":
            keep = bytearray(400 << 20)
            time.sleep(600)
            print(len(keep))
        case "hang":
            subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
            time.sleep(600)
        case "leave child":  # one that left the session, with the job's lock in hand
            if os.fork() == 0:
                os.setsid()
                time.sleep(600)
        case "real-time signal":
            os.kill(os.getpid(), 35)
        case "bad result":
            (home / "result.json").write_text('{"state": "succeeded", "metrics": {"auc": 0.5}')
            return
        case "leave":
            bundle(home / name, Path("model.onnx"))
            (home / params["name"]).write_text(params["content"])
            time.sleep(0.5)
            if params["name"] != "result.json":
                result(home, state="succeeded", metrics={})
            return
        case "nest":
            bundle(home / name, Path("model.onnx"))
            nest({"uploaded": Path.cwd(), "home": home, "bundle": home / name}[params["where"]])
            result(home, state="succeeded", metrics={}, servable=True, why_not="")
            return
        case "many in bundle":
            bundle(home / name, Path("model.onnx"))
            for i in range(12_000):
                (home / name / str(i)).touch()
            result(home, state="succeeded", metrics={}, servable=True, why_not="")
            return
        case "no bundle":
            result(home, state="succeeded", metrics={}, servable=True, why_not="")
            return
        case "fill":
            for i in range(1000):
                (home / str(i)).write_bytes(bytes(1 << 20))
                time.sleep(0.05)
        case "fill uploaded":
            for i in range(1000):
                Path(str(i)).write_bytes(bytes(1 << 20))
                time.sleep(0.05)
        case "log":
            while True:
                print("x" * (1 << 20), flush=True)
                time.sleep(0.05)
        case "many files":
            for i in range(100_000):
                (home / str(i)).touch()
                time.sleep(0.0005)
        case "no lock" | "lock is a pipe" | "lock names others":
            (home / "lock").unlink()
            if mode == "lock is a pipe":
                os.mkfifo(home / "lock")
            if mode == "lock names others":
                (home / "lock").write_text("1")
            time.sleep(600)
        case "linked log":
            (home / "log.txt").unlink()
            (home / "log.txt").symlink_to("/etc/passwd")
            sys.exit(3)
        case "pipe":
            bundle(home / name, Path("model.onnx"))
            os.mkfifo(home / name / "pipe")
            result(home, state="succeeded", metrics={}, servable=True, why_not="")
            return
        case "giant":
            bundle(home / name, Path("model.onnx"))
            os.truncate(home / name / "bundle.json", 65 << 20)
            result(home, state="succeeded", metrics={}, servable=True, why_not="")
            return
        case "link":
            bundle(home / name, Path("model.onnx"))
            (home / name / "passwd").symlink_to("/etc/passwd")
            result(home, state="succeeded", metrics={}, servable=True, why_not="")
            return
    onnx = None if mode == "not servable" else Path("model.onnx")
    bundle(home / name, onnx)
    Path("read.txt").write_text(Path("data.txt").read_text() if Path("data.txt").exists() else "")
    result(
        home,
        state="succeeded",
        metrics={"auc": 0.75, "data": Path("read.txt").read_text()},
        servable=onnx is not None,
        why_not="" if onnx else "no ONNX operator does that",
        warnings=WARNINGS.get(mode, []),
    )


if __name__ == "__main__":
    main()

"""How fast events become specs and rows: ratios to `uproot.iterate` of the same branches.

The reference reads the branches and does nothing with them, in the same run on the same files, so
the ratios carry over from machine to machine where absolute figures do not. Time is CPU time.
Peak memory is that of a process of its own, which makes specs and rows of all events.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import awkward as ak
import numpy as np
import uproot

from mlaas4hep.data import Encoder, plan_chunks
from mlaas4hep.sources.root import RootFile
from mlaas4hep.sources.scan import scan
from mlaas4hep.sources.selection import Selection
from mlaas4hep.training.dataset import MIX_BYTES, READ_BYTES

TREE = "events"
FLAT = 22
GROUPS = {  # counter: jagged branches, mean and greatest length
    "Jet": (14, 4.5, 14),
    "Muon": (8, 2.0, 8),
    "Electron": (8, 2.0, 8),
    "FatJet": (7, 3.0, 10),
    "SubJet": (9, 5.0, 14),
    "Tau": (6, 3.0, 10),
}
CLUSTER = 10_000
CHUNK = 10_000
NAMES = [f"flat{i:02d}" for i in range(FLAT)]
NAMES += [f"{g}_v{i}" for g, (size, _, _) in GROUPS.items() for i in range(size)]
SELECTION = Selection(TREE, selected_branches=tuple(NAMES))


def write(path: Path, events: int, seed: int, compression: uproot.compression.Compression) -> Path:
    """A file with 22 flat and 52 jagged float32 branches that share six counters."""
    rng = np.random.default_rng(seed)
    with uproot.recreate(path, compression=compression) as file:
        for start in range(0, events, CLUSTER):
            n = min(CLUSTER, events - start)
            branches = {f"flat{i:02d}": _rounded(rng.normal(size=n)) for i in range(FLAT)}
            for group, (size, mean, greatest) in GROUPS.items():
                counts = np.minimum(rng.poisson(mean, n), greatest)
                total = int(counts.sum())
                fields = {
                    f"v{i}": ak.unflatten(_rounded(rng.exponential(30, total)), counts)
                    for i in range(size)
                }
                branches[group] = ak.zip(fields)
            if not start:
                file.mktree(TREE, {k: ak.Array(v).type for k, v in branches.items()})
            file[TREE].extend(branches)
    return path


def _rounded(values: np.ndarray) -> np.ndarray:
    """float32 with as many significant bits as CMS keeps in NanoAOD: 12 of 23."""
    bits = values.astype(np.float32).view(np.uint32)
    return ((bits + 0x400) & ~np.uint32(0x7FF)).view(np.float32)


def iterate(trees: Sequence[Any]) -> int:
    """Read the branches with uproot and do nothing with them; the number of events."""
    return sum(len(step) for tree in trees for step in tree.iterate(NAMES, step_size=CHUNK))


def chunks(files: Sequence[RootFile], encoder: Encoder) -> int:
    """Make mixed chunks of normalised rows of all files; the number of events."""
    turn = MIX_BYTES // (4 * encoder.width) // len(files)
    readers = [
        file.spread(NAMES, [(0, file.entries)], READ_BYTES // len(files), turn) for file in files
    ]
    rows = np.empty((CHUNK + len(files), encoder.width), np.float32)
    events = 0
    for chunk in plan_chunks([file.entries for file in files], CHUNK):
        filled = 0
        for reader, (begin, end) in zip(readers, chunk, strict=True):
            for start, stop, values in reader.take(end - begin):
                encoder.encode(values, rows[filled : filled + stop - start])
                filled += stop - start
        events += filled
    return events


def compare(paths: Sequence[Path], repeats: int) -> dict[str, tuple[float, float]]:
    """Per pass events per CPU second and their ratio to the reference's; medians.

    Files are opened before; the passes take turns, so that all see the same load of the machine.
    """
    with ExitStack() as stack:
        trees = [stack.enter_context(uproot.open(path))[TREE] for path in paths]
        files = [stack.enter_context(RootFile(str(path), TREE)) for path in paths]
        encoder = Encoder(scan(files, SELECTION))
        passes: dict[str, Callable[[], int]] = {
            "uproot.iterate": lambda: iterate(trees),
            "specs": lambda: scan(files, SELECTION).scanned,
            "chunks": lambda: chunks(files, encoder),
        }
        speeds: dict[str, list[float]] = {name: [] for name in passes}
        for _ in range(repeats):
            for name, run in passes.items():
                start = time.process_time()
                events = run()
                speeds[name].append(events / (time.process_time() - start))
    result = {}
    for name, each in speeds.items():
        pairs = zip(each, speeds["uproot.iterate"], strict=True)
        result[name] = median(each), median(speed / reference for speed, reference in pairs)
    return result


def peak_memory(files: Sequence[Path]) -> float:
    """Peak resident memory in MB of a process that makes specs and rows of the files."""
    command = [sys.executable, __file__, "--peak-of", *map(str, files)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def own_peak(paths: Sequence[Path]) -> float:
    with ExitStack() as stack:
        files = [stack.enter_context(RootFile(str(path), TREE)) for path in paths]
        chunks(files, Encoder(scan(files, SELECTION)))
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--events", type=int, default=50_000, help="events per file")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peak-of", nargs="+", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak_of:
        print(own_peak(options.peak_of))
        return
    print(f"data path: 2 files of {options.events} events, {len(NAMES)} float32 branches")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for title, times, compression in (
            ("lz4", 1, uproot.LZ4(4)),
            ("zlib", 1, uproot.ZLIB(1)),
            ("4xlz4", 4, uproot.LZ4(4)),  # more than the mixing buffer holds
        ):
            files = [
                write(folder / f"{title}{i}.root", times * options.events, i, compression)
                for i in (0, 1)
            ]
            for step, (speed, ratio) in compare(files, options.repeats).items():
                rate = f"({speed / 1000:.0f}k events per CPU second here)"
                print(f"  {title:5} {step:15} {ratio:5.2f} x uproot.iterate  {rate}")
        once, four = (
            peak_memory([folder / f"{title}{i}.root" for i in (0, 1)]) for title in ("lz4", "4xlz4")
        )
        print(f"  peak memory with 4 x the events: {four / once:.2f} x ({once:.0f}, {four:.0f} MB)")


if __name__ == "__main__":
    main()

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path

import awkward as ak
import numpy as np
import pytest

from conftest import REAL_FILES
from mlaas4hep.core.errors import DataError
from mlaas4hep.data import Encoder, EventsToUse, Specs
from mlaas4hep.sources.root import RootFile
from mlaas4hep.sources.scan import scan
from mlaas4hep.sources.selection import Selection
from sources.plain import plain_tree, write_tree


def scanned(files: list[Path], selection: Selection, nevts: int = -1) -> Specs:
    with ExitStack() as stack:
        opened = [stack.enter_context(RootFile(str(f), selection.tree)) for f in files]
        return scan(opened, selection, EventsToUse.of([file.entries for file in opened], nevts))


def assert_specs_are_those_of_plain_uproot(
    specs: Specs, files: list[Path], use: EventsToUse | None = None
) -> None:
    for branch in specs.flat + specs.jagged:
        arrays = [plain_tree(f, specs.tree)[branch].array() for f in files]
        if use:
            arrays = [
                ak.concatenate([a[start:stop] for start, stop in ranges])
                for a, ranges in zip(arrays, use.ranges, strict=True)
            ]
        if branch in specs.jagged:
            assert specs.jdim[branch] == max(int(ak.max(ak.num(a), initial=0)) for a in arrays)
        values = np.concatenate([ak.to_numpy(ak.flatten(a, axis=None)) for a in arrays])
        finite = values[np.isfinite(values)]
        assert specs.missing.get(branch, 0) == len(values) - len(finite)
        if len(values):
            assert specs.minv[branch] == float(finite.min())
            assert specs.maxv[branch] == float(finite.max())


@pytest.mark.parametrize("nevts", [-1, 150, 5000])
def test_specs_of_two_files(small_files: list[Path], nevts: int) -> None:
    specs = scanned(small_files, Selection("events"), nevts)
    use = EventsToUse.of([700, 300], nevts)
    assert_specs_are_those_of_plain_uproot(specs, small_files, use)
    assert specs.scanned == {-1: 1000, 150: 150, 5000: 1000}[nevts]
    assert [f.entries for f in specs.files] == [700, 300]
    assert [f.size for f in specs.files] == [f.stat().st_size for f in small_files]
    assert specs.selection["nevts"] == nevts
    assert specs.selection["identifier"] == ["run", "event", "luminosityBlock"]
    assert specs.jagged == ["Jet_eta", "Jet_id", "Jet_pt"]


def test_specs_of_real_files(real_data: Path) -> None:
    for name, tree in zip(REAL_FILES, ("Events", "events", "events"), strict=True):
        # The one branch of the NanoAOD file that is NaN in every event must be left out by name.
        exclude = ("HTXS_Higgs_y",) if tree == "Events" else ()
        specs = scanned([real_data / name], Selection(tree, exclude_branches=exclude))
        assert_specs_are_those_of_plain_uproot(specs, [real_data / name])
    assert "NJet" in scanned([real_data / REAL_FILES[1]], Selection("events")).flat


def test_a_branch_that_is_all_nan_is_named(real_data: Path) -> None:
    with pytest.raises(DataError, match="HTXS_Higgs_y") as error:
        scanned([real_data / REAL_FILES[0]], Selection("Events"))
    assert "exclude_branches" in error.value.remedy


def test_rows_of_real_events(real_data: Path) -> None:
    path = real_data / "uproot-HZZ.root"
    specs = scanned([path], Selection("events", selected_branches=("MET_px", "Muon_*", "NMuon")))
    with RootFile(str(path), "events") as file:
        rows = Encoder(specs).encode(file.read(specs.flat + specs.jagged))
    plain = plain_tree(path, "events")
    for branch in specs.flat + specs.jagged:
        values = plain[branch].array()
        low, high = float(ak.min(values)), float(ak.max(values))
        if branch in specs.jagged:
            length = int(ak.max(ak.num(values)))
            columns = [specs.columns.index(f"{branch}_{i}") for i in range(length)]
            values = ak.pad_none(ak.values_astype(values, np.float64), length, clip=True)
        else:
            columns, values = [specs.columns.index(branch)], values[:, np.newaxis]
        scale = (ak.values_astype(values, np.float64) - low) / (high - low)
        wanted = ak.to_numpy(ak.fill_none(scale, 0.0))
        np.testing.assert_allclose(rows[:, columns], wanted, atol=2e-7, err_msg=branch)


def test_infinite_values_are_missing(tmp_path: Path) -> None:
    values = np.array([1.0, np.inf, -np.inf, np.nan, 3.0])
    path = write_tree(tmp_path / "inf.root", "t", {"x": values, "y": np.arange(5.0)})
    specs = scanned([path], Selection("t"))
    assert (specs.minv["x"], specs.maxv["x"], specs.missing) == (1, 3, {"x": 3})
    specs.save(tmp_path / "specs.json")
    assert json.loads((tmp_path / "specs.json").read_text(), parse_constant=pytest.fail)


def test_zero_events(tmp_path: Path, small_files: list[Path]) -> None:
    path = write_tree(tmp_path / "none.root", "t", {"x": np.empty(0)})
    with pytest.raises(DataError, match=r"no events in the tree t of .*none\.root"):
        scanned([path], Selection("t"))
    full = write_tree(tmp_path / "some.root", "t", {"x": np.arange(3.0)})
    assert scanned([path, full], Selection("t")).scanned == 3


def test_a_jagged_branch_that_is_always_empty(tmp_path: Path) -> None:
    void = ak.unflatten(np.empty(0, np.float32), [0, 0])
    path = write_tree(tmp_path / "void.root", "t", {"x": np.arange(2.0), "void": void})
    specs = scanned([path], Selection("t"))
    assert specs.columns == ["nvoid", "x"]
    assert specs.jdim == {"void": 0}


def test_progress_goes_to_the_end(small_files: list[Path]) -> None:
    seen: list[tuple[str, int, int]] = []
    with RootFile(str(small_files[0]), "events") as a, RootFile(str(small_files[1]), "events") as b:
        scan([a, b], Selection("events"), None, lambda *args, **figures: seen.append(args))
    assert seen == [("specs", 700, 1000), ("specs", 1000, 1000)]

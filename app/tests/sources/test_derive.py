from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pytest

from mlaas4hep.core.errors import DataError, EventError, UsageError
from mlaas4hep.data import Cuts, Derivation
from mlaas4hep.sources.derive import derivation_of, find_passing
from mlaas4hep.sources.names import friends_of
from mlaas4hep.sources.root import RootFile
from mlaas4hep.sources.selection import Selection, select
from real.files import RealFile, each, outcome, written
from real.write import ANALYSES, JETS
from sources.plain import plain_branches, plain_tree, write_tree


def derived(
    files: Sequence[RootFile],
    objects: dict[str, str] | None = None,
    new: dict[str, str] | None = None,
    selection: str = "",
    label: str | None = None,
) -> tuple[Derivation, list[str]]:
    selected = select(files, Selection(files[0].tree, branches="common"))
    roles = {label: "label"} if label else {}
    found, told = derivation_of(
        files, Cuts.parse(objects or {}, new or {}, selection), selected, roles
    )
    assert found
    return found, told


@each("nanoaod")
def test_a_collection_is_found_by_its_counter(real: RealFile) -> None:
    with RootFile(str(real.path), real.tree) as file:
        found, told = derived([file], {"Jet": JETS}, selection="nJet > 2")
        expected = {k for k, info in file.branches.items() if info.counter == "nJet"}
        assert set(found.collections["Jet"]) == expected
        assert told == ["nJet is the number of Jet before the cut on objects; "
                        f"count({found.collections['Jet'][0]}) is the number after it"]  # fmt: skip
        by_counter, _ = derived([file], {"nJet": JETS})
        assert by_counter.collections["nJet"] == found.collections["Jet"]


def test_a_collection_goes_on_in_a_friend() -> None:
    """By the name that the branch has there, however the collection is named."""
    path = str(written() / "nanoaod.root")
    places = friends_of(path, "Events", {"Friend": "{dir}/{stem}_friend.root"})
    with RootFile(path, "Events", places) as file:
        own = {k for k, info in file.branches.items() if info.counter == "nJet"}
        for name in ("Jet", "nJet"):
            found, _ = derived([file], {name: JETS})
            assert set(found.collections[name]) == own | {"Friend.Jet_btag"}
        found, _ = derived([file], {"Friend.Jet": "Friend.Jet_btag > 1"})
        assert found.collections["Friend.Jet"] == ["Friend.Jet_btag"]


@each("hzz")
def test_objects_of_cartesian_components(real: RealFile) -> None:
    with RootFile(str(real.path), real.tree) as file:
        pt = "sqrt(Muon_Px**2 + Muon_Py**2) > 20"
        found, told = derived([file], {"Muon": pt}, {"n": "count(Muon_Iso)"}, "n == 2")
        members = found.collections["Muon"]
        assert {"Muon_Px", "Muon_Py", "Muon_Pz", "Muon_E", "Muon_Charge", "Muon_Iso"} == set(
            members
        )
        (passing,), flow = find_passing([file], found)
        arrays = plain_tree(real.path, real.tree).arrays(["Muon_Px", "Muon_Py"])
        x, y = (ak.values_astype(arrays[f"Muon_P{k}"], np.float64) for k in "xy")
        mask = ak.sum(np.sqrt(x**2 + y**2) > 20, axis=1) == 2
        np.testing.assert_array_equal(passing.mask(0, file.entries), mask)
        assert flow.as_list()[1] == {
            "cut": "n == 2", "events": ak.sum(mask), "by_file": [ak.sum(mask)]
        }  # fmt: skip
        assert told == []


@pytest.mark.parametrize("name", ANALYSES)
def test_the_same_as_rdataframe(name: str) -> None:
    """ROOT computes objects, order, new variables and selection of ANALYSES in real/write.py."""
    analysis, root = ANALYSES[name], outcome(name)
    keys = analysis.params
    cuts = Cuts.parse(
        keys.get("objects", {}), keys["new_variables"], keys["selection"], keys.get("order")
    )
    friends = keys.get("friends", {})
    path = str(written() / analysis.file)
    with RootFile(path, analysis.tree, friends_of(path, analysis.tree, friends)) as file:
        selection = Selection(analysis.tree, exclude_branches=("HTXS_Higgs_y",) if friends else ())
        found, _ = derivation_of([file], cuts, select([file], selection), {})
        assert found
        events = found.derive(file.read(list(found.inputs)))
        for variable in analysis.new:
            expected = np.array(root["new"][variable], np.float64)
            assert np.isfinite(expected).sum() > 50
            np.testing.assert_allclose(events[variable], expected, 1e-12, 1e-12, err_msg=variable)
        (passing,), flow = find_passing([file], found)
        selected = np.array(root["selected"])
        assert 50 < selected.sum() < file.entries
        np.testing.assert_array_equal(passing.mask(0, file.entries), selected)
        assert flow.events[[0, -1], 0].tolist() == [file.entries, selected.sum()]


@each("delphes")
def test_names_with_dots_and_slashes(real: RealFile) -> None:
    with RootFile(str(real.path), real.tree) as file:
        name = next(
            k for k, b in file.branches.items() if k.endswith("Jet.PT") and b.kind != "flat"
        )
        stem = name.split("/")[0].split(".")[0]
        found, _ = derived([file], {stem: f"`{name}` > 30"}, {"HT": f"sum(`{name}`)"})
        assert name in found.collections[stem]
        assert all(file.branches[k].kind == "jagged" for k in found.collections[stem])
        pt = plain_branches(real.path, real.tree)[name].array()
        events = found.derive(file.read(list(found.inputs)))
        np.testing.assert_allclose(events["HT"], ak.sum(pt[pt > 30], axis=1), 1e-5)


BRANCHES: dict[str, Any] = {
    "met": np.arange(4, dtype=np.float32),
    "label": np.array([0, 1, 0, 1], np.int32),
    "jet_pt": ak.Array([[50.0, 20.0], [], [40.0], [10.0]]),
    "jet_eta": ak.Array([[0.0, 1.0], [], [3.0], [0.0]]),
    "mu_pt": ak.Array([[5.0], [6.0], [], []]),
}


def test_lists_without_a_common_counter_are_found_by_their_names(
    tmp_path: Path,
) -> None:
    path = write_tree(tmp_path / "a.root", "Events", BRANCHES)
    odd = BRANCHES | {"jet_tracks": ak.Array([[1.0, 2.0], [], [3.0], [1.0, 2.0]])}
    other = write_tree(tmp_path / "b.root", "Events", odd)
    with RootFile(str(path)) as file, RootFile(str(other)) as second:
        found, _ = derived([file], {"jet": "jet_pt > 30"}, selection="any(jet_eta < 2)")
        assert sorted(found.collections["jet"]) == ["jet_eta", "jet_pt"]
        assert find_passing([file], found)[1].events[:, 0].tolist() == [4, 1]
        found, _ = derived([second], {"jet": "jet_pt > 30"}, selection="count(jet_tracks) > 0")
        with pytest.raises(EventError, match=r"b\.root: event 3: jet_tracks has 2 values, jet_pt"):
            find_passing([second], found)


def test_what_the_files_dont_have_is_named(tmp_path: Path) -> None:
    first = write_tree(tmp_path / "a.root", "Events", BRANCHES)
    less = {k: v for k, v in BRANCHES.items() if k != "met"} | {"mu_pt": np.ones(4)}
    second = write_tree(tmp_path / "b.root", "Events", less)
    with ExitStack() as stack:
        files = [stack.enter_context(RootFile(str(path))) for path in (first, second)]
        with pytest.raises(UsageError, match=r"character 1: no branch 'met' in .*b\.root"):
            derived(files, selection="met > 3")
        with pytest.raises(UsageError, match="character 5: mu_pt is flat in some"):
            derived(files, selection="any(mu_pt > 3)")
        with pytest.raises(UsageError, match="no branch 'jet_Pt'") as found:
            derived(files, selection="count(jet_Pt) > 3")
        assert "Did you mean 'jet_pt'" in found.value.remedy
        with pytest.raises(UsageError, match=r"new_variables: 'jet_pt' is a branch of .*a\.root"):
            derived(files, new={"jet_pt": "sum(jet_eta)"})
        with pytest.raises(UsageError, match="label is the label") as found:
            derived(files, new={"x": "1 + label"}, label="label")
        assert "selection only" in found.value.remedy
        with pytest.raises(UsageError, match="there is no collection muon") as found:
            derived(files[:1], {"muon": "mu_pt > 3"})
        assert "'mu'" in found.value.remedy
        with pytest.raises(UsageError, match="jet_pt belongs to jet and to njet_pt"):
            derived(files[:1], {"jet": "jet_pt > 3", "njet_pt": "jet_pt > 3"})
        text = write_tree(tmp_path / "c.root", "Events", {"t": ak.Array(["a", "b"])})
        with RootFile(str(text)) as file, pytest.raises(DataError, match="no branch is left"):
            derived([file], selection="t > 3")

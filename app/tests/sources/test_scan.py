from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import awkward as ak
import numpy as np
import pytest

from mlaas4hep.core.errors import DataError, UsageError
from mlaas4hep.data import Encoder, EventsToUse, Passing, Specs
from mlaas4hep.sources.root import RootFile
from mlaas4hep.sources.scan import scan
from mlaas4hep.sources.selection import Selection
from real.files import WRITTEN, RealFile, each
from sources.plain import one_list, plain_branches, plain_tree, write_tree


def scanned(files: list[Path], selection: Selection, nevts: int = -1) -> Specs:
    with ExitStack() as stack:
        opened = [stack.enter_context(RootFile(str(f), selection.tree)) for f in files]
        return scan(opened, selection, EventsToUse.of([file.entries for file in opened], nevts))


def assert_specs_are_those_of_plain_uproot(
    specs: Specs, files: list[Path], use: EventsToUse | None = None
) -> None:
    for branch in specs.flat + specs.jagged:
        arrays = [one_list(plain_branches(f, specs.tree)[branch].array()) for f in files]
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


# Branches that must be left out by name: NaN in every event, or nothing that uproot can read.
LEFT_OUT = {"Events": ("HTXS_Higgs_y",), "Delphes": ("*Particle.fBits",)}


@each()
def test_specs_of_real_files_are_what_uproot_reads(real: RealFile) -> None:
    selection = Selection(real.tree, exclude_branches=LEFT_OUT.get(real.tree, ()), identifier=())
    specs = scanned([real.path], selection)
    assert specs.flat
    assert_specs_are_those_of_plain_uproot(specs, [real.path])


@each(files=WRITTEN)
def test_specs_are_what_root_itself_finds(real: RealFile) -> None:
    """RDataFrame is the second opinion: it shares no code with uproot."""
    selection = Selection(real.tree, exclude_branches=LEFT_OUT.get(real.tree, ()), identifier=())
    specs = scanned([real.path], selection)
    opinion = real.opinion()
    for branch in specs.flat + specs.jagged:
        # ROOT has no opinion: in memory it adds bits of its own; members aren't columns there.
        if branch.endswith((".fBits", ".fE", ".fX", ".fY", ".fZ")):
            continue
        root = opinion.pop(branch.rpartition("/")[2])
        assert specs.missing.get(branch, 0) == root["missing"], branch
        assert specs.jdim.get(branch) == root["most"], branch
        if root["values"]:
            assert (specs.minv[branch], specs.maxv[branch]) == (root["low"], root["high"]), branch
    # Nothing that ROOT takes for a number is overlooked: a text's bytes are, and a pair of leaves.
    left_out = {"HTXS_Higgs_y", "Type", "label", "pair.a", "pair.b"}
    assert {name for name in opinion if "more." not in name} <= left_out


@each("nanoaod")
def test_a_branch_that_is_all_nan_is_named(real: RealFile) -> None:
    with pytest.raises(DataError, match="HTXS_Higgs_y") as error:
        scanned([real.path], Selection("Events"))
    assert "exclude_branches" in error.value.remedy


@each("hzz")
def test_rows_of_real_events(real: RealFile) -> None:
    path = real.path
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


def test_progress_counts_the_events_that_pass(small_files: list[Path]) -> None:
    seen: list[tuple[str, int, int]] = []
    half = Passing([np.packbits(np.arange(700) % 2 == 0)])
    with RootFile(str(small_files[0]), "events") as file:
        use = EventsToUse.of([700], passing=[half])
        scan([file], Selection("events"), use, lambda *args, **figures: seen.append(args))
    assert seen == [("specs", 350, 350)]


def lists(lengths: list[int], seed: int = 1) -> ak.Array:
    return ak.unflatten(np.random.default_rng(seed).normal(size=sum(lengths)), lengths)


def test_collections_have_one_counter_and_one_length(small_files: list[Path]) -> None:
    specs = scanned(small_files, Selection("events"))
    assert specs.collections == [["Jet_eta", "Jet_id", "Jet_pt"]]
    assert Specs.from_json(specs.to_json(), "here") == specs


@pytest.mark.parametrize(("events", "known"), [(200, True), (3, False)])
def test_collections_without_counter_are_known_by_name(
    tmp_path: Path, events: int, known: bool
) -> None:
    """std::vector has no counter; uproot writes one for each branch, which tells nothing."""
    random = np.random.default_rng(4)
    jets, muons = (random.poisson(2, events) + 1 for _ in range(2))
    branches = {
        name: lists(lengths.tolist(), i)
        for i, (name, lengths) in enumerate(
            [("Jet_a", jets), ("Jet_b", jets), ("Jet_c", muons), ("Muon_a", muons), ("pt", jets)]
        )
    }
    path = write_tree(tmp_path / "v.root", "t", branches)
    by_name = [["Jet_a", "Jet_b"]] if known else []
    assert scanned([path], Selection("t")).collections == by_name
    with RootFile(str(path), "t") as file:
        for name, info in file.branches.items():
            file.branches[name] = replace(info, counter="")
        specs = scan([file], Selection("t"))
    assert specs.collections == by_name


def test_a_collection_ends_where_one_event_differs(tmp_path: Path) -> None:
    """All events count, those of a second file too."""
    lengths = [2, 1, 3] * 50
    jets = {"a": lists(lengths), "b": lists(lengths, 2), "c": lists(lengths, 3)}
    first = write_tree(tmp_path / "1.root", "t", {"Jet": ak.zip(jets)})
    assert scanned([first], Selection("t")).collections == [["Jet_a", "Jet_b", "Jet_c"]]
    other = {"Jet_a": lists([1, 2]), "Jet_b": lists([2, 1]), "Jet_c": lists([1, 2])}
    second = write_tree(tmp_path / "2.root", "t", {"nJet": np.array([1, 2], np.int32)} | other)
    selection = Selection("t", selected_branches=("Jet_*",))
    assert scanned([first, second], selection).collections == [["Jet_a", "Jet_c"]]


def test_lists_get_the_columns_that_were_asked_for(small_files: list[Path]) -> None:
    whole = scanned(small_files, Selection("events"))
    assert min(whole.jdim.values()) > 3
    specs = scanned(small_files, Selection("events", max_vec_sizes={"Jet": 3, "Jet_id": 20}))
    assert specs.jdim == {"Jet_eta": 3, "Jet_id": 20, "Jet_pt": 3}
    assert (specs.minv, specs.maxv) == (whole.minv, whole.maxv)
    assert Specs.from_json(specs.to_json(), "here") == specs
    for file in small_files:
        with RootFile(str(file), "events") as opened:
            events = opened.read([*specs.flat, *specs.jagged])
        encoder = Encoder(specs)
        rows, all_rows = encoder.encode(events), Encoder(whole).encode(events)
        for branch in specs.jagged:
            kept = min(specs.jdim[branch], whole.jdim[branch])
            at, was = (s.columns.index(f"{branch}_0") for s in (specs, whole))
            np.testing.assert_array_equal(rows[:, at : at + kept], all_rows[:, was : was + kept])
            assert not rows[:, at + kept : at + specs.jdim[branch]].any()
        assert encoder.truncated == 0  # on purpose
    some = scanned(small_files, Selection("events", max_vec_sizes={"Jet_id": 2}))
    assert some.limited == ["Jet_id"]
    with RootFile(str(small_files[0]), "events") as opened:
        longer = opened.read([*some.flat, *some.jagged])
    short = Encoder(replace(some, jdim=some.jdim | {"Jet_pt": 3}))
    short.encode(longer)
    counts = ak.to_numpy(ak.num(plain_branches(small_files[0], "events")["Jet_pt"].array()))
    assert short.truncated == int(np.maximum(counts - 3, 0).sum())


def test_sizes_that_fit_nothing_or_contradict_are_named(small_files: list[Path]) -> None:
    for sizes, match in (
        ({"Jets": 3}, "max_vec_sizes: 'Jets' is neither a jagged branch in use"),
        ({"x": 3}, "max_vec_sizes: 'x' is neither a jagged branch in use"),
        ({"Jet": 3, "*_pt": 4}, r"several fit the branch Jet_pt: 'Jet', '\*_pt'"),
    ):
        with pytest.raises(UsageError, match=match) as error:
            scanned(small_files, Selection("events", max_vec_sizes=sizes))
        if "Jets" in sizes:
            assert error.value.remedy.startswith("Did you mean 'Jet'")

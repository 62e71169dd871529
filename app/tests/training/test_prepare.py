from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pytest
import uproot

from mlaas4hep.core.errors import DataError, UsageError
from mlaas4hep.data import TRAIN, Encoder, file_key, membership
from mlaas4hep.sources.filelist import FileList, Listed
from mlaas4hep.training.params import Params
from mlaas4hep.training.prepare import prepare, scan_files
from real.files import RealFile, each, outcome, written
from real.write import ANALYSES
from sources.plain import assert_same, write_tree
from training.root_files import content, two, write
from training.tasks import prepared, streamed


def test_a_class_without_training_events_is_refused(tmp_path: Path, stack: ExitStack) -> None:
    files = [
        write(tmp_path / "a.root", content(200, 1)),
        write(tmp_path / "b.root", content(1, 2)),
    ]
    with uproot.open(files[1]) as opened:
        uuid = opened.file.uuid
    failed = 0
    for seed in range(20):
        part = membership(seed, file_key(1, str(uuid)), 0, 1)[0]
        if part == TRAIN:
            task = prepared(stack, files, ["a", "b"], seed=seed)
            assert task.warnings == ["the class 'b' has no event in the test part"]
        else:
            with pytest.raises(DataError, match="the class 'b' has no event to train on"):
                prepared(stack, files, ["a", "b"], seed=seed)
            failed += 1
    assert 0 < failed < 20


def test_two_trees_of_one_file(tmp_path: Path, stack: ExitStack) -> None:
    """TMVA's layout: signal and background are trees of one file."""
    file = tmp_path / "tmva.root"
    contents = {"TreeS": content(200, 1), "TreeB": content(150, 2)}
    with uproot.recreate(file) as opened:
        for tree, branches in contents.items():
            opened.mktree(tree, {name: ak.Array(v).type for name, v in branches.items()})
            opened[tree].extend(branches)
    names = [Path(f"{file}:{tree}") for tree in contents]
    task = prepared(stack, names, ["signal", "background"])
    assert task.counts.sum(axis=1).tolist() == [150, 200]
    assert [(f.name, f.tree, f.entries) for f in task.specs.files] == [
        (str(names[0]), "TreeS", 200),
        (str(names[1]), "TreeB", 150),
    ]
    counted = {str(names[0]): 200, str(names[1]): 150, "total": 350}
    assert task.specs.to_json()["events"] == counted
    for opened, tree in zip(task.files, contents, strict=True):
        assert_same(opened.read(["id"], 0, 150)["id"], file, tree, "id", 0, 150)
    assert (task.specs.minv["id"], task.specs.maxv["id"]) == (10_000, 20_149)
    # Where both are known by one entry number, the parts still differ: nothing is shared.
    assert (task.parts(0, 0, 150, {}) != task.parts(1, 0, 150, {})).any()


def test_specs_know_the_tree(tmp_path: Path, stack: ExitStack) -> None:
    file = tmp_path / "a.root"
    with uproot.recreate(file) as opened:
        for tree in ("one", "two"):
            opened.mktree(tree, {"x": "float64"}).extend({"x": np.arange(60.0)})
    other = write_tree(tmp_path / "b.root", "Events", {"x": np.arange(60.0)})
    specs = prepared(stack, [Path(f"{file}:one"), other], ["a", "b"]).specs
    records = prepared(stack, [Path(f"{file}:two"), other], ["a", "b"]).specs.files
    with pytest.raises(DataError, match="tree was one, is two"):
        specs.check_fits(records, specs.selection)


def test_the_same_events_twice_are_refused(tmp_path: Path, stack: ExitStack) -> None:
    file = write(tmp_path / "a.root", content(50, 1))
    copy = tmp_path / "copy.root"
    copy.write_bytes(file.read_bytes())
    added = tmp_path / "added.root"
    added.write_bytes(file.read_bytes())
    with uproot.update(added) as more:
        more.mktree("Other", {"x": np.float64})
    for other in (added, Path(f"{file}:Events"), Path(f"{file}:Events;1"), copy, file):
        with pytest.raises(DataError, match="hold the same events, of the tree Events") as error:
            prepared(stack, [file, other], ["a", "b"])
        assert str(file) in error.value.message


def test_no_events(tmp_path: Path, stack: ExitStack) -> None:
    files = [write(tmp_path / f"{name}.root", content(0, 1)) for name in "ab"]
    with pytest.raises(DataError, match=r"no events in the tree Events of .*a\.root, .*b\.root"):
        prepared(stack, files)


def test_a_branch_of_nan_names_the_remedy(tmp_path: Path, stack: ExitStack) -> None:
    files = [
        write(tmp_path / f"{i}.root", content(50, i) | {"bad": np.full(50, np.nan)}) for i in (1, 2)
    ]
    with pytest.raises(DataError, match=r"missing.*bad") as found:
        prepared(stack, files)
    assert "exclude_branches" in found.value.remedy
    task = prepared(stack, files, exclude_branches=["bad"])
    assert "bad" not in task.specs.columns


@each("zmumu")
def test_unusable_branches_are_told(tmp_path: Path, real: RealFile, stack: ExitStack) -> None:
    task = prepared(stack, [real.path], ["Q1"], cwd=tmp_path, branch="events")
    told = "1 branch can't be used: Type (of type char*: neither numbers nor lists of numbers)"
    assert task.warnings == [told]


class TestSpecsFile:
    def test_written_once_and_used_again(self, tmp_path: Path, stack: ExitStack) -> None:
        files = two(tmp_path)
        first = prepared(stack, files)
        path = tmp_path / "global-specs.json"
        value = json.loads(path.read_text())
        assert value == first.specs.to_json()
        value["maxv"]["met"] *= 2
        path.write_text(json.dumps(value))
        second = prepared(stack, files)
        assert second.specs.maxv["met"] == 2 * first.specs.maxv["met"]
        assert second.warnings == []

    @pytest.mark.parametrize("change", [{"nevts": 100}, {"exclude_branches": ["kind"]}, {}])
    def test_stale_ones_are_made_anew(
        self, tmp_path: Path, stack: ExitStack, change: dict[str, Any]
    ) -> None:
        prepared(stack, two(tmp_path))
        files = (
            two(tmp_path, seed=3)
            if not change
            else [tmp_path / "background.root", tmp_path / "signal.root"]
        )
        task = prepared(stack, files, **change)
        assert len(task.warnings) == 1
        assert task.warnings[0].startswith(
            "global-specs.json was rewritten, as it no longer fits: "
        )
        assert json.loads((tmp_path / "global-specs.json").read_text()) == task.specs.to_json()

    @pytest.mark.parametrize("text", ["{", '{"jdim": {}}', "[]"])
    def test_damaged_or_old_ones_too(self, tmp_path: Path, stack: ExitStack, text: str) -> None:
        (tmp_path / "global-specs.json").write_text(text)
        task = prepared(stack, two(tmp_path))
        assert "global-specs.json was rewritten" in task.warnings[0]

    def test_a_folder_that_cannot_be_written(self, tmp_path: Path, stack: ExitStack) -> None:
        task = prepared(stack, two(tmp_path), cwd=Path("/proc/self"))
        assert len(task.warnings) == 1
        assert "/proc/self/global-specs.json can't be written" in task.warnings[0]

    def test_given_ones_must_fit(self, tmp_path: Path, stack: ExitStack) -> None:
        files = two(tmp_path)
        names = [str(file) for file in files]
        params, _ = Params.parse({"exclude_branches": ["kind"]}, "params.json", tmp_path)
        specs, _ = scan_files(names, [], params, tmp_path)
        specs.save(tmp_path / "mine.json")
        task = prepared(stack, files, specs=Path("mine.json"), exclude_branches=["kind"])
        assert task.specs == specs
        assert not (tmp_path / "global-specs.json").exists()
        with pytest.raises(
            DataError, match=r"stale specs: exclude_branches was \['kind'\], is \[\]"
        ):
            prepared(stack, files, specs=Path("mine.json"))

    @pytest.mark.parametrize("sizes", [{}, {"jet_id": 1}])
    def test_longer_lists_than_the_specs_know_are_told(
        self, tmp_path: Path, stack: ExitStack, sizes: dict[str, int]
    ) -> None:
        """But not those that max_vec_sizes limits: their values are dropped on purpose."""
        files = two(tmp_path)
        prepared(stack, files, max_vec_sizes=sizes)
        path = tmp_path / "global-specs.json"
        value = json.loads(path.read_text())
        value["jdim"]["jet_pt"] = 2
        path.write_text(json.dumps(value))
        _, seen = streamed(stack, files, max_vec_sizes=sizes)
        lists = [uproot.open(f)["Events/jet_pt"].array() for f in files]
        dropped = sum(int(ak.sum(ak.num(a) == 3)) for a in lists)
        assert seen.warnings == [
            f"{dropped} values beyond the longest list of the specs were dropped"
        ]


def arrays(paths: list[Path]) -> ak.Array:
    trees = []
    for path in paths:
        with uproot.open(path) as file:
            trees.append(file["Events"].arrays())
    return ak.concatenate(trees)


CUTS: dict[str, Any] = {
    "identifier": ["run", "id"],
    "objects": {"jet": "jet_pt > 15"},
    "new_variables": {"ht": "sum(jet_pt)", "twice": "2 * jet_pt"},
    "selection": "count(jet_pt) > 0 and met > 20 and id % 3 != 0",
}


def cut(events: ak.Array) -> ak.Array:
    """What CUTS leave, and with which new variables, by awkward."""
    hard = events.jet_pt > 15
    events["jet_id"], events["jet_pt"] = events.jet_id[hard], events.jet_pt[hard]
    pt = ak.values_astype(events.jet_pt, np.float64)
    events["ht"], events["twice"] = ak.sum(pt, axis=1), 2 * pt
    return events[(ak.num(pt) > 0) & (events.met > 20) & (events.id % 3 != 0)]


class TestCuts:
    @pytest.mark.parametrize("nevts", [-1, 200])
    def test_everything_is_of_the_events_that_pass(
        self, tmp_path: Path, stack: ExitStack, nevts: int
    ) -> None:
        files = two(tmp_path)
        each = [cut(arrays([path])) for path in files]
        data, seen = streamed(stack, files, nevts=nevts, **CUTS)
        task, specs = data.task, data.task.specs
        assert task.cut_flow
        assert task.cut_flow.events[-1].tolist() == [len(part) for part in each]
        total = sum(map(len, each))
        if nevts > 0:
            assert abs(specs.scanned - nevts) <= 1
            each = [_spread(part, round(len(part) * nevts / total)) for part in each]
        left = ak.concatenate(each)
        assert specs.scanned == len(left)
        assert task.counts.sum(axis=1).tolist() == [len(part) for part in each]
        assert specs.jdim == {
            k: int(ak.max(ak.num(left.jet_pt))) for k in ("jet_id", "jet_pt", "twice")
        }
        assert {"ht", "met"} < set(specs.flat)
        assert "id" not in specs.flat
        for name in ("ht", "twice", "jet_id", "met"):
            values = ak.drop_none(ak.nan_to_none(left[name]), axis=-1)
            assert (specs.minv[name], specs.maxv[name]) == (ak.min(values), ak.max(values))
        with uproot.open(files[1]) as file:
            key = file_key(1, str(file.file.uuid))
        ids = ak.values_astype(each[1].id, int) - 20_000
        parts = membership(21, key, 0, 600)[ids.to_numpy()]
        assert task.counts[1].tolist() == [int((parts == part).sum()) for part in range(3)]

        rows = np.concatenate([rows for rows, _, _ in data.chunks()])
        at = specs.columns.index("ht")
        ht = rows[:, at].astype(float) * (specs.maxv["ht"] - specs.minv["ht"]) + specs.minv["ht"]
        np.testing.assert_allclose(np.sort(ht), np.sort(left.ht), rtol=1e-5, atol=1e-4)
        cached = [block for block, _ in data.epoch(0)]
        streaming, _ = streamed(stack, files, nevts=nevts, cache_bytes=0, **CUTS)
        np.testing.assert_array_equal(
            np.concatenate(cached), np.concatenate([block for block, _ in streaming.epoch(0)])
        )
        assert len(np.concatenate(cached)) == data.train_events
        assert len(seen.sample.rows) == min(len(left), 10_000)

    def test_an_rntuple_gives_the_rows_of_a_tree(self, tmp_path: Path, stack: ExitStack) -> None:
        """With lists of records there; here they are branches of their own, each with a counter."""
        branches = content(900, 1)
        tree = write(tmp_path / "tree.root", branches)
        new = tmp_path / "new.root"
        jets = ak.zip({"pt": branches["jet_pt"], "id": branches["jet_id"]})
        flat = {k: v for k, v in branches.items() if not k.startswith("jet")}
        with uproot.recreate(new) as file:
            fields = ak.Array(flat | {"jet": jets})
            file.mkrntuple("Events", fields)
        dotted = json.loads(json.dumps(CUTS).replace("jet_pt", "`jet.pt`"))
        rows = []
        for path, cuts in ((tree, CUTS | {"exclude_branches": ["njet_*"]}), (new, dotted)):
            data, _ = streamed(stack, [path], ["half"], **cuts)
            found = np.concatenate([chunk[0] for chunk in data.chunks()])
            rows.append(found[np.lexsort(found.T)])
        assert len(rows[0]) > 50
        np.testing.assert_array_equal(*rows)

    def test_new_lists_get_the_columns_that_were_asked_for(
        self, tmp_path: Path, stack: ExitStack
    ) -> None:
        files = two(tmp_path)
        for sizes, jdim in (
            ({"twice": 1}, {"jet_id": 3, "jet_pt": 3, "twice": 1}),
            ({"jet": 2, "tw*": 1}, {"jet_id": 2, "jet_pt": 2, "twice": 1}),
        ):
            task = prepared(stack, files, max_vec_sizes=sizes, **CUTS)
            assert task.specs.jdim == jdim
        with pytest.raises(UsageError, match="max_vec_sizes: 'ht' is neither a jagged branch"):
            prepared(stack, files, max_vec_sizes={"ht": 1}, **CUTS)

    def test_lists_are_sorted_before_they_are_cut_off(
        self, tmp_path: Path, stack: ExitStack
    ) -> None:
        files = two(tmp_path)
        data, _ = streamed(
            stack, files, order={"jet": "jet_pt"}, max_vec_sizes={"jet": 1}, identifier=["run"]
        )
        specs = data.task.specs
        events = arrays(files)
        hardest = ak.argmax(events.jet_pt, axis=1, keepdims=True)
        found = np.concatenate([chunk[0] for chunk in data.chunks()]).astype(float)
        for branch in ("jet_pt", "jet_id"):
            low, high = specs.minv[branch], specs.maxv[branch]
            ids, at = specs.columns.index("id"), specs.columns.index(f"{branch}_0")
            rows = found[np.argsort(found[:, ids]), at] * (high - low) + low
            first = ak.fill_none(ak.flatten(events[branch][hardest], axis=1), low)
            np.testing.assert_allclose(rows, first[ak.argsort(events.id)], atol=1e-4)

    def test_specs_fit_as_long_as_the_cuts_are_the_same(
        self, tmp_path: Path, stack: ExitStack
    ) -> None:
        files = two(tmp_path)
        first = prepared(stack, files, **CUTS)
        again = prepared(stack, files, **CUTS)
        assert again.specs.to_json() == first.specs.to_json()
        assert again.warnings == []
        assert again.cut_flow
        other = prepared(stack, files, **CUTS | {"selection": "met > 20"})
        assert "selection was 'count(jet_pt) > 0" in " ".join(other.warnings)

    def test_what_leaves_nothing_is_named_with_the_count(
        self, tmp_path: Path, stack: ExitStack
    ) -> None:
        files = two(tmp_path)
        told = "leaves none of 1500 events: 1500 after run > 0; 0 after met > 1e6; 0 after run > 0"
        with pytest.raises(DataError, match=told) as error:
            prepared(stack, files, selection="run > 0 and met > 1e6 and run > 0")
        assert error.value.remedy == "Loosen met > 1e6, or what stands before it."
        told = "leaves no event of the class 'sig' of its 600: 0 after run == 1"
        with pytest.raises(DataError, match=told):
            prepared(stack, files, ["bkg", "sig"], selection="run == 1")
        with pytest.raises(DataError, match="objects: jet: jet_pt > 1e9 leaves no entry in any"):
            prepared(stack, files, objects={"jet": "jet_pt > 1e9"})

    def test_lists_that_are_always_empty_may_be_sorted(
        self, tmp_path: Path, stack: ExitStack
    ) -> None:
        files = []
        for seed, name in enumerate(("a.root", "b.root")):
            branches = content(300, seed)
            branches |= {key: branches[key][:, :0] for key in ("jet_pt", "jet_id")}
            files.append(write(tmp_path / name, branches))
        task = prepared(stack, files, order={"jet": "jet_pt"})
        assert task.specs.jdim == {"jet_id": 0, "jet_pt": 0}

    @pytest.mark.parametrize("cache_bytes", [0, 1 << 30])
    @pytest.mark.parametrize("nevts", [-1, 100])
    def test_a_file_that_loses_all_events_is_named(
        self, tmp_path: Path, stack: ExitStack, nevts: int, cache_bytes: int
    ) -> None:
        third = write(tmp_path / "third.root", content(300, 3))
        files = [*two(tmp_path), third]
        data, _ = streamed(
            stack, files, ["bkg", "sig", "bkg"], cache_bytes=cache_bytes, nevts=nevts,
            selection="id < 30000",
        )  # fmt: skip
        told = f"the selection leaves none of the events of {third} (300)"
        assert data.task.warnings == [told]
        assert data.task.cut_flow
        assert data.task.cut_flow.events[-1].tolist() == [900, 600, 0]
        rows = sum(len(rows) for rows, _, _ in data.chunks())
        assert rows == data.task.counts.sum() == (1500 if nevts < 0 else 100)

    @pytest.mark.parametrize(
        ("labels", "more", "role"),
        [
            (["q"], {}, "the label"),
            (None, {"weights": "q"}, "the weight"),
            (None, {"split": {"by": ["q"]}}, "in split: by"),
        ],
    )
    def test_what_is_read_from_the_files_is_not_computed(
        self, tmp_path: Path, stack: ExitStack, labels: Any, more: dict[str, Any], role: str
    ) -> None:
        with pytest.raises(UsageError, match=f"new_variables: 'q' can't be {role}"):
            prepared(stack, two(tmp_path), labels, new_variables={"q": "id + 1"}, **more)

    def test_without_the_keys_nothing_is_read_or_computed_for_them(
        self, tmp_path: Path, stack: ExitStack
    ) -> None:
        phases: list[str] = []
        names = [str(file) for file in two(tmp_path)]
        params, _ = Params.parse({}, "params.json", tmp_path)
        task = prepare(
            names, ["0", "1"], params, tmp_path, stack,
            progress=lambda phase, *_, **__: phases.append(phase),
        )  # fmt: skip
        assert set(phases) == {"specs"}
        assert task.specs.derivation is None
        assert task.cut_flow is None
        events = task.files[0].read(task.branches)
        assert Encoder(task.specs).derive(events) is events
        assert task.use.passing[0].of(events, 0, 900) is events

    def test_classes_of_a_label_branch(self, tmp_path: Path, stack: ExitStack) -> None:
        files = two(tmp_path)[:1]
        with pytest.raises(DataError, match="leaves no event of the class"):
            prepared(stack, files, ["kind"], selection="id < 10002")
        task = prepared(stack, files, ["kind"], selection="kind >= 0")
        assert task.classes == ["0", "1"]
        events = arrays(files)
        assert task.counts.sum(axis=1).tolist() == [ak.sum(events.kind == k) for k in (0, 1)]
        with pytest.raises(UsageError, match="kind is the label"):
            prepared(stack, files, ["kind"], new_variables={"x": "kind + 1"})


def test_values_of_branches_wildcards_and_collections(tmp_path: Path, stack: ExitStack) -> None:
    files = two(tmp_path)
    keys: dict[str, Any] = {
        "selected_branches": ["re:(met|half|jet_(pt|id))", "constant"],
        "missing": {"jet": 3, "re:h.lf": [1, 5]},
        "clip": {"jet_pt": [1, 50], "m*": [None, 100]},
    }
    specs = prepared(stack, files, **keys).specs
    assert (specs.flat, specs.jagged) == (["constant", "half", "met"], ["jet_id", "jet_pt"])
    events = arrays(files)
    assert specs.missing["half"] == ak.sum(events.half == 1)
    assert specs.missing["jet_id"] == ak.sum(events.jet_id == 3)
    assert (specs.minv["jet_pt"], specs.maxv["jet_pt"], specs.maxv["met"]) == (1, 50, 100)
    assert prepared(stack, files, **keys).warnings == []
    again = prepared(stack, files, **keys, normalisation="standard", mask=True)
    assert any("rewritten, as it no longer fits: mask was None" in w for w in again.warnings)
    never = prepared(stack, files, missing={"jet_pt": -999, "jet_*": 3})
    assert "missing: no value of jet_pt is -999" in never.warnings
    for wrong, told in (
        ({"missing": {"jets": 3}}, "missing: 'jets' is neither a branch in use"),
        ({"clip": {"je*": [0, 1], "*_pt": [0, 2]}}, r"clip: several fit the branch jet_pt: 'je"),
        ({"exclude_branches": ["re:nothing.*"]}, "no branch 're:nothing"),
    ):
        with pytest.raises(UsageError, match=told):
            prepared(stack, files, **wrong)


def test_identified_events_keep_their_part_in_other_files(tmp_path: Path, stack: ExitStack) -> None:
    """Merged, sorted again, and with other types; the same model sees the same events."""
    by: dict[str, Any] = {"split": {"by": ["run", "id"]}}
    branches = [content(900, 1), content(600, 2, shift=25)]
    branches = [each | {"copy": each["id"]} for each in branches]
    files = [
        write(tmp_path / f"{name}.root", each)
        for name, each in zip(("background", "signal"), branches, strict=True)
    ]
    places = np.random.default_rng(1).permutation(1500)
    merged = {
        name: ak.concatenate([each[name] for each in branches])[places] for name in branches[0]
    }
    merged["run"] = ak.values_astype(merged["run"], np.uint64)
    merged["lab"] = ak.Array(np.repeat([0, 1], (900, 600)).astype(np.int32)[places])
    other = write_tree(tmp_path / "merged/all.root", "Events", merged)
    parts = []
    for names, labels in ((files, ["0", "1"]), ([other], ["lab"])):
        data, _ = streamed(stack, names, labels, **by)
        assert data.task.split_by == ["run", "id"]
        specs = data.task.specs
        assert not {"run", "id"} & set(specs.columns)  # they tell events apart, no more
        low, high, at = specs.minv["copy"], specs.maxv["copy"], specs.columns.index("copy")
        ids = [
            np.sort(
                np.rint(np.concatenate([b[0][:, at] for b in blocks]) * float(high - low) + low)
            )
            for blocks in (data.epoch(1), data.validation(), data.test())
        ]
        parts.append([each.tolist() for each in ids])
    assert parts[0] == parts[1]
    assert abs(len(parts[0][2]) / 1500 - 0.2) < 0.05
    for wrong, told in (("ids", "no branch 'ids' in .*background"), ("jet_pt", "is jagged")):
        with pytest.raises(UsageError, match=f"split: by: .*{told}"):
            prepared(stack, files, split={"by": [wrong]})
    with pytest.raises(DataError, match=r"background\.root: event 0: nan can't identify it"):
        prepared(stack, files, split={"by": ["met"]})


def _spread(events: ak.Array, used: int) -> ak.Array:
    """``used`` of the events, from 16 places."""
    done = [used * place // 16 for place in range(17)]
    places = [len(events) * begin // used + np.arange(end - begin) for begin, end in pairwise(done)]
    return events[np.concatenate(places)]


def test_columns_of_one_name_are_refused(tmp_path: Path, stack: ExitStack) -> None:
    branches = [content(300, seed) | {"jet_pt_0": np.ones(300)} for seed in (1, 2)]
    files = [write(tmp_path / f"{i}.root", each) for i, each in enumerate(branches)]
    with pytest.raises(DataError, match="two columns would have the name jet_pt_0"):
        prepared(stack, files)


@pytest.mark.parametrize("name", ["selected", "score_b"])
def test_an_observer_that_would_hide_a_score_is_refused(
    tmp_path: Path, stack: ExitStack, name: str
) -> None:
    branches = [content(300, seed) | {name: np.ones(300)} for seed in (1, 2)]
    files = [write(tmp_path / f"{i}.root", each) for i, each in enumerate(branches)]
    with pytest.raises(UsageError, match=f"the observer {name} has the name of a column"):
        prepared(stack, files, ["a", "b"], observers=[name])


@pytest.mark.parametrize("name", ANALYSES)
def test_a_task_is_what_rdataframe_finds(name: str, tmp_path: Path, stack: ExitStack) -> None:
    """Weights and events of each class, ranges and multiplicities after cuts and order."""
    analysis, root = ANALYSES[name], outcome(name)
    params, _ = Params.parse(analysis.params | {"branch": analysis.tree}, "params", tmp_path)
    file = str(written() / analysis.file)
    task = prepare([file], [analysis.labels], params, tmp_path, stack, keep_specs=False)
    selected = np.array(root["selected"])
    classes, weights = (np.array(root[k])[selected] for k in ("labels", "weights"))
    assert task.classes == sorted(set(classes))
    for number, label in enumerate(task.classes):
        mine = weights[classes == label]
        assert task.counts[number].sum() == len(mine)
        assert task.totals.weights[0, number].sum() == pytest.approx(mine.sum(), 1e-12)
        assert task.totals.squares[0, number].sum() == pytest.approx((mine**2).sum(), 1e-12)
    specs = task.specs
    assert specs.scanned == selected.sum()
    for branch, found in root["lists"].items():
        assert specs.jdim[branch] == found["most"], branch
        assert (specs.minv[branch], specs.maxv[branch]) == (found["low"], found["high"]), branch
    for variable, values in root["new"].items():
        numbers = np.array(values, np.float64)[selected]
        finite = numbers[np.isfinite(numbers)]
        assert specs.missing.get(variable, 0) == len(numbers) - len(finite)
        ranges = specs.minv[variable], specs.maxv[variable]
        assert ranges == pytest.approx((finite.min(), finite.max()), 1e-12, 1e-12)


def test_weights_of_files_are_what_rdataframe_finds(tmp_path: Path, stack: ExitStack) -> None:
    """The same events as a TTree and as an RNTuple, each with a factor of its own."""
    analysis, root = ANALYSES["nanoaod"], outcome("nanoaod")
    weights = {"branch": "genWeight", "files": [0.5, 3]}
    params, _ = Params.parse(analysis.params | {"weights": weights}, "params", tmp_path)
    files = [str(written() / ANALYSES[k].file) for k in ("nanoaod", "rntuple")]
    task = prepare(files, [analysis.labels], params, tmp_path, stack, keep_specs=False)
    values = np.array(root["weights"])[root["selected"]]
    labels = np.array(root["labels"])[root["selected"]]
    expected = [[f * values[labels == k].sum() for k in "01"] for f in (0.5, 3)]
    np.testing.assert_allclose(task.totals.weights.sum(axis=2), expected, 1e-12)


@pytest.mark.parametrize(
    ("listed", "match"),
    [
        ({"entries": 599}, "signal.root has 600 entries, but 599 by line 2 of x.json"),
        ({"bytes": 10}, r"signal.root has \d+ bytes, but 10 by"),
        ({"uuid": "0-1"}, "signal.root has .* as UUID, but 0-1 by"),
        ({"name": "none.root"}, "line 2 of x.json: no such file: .*none.root"),
    ],
)
def test_files_that_are_not_what_the_list_says(
    tmp_path: Path, stack: ExitStack, listed: dict[str, Any], match: str
) -> None:
    said = [Listed(str(file), "line 2 of x.json") for file in two(tmp_path)]
    right = FileList([said[0], replace(said[1], entries=600)])
    params, _ = Params.parse({}, "params.json", tmp_path)
    assert prepare(right, ["0", "1"], params, tmp_path, stack).listed is right
    wrong = FileList([said[0], replace(said[1], **listed)])
    with pytest.raises(DataError, match=match):
        prepare(wrong, ["0", "1"], params, tmp_path, stack)

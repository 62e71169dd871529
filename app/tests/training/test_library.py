from __future__ import annotations

import re
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pyarrow.parquet as pq
import pytest
import uproot

from mlaas4hep.core.errors import UsageError
from mlaas4hep.data import TEST, TRAIN, VALIDATION
from mlaas4hep.demo.simulate import write_files
from mlaas4hep.inference.offline import LocalAnswers, predict_files
from mlaas4hep.models.bundle import Bundle
from mlaas4hep.training.export import export
from mlaas4hep.training.library import PARTS, open_data
from real.files import written
from real.write import ANALYSES
from sources.plain import write_tree
from training.root_files import content, two, write
from training.tasks import streamed
from training.test_train import SKLEARN, answers, run

GUIDE = Path(__file__).parents[3] / "docs/how-to/library.md"
CUTS: dict[str, Any] = {
    "identifier": ["run"],
    "selection": "met > 20",
    "objects": {"jet": "jet_pt > 5"},
    "weights": [2, 0.5],
    "class_balance": True,
}


def test_the_guide_s_example_runs(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    (tmp_path / "demo").mkdir()
    write_files(tmp_path / "demo", n=600)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(code, names)
    out = capsys.readouterr().out
    assert "demo/signal.root 1 " in out  # the first entry with two jets
    spec = names["events"].element_spec
    assert [each.dtype.name for each in spec] == ["float32", "int64"]
    assert not (tmp_path / "global-specs.json").exists()


def test_batches_are_what_a_training_gets(tmp_path: Path, stack: ExitStack) -> None:
    files = two(tmp_path)
    data, _ = streamed(stack, files, cache_bytes=0, **CUTS)
    with open_data(files, [0, 1], CUTS) as opened:
        assert opened.columns == data.task.specs.columns
        for part, blocks in (
            ("train", data.epoch(3)), ("validation", data.validation()), ("test", data.test())
        ):  # fmt: skip
            wanted = [np.concatenate(arrays) for arrays in zip(*blocks, strict=True)]
            batches = list(opened.batches(77, part, epoch=3))
            assert [len(b[0]) for b in batches[:-1]] == [77] * (len(batches) - 1)
            for got, expected in zip(zip(*batches, strict=True), wanted, strict=True):
                np.testing.assert_array_equal(np.concatenate(got), expected)
            assert len(wanted[0]) == opened.events[part]
        tensors = [[t.numpy() for t in batch] for batch in opened.tf(100, "test")]
    for i, array in enumerate(wanted):
        np.testing.assert_array_equal(np.concatenate([t[i] for t in tensors]), array)


def test_rows_are_in_order_and_know_part_and_entry(tmp_path: Path, stack: ExitStack) -> None:
    files = two(tmp_path)
    with open_data(files, [0, 1], CUTS) as data:
        rows = list(data.rows())
        at = data.columns.index("id")
        low, high = data.specs.minv["id"], data.specs.maxv["id"]
        seen = 0
        for each in rows:
            ids = np.rint(each.x[:, at].astype(float) * (high - low) + low)
            np.testing.assert_array_equal(ids, each.entry + 10_000 * (each.file + 1))
            assert set(each.y) == {each.file}
            assert set(each.w) == {(2, 0.5)[each.file]}
            assert not each.x[each.mask == 1].any()
            seen += len(each.y)
        parts = np.bincount(np.concatenate([each.part for each in rows]), minlength=3)
        assert parts.tolist() == [data.events[part] for part in PARTS]
        assert [PARTS[part] for part in PARTS] == [TRAIN, VALIDATION, TEST]
        assert seen == sum(data.events.values()) < 1500


def test_what_is_kept_stays_and_closing_early_ends_the_reading(
    tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr("mlaas4hep.training.dataset.MIX_BYTES", 1)
    monkeypatch.setattr("mlaas4hep.training.dataset.MIX_EVENTS", 100)

    def reading() -> list[threading.Thread]:
        return [t for t in threading.enumerate() if t.name == "mlaas4hep-read"]

    files = two(tmp_path, (30_000, 20_000))
    with open_data(files, [0, 1], {"identifier": ["run"]}) as data:
        batches = data.batches(100)
        first, second = next(batches), next(batches)
        kept = [array.copy() for array in first]
        for array in second:
            array[:] = 0
        for _ in range(50):
            next(batches)
        for array, copy in zip(first, kept, strict=True):
            np.testing.assert_array_equal(array, copy)
        assert reading()
        start = time.monotonic()
        batches.close()  # type: ignore[attr-defined]
        assert not reading()
        assert time.monotonic() - start < 60
        batches = data.batches(20_000)
        next(batches)
        for _ in data.tf(100):
            break
        del batches
        assert not reading()


def test_texts_are_those_of_the_options(tmp_path: Path, monkeypatch: Any) -> None:
    background, signal = two(tmp_path)
    (tmp_path / "files.txt").write_text(f"{background}\n{signal}\n")
    (tmp_path / "params.json").write_text('{"identifier": ["run"]}')
    monkeypatch.chdir(tmp_path)
    with open_data("files.txt", "1,0", "params.json") as data:
        assert data.files == [str(background), str(signal)]
        assert "run" not in data.columns
        assert next(data.rows()).y[0] == 1
    with open_data(background, "kind") as data:
        assert data.classes == ["-1", "0", "1"]
    with pytest.raises(UsageError, match="1 label for 2 files"):
        open_data("files.txt", "10")


def test_batches_may_be_of_any_size(tmp_path: Path) -> None:
    with open_data(two(tmp_path), [0, 1]) as data:
        for size in (1, 10_000):
            lengths = [len(x) for x, _ in data.batches(size, "test")]
            assert lengths == [min(size, data.events["test"])] * len(lengths)
            assert sum(lengths) == data.events["test"]


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    files = two(tmp_path)
    with pytest.raises(UsageError, match="params: unknown key 'cuts'"):
        open_data(files, [0, 1], {"cuts": "met > 3"})
    with pytest.raises(UsageError, match="1 label for 2 files"):
        open_data(files, [0], {})
    with open_data(files, [0, 1]) as data:
        for size in (0, -5):
            with pytest.raises(UsageError, match=f"size is {size}, expected at least 1"):
                data.batches(size)
        for asked in (data.batches, data.tf):
            with pytest.raises(UsageError, match="no part 'valid'") as error:
                asked(10, "valid")
            assert error.value.remedy == "Did you mean 'validation'?"
    for asked in (data.batches, data.tf, lambda: next(data.rows())):
        with pytest.raises(UsageError, match="the data is closed") as error:
            asked()
        assert "with open_data" in error.value.remedy


def matrix(files: list[Path], params: dict[str, Any]) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Columns, rows and entries of all events that are used."""
    with open_data([str(file) for file in files], ANALYSES["nanoaod"].labels, params) as data:
        rows = list(data.rows())
        return data.columns, *(np.concatenate([r[i] for r in rows]) for i in (0, 6))


def test_the_same_events_as_ttree_and_as_rntuple_give_the_same_rows() -> None:
    """ROOT wrote both; objects, order, new variables and selection are applied to each."""
    params = ANALYSES["nanoaod"].params
    columns, rows, entries = matrix([written() / "nanoaod.root"], params)
    others, of_ntuple, their_entries = matrix([written() / "nanoaod_rntuple.root"], params)
    assert others == columns
    np.testing.assert_array_equal(their_entries, entries)
    np.testing.assert_array_equal(of_ntuple.view(np.int32), rows.view(np.int32))


def test_friends_give_the_rows_of_one_tree_with_all_branches(tmp_path: Path) -> None:
    parts = [content(900, 1), content(600, 2, shift=25)]
    mine, theirs = ("run", "met", "jet_pt"), ("id", "half", "jet_id")
    alone, apart = [], []
    for i, branches in enumerate(parts):
        own = {k: branches[k] for k in mine}
        friend = {k: branches[k] for k in theirs}
        apart.append(write_tree(tmp_path / f"{i}.root", "Events", own))
        write_tree(tmp_path / f"{i}_more.root", "F", friend)
        joined = own | {f"F.{k}": v for k, v in friend.items()}
        alone.append(write_tree(tmp_path / f"{i}_alone.root", "Events", joined))
    params = {
        "selected_branches": ["met", "jet_pt", "F.id", "F.jet_id"],  # without counters
        "new_variables": {"first": "F.jet_id[0] + F.id"},
        "selection": "met > 20 and F.half > 0",
        "max_vec_sizes": {"F.jet_id": 2},
        "weights": "F.half",
    }
    found = []
    for files, friends in ((apart, {"F": "{dir}/{stem}_more.root"}), (alone, {})):
        with open_data(files, [0, 1], params | {"friends": friends}) as data:
            rows = list(data.rows())
            found.append([data.columns, *(np.concatenate([r[i] for r in rows]) for i in (0, 3, 6))])
            assert sum(len(x) for x, *_ in data.batches(100)) == data.events["train"]
    assert found[0][0] == found[1][0]
    assert found[0][0][:3] == ["F.id", "first", "met"]
    for ours, wanted in zip(found[0][1:], found[1][1:], strict=True):
        np.testing.assert_array_equal(ours, wanted)


@pytest.mark.parametrize("split", [{}, {"folds": 4}])
def test_skimmed_files_move_no_event_that_is_known_by_its_identity(
    tmp_path: Path, split: dict[str, int]
) -> None:
    """Fewer events, in another order, fewer branches, smaller clusters; of one file or of two."""
    whole = [content(900, 1), content(600, 2)]

    def parts(files: list[Path], labels: str | list[str]) -> dict[tuple[int, int], int]:
        params = {"split": {"by": ["run", "id"], **split}, "identifier": ["run", "id"]}
        found = {}
        with open_data(files, labels, params) as data:
            for rows in data.rows():
                with uproot.open(files[rows.file]) as file:
                    ids = file["Events"].arrays(["run", "id"], library="np")
                for entry, part in zip(rows.entry.tolist(), rows.part.tolist(), strict=True):
                    found[int(ids["run"][entry]), int(ids["id"][entry])] = part
        return found

    before = parts(
        [write(tmp_path / f"{i}.root", each) for i, each in enumerate(whole)], ["0", "1"]
    )
    random = np.random.default_rng(5)
    skims = []
    for each in whole:
        kept = random.permutation(np.flatnonzero(np.nan_to_num(each["met"]) > 30))
        skims.append({name: each[name][kept] for name in ("run", "id", "met", "jet_pt", "half")})
    files = [tmp_path / "skim0.root", tmp_path / "skim1.root"]
    merged = tmp_path / "merged.root"
    for path, contents in ((files[0], skims[:1]), (files[1], skims[1:]), (merged, skims[::-1])):
        with uproot.recreate(path) as file:
            kinds = {name: "var * float32" if name == "jet_pt" else a.dtype
                     for name, a in skims[0].items()}  # fmt: skip
            file.mktree("Events", kinds)
            for each in contents:
                for at in range(0, len(each["run"]), 70):
                    file["Events"].extend({name: a[at : at + 70] for name, a in each.items()})
    after = parts(files, ["0", "1"])
    assert 300 < len(after) < len(before) == 1500
    assert set(after.values()) == {TRAIN, VALIDATION, TEST}
    assert after == {event: before[event] for event in after}
    assert parts([merged], ["half"]) == after


def test_names_that_are_not_ascii(tmp_path: Path) -> None:
    """From ROOT files to specs, rows, a trained model, an export and predictions."""
    random = np.random.default_rng(3)
    for i, name in enumerate(("Untergrund_ö", "σήμα")):
        counts = random.integers(0, 3, 300)
        pt = random.exponential(20, 300).astype(np.float32) + 30 * i
        eta = ak.unflatten(random.normal(size=counts.sum()).astype(np.float32), counts)
        write_tree(tmp_path / f"{name}.root", "Events", {"µ_pt": pt, "Δη": eta, "weird 名": pt * 2})
    params = {
        "new_variables": {"µ_twice": "2 * µ_pt"},
        "selection": "µ_pt > 5",
        "max_vec_sizes": {"Δη": 2},
        "weights": {"files": {"σήμα.root": 2, "*ö.root": 1}},
    }
    files = [str(tmp_path / "Untergrund_ö.root"), str(tmp_path / "σήμα.root")]
    columns = ["nΔη", "weird 名", "µ_pt", "µ_twice", "Δη_0", "Δη_1"]
    with open_data(files, ["ö", "σ"], params) as data:
        assert data.columns == columns
        assert data.classes == ["ö", "σ"]
        rows = list(data.rows())
        for name in ("x.npz", "x.parquet"):
            export(data, tmp_path / name)
    with np.load(tmp_path / "x.npz") as found:
        assert found["columns"].tolist() == columns
        assert found["classes"].tolist() == ["ö", "σ"]
        np.testing.assert_array_equal(found["x"], np.concatenate([each.x for each in rows]))
    assert pq.read_schema(tmp_path / "x.parquet").names[:6] == columns
    result = run(tmp_path, ",".join(files), "ö,σ", SKLEARN, **params)
    assert result.metrics["auc"] > 0.8
    bundle = Bundle.open(result.bundle, verify=True)
    assert bundle.columns == columns
    answer = LocalAnswers(bundle)
    [(scores, _)] = predict_files(
        files[:1], "Events", list(answer.kinds), answer, kinds=answer.kinds
    )
    kept = rows[0].entry
    expected = answers(result.bundle, rows[0].x)
    np.testing.assert_array_equal(scores[kept], expected)

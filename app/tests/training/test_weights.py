from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pytest
import uproot
from sklearn.metrics import log_loss, roc_auc_score

from mlaas4hep.core.errors import DataError, ModelError, UsageError
from mlaas4hep.data import TEST, TRAIN, VALIDATION, Encoder, file_key, membership
from mlaas4hep.data.histograms import Distributions
from mlaas4hep.models.bundle import Bundle
from mlaas4hep.sources.root import RootFile
from mlaas4hep.training.dataset import Dataset
from mlaas4hep.training.weights import Totals, WeightsKey
from training.root_files import content, write
from training.tasks import prepared, streamed
from training.test_train import answers, run

LOGISTIC = """
from sklearn.linear_model import LogisticRegression

def model(idim):
    return LogisticRegression(C=10)
"""
SAMPLE = {"cross_section": 10.0, "luminosity": 3.0, "sum_of_weights": 60.0}


def with_weights(folder: Path, bad: float | None = None) -> list[Path]:
    """Background and signal with ``gen``, about a quarter of which is negative."""
    files = []
    for name, events, seed in (("background", 900, 1), ("signal", 600, 2)):
        branches = content(events, seed, shift=25 * (seed - 1))
        random = np.random.default_rng(seed)
        branches["gen"] = random.choice([0.5, 2.0, -0.5], events, p=[0.5, 0.25, 0.25])
        if bad is not None and name == "signal":
            branches["gen"][77] = bad
        files.append(write(folder / f"{name}.root", branches))
    return files


def gen(files: list[Path]) -> list[Any]:
    found = []
    for file in files:
        with uproot.open(file) as opened:
            found.append(opened["Events/gen"].array(library="np"))
    return found


def parts_of(files: list[Path], position: int, seed: int = 21) -> Any:
    with RootFile(str(files[position]), "Events") as file:
        return membership(seed, file_key(position, file.uuid), 0, file.entries)


@pytest.mark.parametrize(
    ("value", "numbers"),
    [
        ("gen", [1, 1]),
        ([2, 0.25], [2, 0.25]),
        ({"files": [2, SAMPLE]}, [2, 0.5]),
        ({"branch": "gen", "files": {"*/tt_?.root": 3, "data": SAMPLE}}, [3, 0.5]),
        ({"files": {"tt_1.root": 1, "data.root": -2}}, [1, -2]),
    ],
)
def test_each_form(value: Any, numbers: list[float]) -> None:
    key = WeightsKey.parse(value)
    assert key is not None
    found = key.of_files(["/a/tt_1.root", "root://b//c/data.root"], ["ttbar", "data"])
    assert found.per_file == numbers
    assert found.branch == ("gen" if "gen" in str(value) else None)


def test_numbers_by_dataset() -> None:
    key = WeightsKey.parse({"files": {"/TT*": 3, "data": 2}})
    assert key is not None
    files = ["a_1.root", "a_2.root", "b.root"]
    assert key.of_files(files, [], ["/TT_1", "/TT_2", "data"]).per_file == [3, 3, 2]
    with pytest.raises(UsageError, match=r"'data' matches no file\n.*'date'"):
        key.of_files(files, [], ["/TT_1", "/TT_2", "date"])


@pytest.mark.parametrize(
    ("value", "match"),
    [
        ({}, "weights names neither a branch nor files"),
        ("", "weights names neither a branch nor files"),
        ([], "weights names neither a branch nor files"),
        ({"branches": "w"}, "weights has the unknown part 'branches'\n.*'branch'"),
        ({"branch": 5}, "branch is 5, not a name"),
        ({"files": 5}, "files is 5, neither a list nor an object"),
        ([1, "a"], "'file 1' has 'a', not a number but 0"),
        ([True, 1], "'file 0' has True"),
        ([1, 0], "'file 1' has 0,"),
        ([1, 10**400], "'file 1' has 1000"),
        (
            {"files": {"a": {"cross_section": 1}}},
            "'a' has cross_section, expected cross_section, l",
        ),
        ({"files": {"a": SAMPLE | {"luminosity": -1}}}, "luminosity of 'a' is -1, not positive"),
        ([1, 2, 3], "3 numbers for 2 files"),
        ({"files": {"signal.root": 1, "dota": 1}}, "'dota' matches no file\n.*'data'"),
        ({"files": {"signal.root": 1}}, "the file data.root has no weight"),
        ({"files": {"*.root": 1, "data": 2}}, r"the file data.root fits '\*.root' and 'data'"),
    ],
)
def test_what_is_wrong_is_named(value: Any, match: str) -> None:
    def understood() -> None:
        if key := WeightsKey.parse(value):
            key.of_files(["signal.root", "data.root"], ["bkg", "data"])

    with pytest.raises(UsageError, match=match):
        understood()


def test_factors_make_the_mean_1_and_balance_the_classes() -> None:
    random = np.random.default_rng(1)
    places = random.integers(0, 6, 3000)
    weights = random.normal(2, 3, 3000)
    totals = Totals.empty(2, 2)
    for file in (0, 1):
        totals.add(file, places[file::2], weights[file::2])
    for balance in (False, True):
        scaled = weights * totals.factors(balance, ["a", "b"]).reshape(-1)[places]
        for part in (TRAIN, VALIDATION):
            assert scaled[places % 3 == part].mean() == pytest.approx(1)
        of_classes = [scaled[places == 3 * k + TRAIN].sum() for k in (0, 1)]
        assert (of_classes[0] == pytest.approx(of_classes[1])) == balance
        np.testing.assert_array_equal(scaled[places % 3 == TEST], weights[places % 3 == TEST])
    for negative, match in (
        (places >= 3, r"weights of the class 'b' add up to -.* over its"),
        (places % 3 == VALIDATION, r"of the \d* validation events add up to -"),
    ):
        totals = Totals.empty(1, 2)
        totals.add(0, places, np.where(negative, -1.0, 1.0))
        with pytest.raises(DataError, match=match):
            totals.factors(False, ["the class 'a'", "the class 'b'"])


@pytest.mark.parametrize("cache_bytes", [0, 1 << 30])
@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("cuts", [{}, {"selection": "met > 20 and count(jet_pt) > 0"}])
def test_each_event_keeps_its_weight(
    tmp_path: Path, stack: ExitStack, cache_bytes: int, shuffle: bool, cuts: dict[str, Any]
) -> None:
    files = with_weights(tmp_path)
    numbers = {"background": 3, "signal.root": 0.5}
    data, _ = streamed(
        stack, files, labels=["background", "signal"], cache_bytes=cache_bytes, shuffle=shuffle,
        weights={"branch": "gen", "files": numbers}, **cuts,
    )  # fmt: skip
    assert "gen" not in data.task.specs.columns
    of_id = {
        10_000 * (i + 1) + entry: w * factor
        for i, (values, factor) in enumerate(zip(gen(files), (3, 0.5), strict=True))
        for entry, w in enumerate(values)
    }
    specs = data.task.specs
    column, low, high = specs.columns.index("id"), specs.minv["id"], specs.maxv["id"]
    for number, blocks in enumerate((data.epoch(1), data.validation(), data.test())):
        rows, _, weights = map(np.concatenate, zip(*blocks, strict=True))
        ids = np.rint(rows[:, column].astype(float) * (high - low) + low).astype(int)
        raw = np.array([of_id[i] for i in ids])
        np.testing.assert_allclose(weights, raw if number == TEST else raw / raw.mean())


def test_yields_are_of_the_selected_events(tmp_path: Path, stack: ExitStack) -> None:
    """The sum of weights that a cross section is divided by is that of all, and given."""
    files = with_weights(tmp_path)
    task = prepared(
        stack, files, ["background", "signal"], selection="met > 20",
        weights={"branch": "gen", "files": [SAMPLE, 2]},
    )  # fmt: skip
    for found, file, factor in zip(task.yields, files, (0.5, 2), strict=True):
        with uproot.open(file) as opened:
            events = opened["Events"].arrays(["met", "gen"], library="np")
        weights = events["gen"][events["met"] > 20] * factor
        assert found["events"] == len(weights)
        assert found["yield"] == pytest.approx(weights.sum())
        assert found["error"] == pytest.approx(np.sqrt((weights**2).sum()))


def test_features_are_not_made_of_weights(tmp_path: Path, stack: ExitStack) -> None:
    files = with_weights(tmp_path)
    names = ["background", "signal"]
    with pytest.raises(UsageError, match="gen is the weight: what the model is given"):
        prepared(stack, files, names, weights="gen", new_variables={"x": "gen * met"})
    assert prepared(stack, files, names, weights="gen", selection="gen > 0").counts.sum() < 1500


def test_a_bad_weight_is_named_by_its_entry(tmp_path: Path, stack: ExitStack) -> None:
    files = with_weights(tmp_path, bad=np.nan)
    with uproot.open(files[1]) as opened:
        met = opened["Events/met"].array(library="np")[77]
    for selection in ("", f"met > {met / 2}"):
        with pytest.raises(DataError, match=r"signal\.root: event 77: the weight branch gen holds"):
            prepared(stack, files, weights="gen", selection=selection)


def test_a_weighted_training_from_end_to_end(tmp_path: Path) -> None:
    files = with_weights(tmp_path)
    result = run(
        tmp_path, "background.root,signal.root", "0,1", LOGISTIC, identifier="run,id",
        weights={"branch": "gen", "files": [4, 1]},
    )  # fmt: skip
    bundle = Bundle.open(result.bundle)
    assert not any("gen" in column for column in bundle.columns)
    scores: list[list[Any]] = [[], [], []]
    truth: list[list[Any]] = [[], [], []]
    weights: list[list[Any]] = [[], [], []]
    for position, values in enumerate(gen(files)):
        parts = parts_of(files, position)
        with RootFile(str(files[position]), "Events") as opened:
            events = opened.read([*bundle.specs.flat, *bundle.specs.jagged])
        found = answers(result.bundle, Encoder(bundle.specs).encode(events))[:, 0]
        for part in range(3):
            scores[part].append(found[parts == part])
            truth[part].append(np.full((parts == part).sum(), position))
            weights[part].append((values * (4, 1)[position])[parts == part])
    s, y, w = ([np.concatenate(part) for part in each] for each in (scores, truth, weights))
    ours, others = y[TEST] == 1, y[TEST] == 0
    pairs = w[TEST][ours][:, None] * w[TEST][others]
    higher = s[TEST][ours][:, None] > s[TEST][others]
    metrics = result.metrics
    assert metrics["counted"] == "weights"
    assert metrics["auc"] == pytest.approx((pairs * higher).sum() / pairs.sum(), abs=1e-5)
    assert metrics["auc"] > 0.6
    of_test = {"sample_weight": w[TEST]}
    assert metrics["loss"] == pytest.approx(log_loss(y[TEST], s[TEST], **of_test), rel=1e-4)
    # Unweighted it is another number, so weights were used.
    assert metrics["auc"] != pytest.approx(roc_auc_score(y[TEST], s[TEST]), abs=1e-3)
    history = json.loads((result.bundle / "history.json").read_text())
    kept = history["epochs"]["val_loss"][history["best"]]
    of_validation = {"sample_weight": w[VALIDATION]}
    assert kept == pytest.approx(log_loss(y[VALIDATION], s[VALIDATION], **of_validation), rel=1e-4)

    recorded = json.loads((result.bundle / "provenance/run.json").read_text())
    assert recorded["weight_branch"] == "gen"
    for position, found in enumerate(recorded["yields"]):
        expected = gen(files)[position] * (4, 1)[position]
        assert found == {
            "file": str(files[position]), "class": str(position), "events": len(expected),
            "yield": pytest.approx(expected.sum()),
            "error": pytest.approx(np.sqrt((expected**2).sum())),
        }  # fmt: skip
    assert "Yields" in (result.bundle / "report.html").read_text()


def test_class_balance_lifts_the_rare_class_and_leaves_metrics_alone(tmp_path: Path) -> None:
    write(tmp_path / "signal.root", content(120, 2, shift=10))
    write(tmp_path / "background.root", content(4000, 1))
    tree = (
        "from sklearn.tree import DecisionTreeClassifier\n"
        "def model(idim):\n    return DecisionTreeClassifier(max_depth=2)\n"
    )
    files = "background.root,signal.root"
    plain, balanced = (
        run(tmp_path, files, "0,1", tree, identifier="run,id", class_balance=balance)
        for balance in (False, True)
    )
    assert plain.metrics["classes"]["1"]["efficiency"] < 0.1
    assert balanced.metrics["classes"]["1"]["efficiency"] > 0.5
    assert balanced.metrics["counted"] == "events"
    assert balanced.metrics["classes"]["1"]["events"] == plain.metrics["classes"]["1"]["events"]
    assert "same total weight" in (balanced.bundle / "report.html").read_text()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_weight_that_is_no_number_is_named(tmp_path: Path, stack: ExitStack, bad: float) -> None:
    files = with_weights(tmp_path, bad)
    with pytest.raises(DataError, match=rf"signal.root: event 77: the .* gen holds {bad}"):
        prepared(stack, files, weights="gen")


def test_a_weight_branch_has_one_number_per_event(tmp_path: Path, stack: ExitStack) -> None:
    files = with_weights(tmp_path)
    with pytest.raises(UsageError, match="weights can't be taken from jet_pt, which is jagged"):
        prepared(stack, files, weights="jet_pt")
    with pytest.raises(UsageError, match=r"no branch 'gan' to take weights from\n.*'gen'"):
        prepared(stack, files, weights="gan")


def test_distributions_count_all_events_by_their_own_weights(
    tmp_path: Path, stack: ExitStack
) -> None:
    files = with_weights(tmp_path)
    task = prepared(stack, files, weights={"branch": "gen", "files": [4, 1]}, class_balance=True)
    found = Distributions(task.specs, task.classes, weighted=True)
    Dataset(task).first_pass(distributions=found)
    for branch in ("kind", "jet_id"):
        histograms = dict(found)[branch]
        for index, (path, number) in enumerate(zip(files, (4, 1), strict=True)):
            with uproot.open(path) as file:
                events = file["Events"].arrays([branch, "gen"])
            values, weights = ak.broadcast_arrays(events[branch], events["gen"] * number)
            values, weights = (np.asarray(ak.ravel(each)) for each in (values, weights))
            before = histograms.before
            expected = np.bincount(values - values.min(), weights)
            np.testing.assert_allclose(before.sums[index, 1:-1], expected)
            np.testing.assert_allclose(histograms.after.sums[index, 1:-1], expected)
            assert before.entries[index].sum() == len(values)
            if histograms.lengths:
                lengths = np.asarray(ak.num(events[branch]))
                expected = np.bincount(lengths, np.asarray(events["gen"]) * number)
                np.testing.assert_allclose(histograms.lengths.sums[index, 1:-1], expected)


def test_a_classifier_without_weights_is_refused_before_the_training(tmp_path: Path) -> None:
    with_weights(tmp_path)
    neighbours = (
        "from sklearn.neighbors import KNeighborsClassifier\n"
        "def model(idim):\n    return KNeighborsClassifier()\n"
    )
    seen: list[Any] = []
    with pytest.raises(ModelError, match="KNeighborsClassifier can't be trained on weighted"):
        run(tmp_path, "background.root,signal.root", "0,1", neighbours, seen=seen, weights="gen")
    assert "training" not in {what[0] for what, _ in seen}

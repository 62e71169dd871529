from __future__ import annotations

import json
import re
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pytest

from mlaas4hep.training.suspects import by_name, warnings_about
from real.files import REAL, RealFile, each
from training.root_files import write
from training.tasks import streamed

NO_FEATURES = {
    "weight": "genWeight LHEWeight_originalXWGTUP LHEScaleWeight Generator_weight puWeightUp"
    " mcEventWeight EventInfoAuxDyn.mcEventWeights weight_mc weight_pileup sWeight nsig_sw"
    " Event.Weight weight w lumi_weight eventWeight wgt",
    "cross section": "xsec xSec cross_section Event.CrossSection crossSectionError",
    "identifier": "event run luminosityBlock evt lumi eventNumber runNumber evtNo runNo lumiBlock"
    " EventInfoAuxDyn.runNumber EventInfo.eventNumber Event.Number bcid",
    "candidates": "totCandidates nCandidate",
    "bookkeeping": "Jet.fUniqueID Muon.fBits Event/Event.fUniqueID",
    "sample": "mcChannelNumber EventInfoAuxDyn.mcChannelNumber sample process dataset_id dsid isMC",
    "label": "label target isSignal class y_true is_background",
    "truth": "GenPart_pt nGenJet Jet_hadronFlavour Muon_genPartFlav Pileup_nTrueInt LHE_HT B_TRUEID"
    " Kplus_BKGCAT mu_MC_MOTHER_ID TruthMuonsAuxDyn.pt jet_truthMatched truth_pt GenJet.PT",
}
ORDINARY = (
    "width jet_width eventShape event_shape runningMass runtime weightedMass weighted_mean W W_mass"
    " Jet_puppiWeight Jet/Jet.TauWeight Muon_pdgId classifier_score sample_mean targetMass"
    " genuine_tau lumiDistance nPV rho HT nJet charge generationAge signal_strength process_time"
    " mcal_energy trueness labelled id kind good met MET_pt Jet_btag time aplanarity M isolation x"
)


@pytest.mark.parametrize(
    ("name", "why"), [(name, why) for why, names in NO_FEATURES.items() for name in names.split()]
)
def test_names_that_are_no_features(name: str, why: str) -> None:
    assert why in by_name(name)
    assert by_name(name.upper() if name == name.lower() and len(name) > 1 else name)


@pytest.mark.parametrize("name", ORDINARY.split())
def test_ordinary_names_raise_no_alarm(name: str) -> None:
    assert by_name(name) == ""


def events(n: int, seed: int, **more: Any) -> dict[str, Any]:
    """Physics that is the same whatever the seed, and what ``more`` adds to it."""
    random = np.random.default_rng(seed)
    counts = random.integers(0, 4, n)
    return {
        "run": np.full(n, 1, np.int32),
        "met": random.exponential(30, n),
        "flag": random.random(n) < 0.0004,
        "charge": random.integers(-1, 2, n).astype(np.int32),
        "jet_pt": ak.unflatten(random.exponential(20, counts.sum()), counts),
    } | more


def lists(counts: Any, seed: int, value: float | None = None) -> ak.Array:
    total = int(np.sum(counts))
    content = np.random.default_rng(seed).normal(50, 9, total)
    return ak.unflatten(content if value is None else np.full(total, value), counts)


def warned(
    folder: Path,
    files: list[dict[str, Any]],
    labels: list[str],
    cache: int = 1 << 30,
    **params: Any,
) -> list[str]:
    paths = [write(folder / f"{index}.root", content) for index, content in enumerate(files)]
    with ExitStack() as stack:
        data, seen = streamed(stack, paths, labels, cache_bytes=cache, **params)
    task = data.task
    return warnings_about(seen.sample, task.specs, task.classes, task.params)


def two_files(**more: Any) -> list[dict[str, Any]]:
    """Each of ``more`` gives a branch from the number of events and the position of the file."""
    return [
        events(n, index, **{name: make(n, index) for name, make in more.items()})
        for index, n in enumerate((900, 700))
    ]


def test_the_same_physics_raises_no_alarm(tmp_path: Path) -> None:
    assert warned(tmp_path, two_files(), ["0", "1"]) == []


@pytest.mark.parametrize("cache", [0, 1 << 30])
def test_a_column_with_one_value_in_each_file(tmp_path: Path, cache: int) -> None:
    files = two_files(norm=lambda n, i: np.full(n, (0.01, 1.0)[i], np.float32))
    (warning,) = warned(tmp_path, files, ["0", "1"], cache)
    assert "norm (one value in each file; alone separates the classes, AUC 1.000)" in warning
    assert warning.endswith('in params.json: "exclude_branches": ["norm"]')
    assert "met" not in warning


def test_it_is_named_where_each_class_has_files_of_several_values(tmp_path: Path) -> None:
    values = [1.0, 5.0, 2.0, 4.0]  # alone these tell no class
    files = [events(300, i, norm=np.full(300, value)) for i, value in enumerate(values)]
    (warning,) = warned(tmp_path, files, ["0", "0", "1", "1"])
    assert "norm (one value in each file)" in warning


def test_a_list_of_one_value_in_each_file(tmp_path: Path) -> None:
    def make(n: int, i: int) -> ak.Array:
        return lists(np.random.default_rng(i).integers(0, 3, n), i, float(i))

    (warning,) = warned(tmp_path, two_files(jet_year=make), ["0", "1"])
    assert "jet_year (one value in each file)" in warning


def test_a_column_that_alone_separates(tmp_path: Path) -> None:
    def make(n: int, i: int) -> Any:
        return np.random.default_rng(i).normal(8 * i, 1, n)

    def near(n: int, i: int) -> Any:
        return np.random.default_rng(i).normal(2 * i, 1, n)  # AUC 0.92: a good feature

    (warning,) = warned(tmp_path, two_files(mva=make, good=near), ["0", "1"])
    assert "mva (alone separates the classes, AUC 1.000)" in warning
    assert "good" not in warning
    assert "Are all files in the same units?" in warning


def test_identifiers_are_left_out_as_such(tmp_path: Path) -> None:
    files = two_files(
        evtNo=lambda n, i: np.arange(n), weight=lambda n, i: np.random.default_rng(i).random(n)
    )
    (warning,) = warned(tmp_path, files, ["0", "1"])
    assert "units" not in warning
    assert warning.endswith(
        '"identifier": ["run", "event", "luminosityBlock", "evtNo"]; "exclude_branches": ["weight"]'
    )


def test_it_separates_by_missing_values(tmp_path: Path) -> None:
    def make(n: int, i: int) -> Any:
        return np.random.default_rng(i).normal(50, 5, n) if i else np.full(n, np.nan)

    (warning,) = warned(tmp_path, two_files(truthlike=make), ["0", "1"])
    assert "truthlike (alone separates" in warning


def test_the_number_of_values_separates(tmp_path: Path) -> None:
    def make(n: int, i: int) -> ak.Array:
        return lists(np.random.default_rng(i).integers(4 * i, 4 * i + 4, n), i)

    (warning,) = warned(tmp_path, two_files(part_pt=make), ["0", "1"])
    assert "part_pt (the number of its values alone separates the classes, AUC 1.000)" in warning
    assert "jet_pt" not in warning


def test_one_of_three_classes(tmp_path: Path) -> None:
    files = [
        events(300, i, score=np.random.default_rng(i).normal((0, 0, 9)[i], 1, 300))
        for i in range(3)
    ]
    (warning,) = warned(tmp_path, files, ["a", "b", "c"])
    assert "score (alone separates a class, AUC 1.000)" in warning


def test_a_copy_of_the_label_branch(tmp_path: Path) -> None:
    kind = np.random.default_rng(1).integers(0, 3, 900).astype(np.int32)
    shuffled = np.array([7.0, -2.0, 3.0])[kind]
    (warning,) = warned(tmp_path, [events(900, 1, kind=kind, copy=shuffled)], ["kind"])
    assert "copy (one value in each class; alone separates a class" in warning


def test_a_rare_class_is_drawn_whole(tmp_path: Path) -> None:
    files = [
        events(20_000, 0, good=np.random.default_rng(0).normal(0, 1, 20_000)),
        events(30, 1, good=np.random.default_rng(1).normal(9, 1, 30)),
    ]
    (warning,) = warned(tmp_path, files, ["0", "1"], selected_branches=["met", "good"])
    assert "good (alone separates" in warning


def test_what_is_excluded_already_stays_and_what_is_selected_is_told(tmp_path: Path) -> None:
    files = two_files(
        weight=lambda n, i: np.random.default_rng(i).random(n),
        xsec=lambda n, i: np.random.default_rng(i).random(n),
        old=lambda n, i: np.ones(n),
    )
    (warning,) = warned(tmp_path, files, ["0", "1"], exclude_branches=["old"])
    assert "weight (an event weight), xsec (a cross section)" in warning
    assert ' To weight events: "weights": "weight". ' in warning
    assert warning.endswith(json.dumps(["old", "weight", "xsec"]))
    (warning,) = warned(tmp_path, files, ["0", "1"], selected_branches=["met", "xsec"])
    assert warning.endswith("in params.json: take xsec off selected_branches")


def test_of_many_the_worst_are_explained(tmp_path: Path) -> None:
    def any_number(n: int, i: int) -> Any:
        return np.random.default_rng(i).random(n)

    weights = {f"weight_{k:02}": any_number for k in range(40)}
    files = two_files(**weights, zzz=lambda n, i: np.full(n, float(i)))
    (warning,) = warned(tmp_path, files, ["0", "1"])
    assert "not features: zzz (one value in each file; alone separates" in warning
    assert " and 21 more. " in warning
    assert json.loads(warning.rpartition(": ")[2]) == ["zzz", *weights]


@pytest.mark.parametrize("jagged", [False, True])
def test_a_value_that_stands_for_missing(tmp_path: Path, jagged: bool) -> None:
    def make(n: int, i: int) -> Any:
        random = np.random.default_rng(i)
        counts = random.integers(1, 3, n) if jagged else np.ones(n, np.int64)
        values = random.normal(0, 1, counts.sum())
        values[random.random(len(values)) < 0.05] = -999
        return ak.unflatten(values, counts) if jagged else values

    files = two_files(x=make)
    (warning,) = warned(tmp_path, files, ["0", "1"])
    values = np.concatenate([np.asarray(ak.flatten(f["x"], axis=None)) for f in files])
    assert f"x ({(values == -999).mean():.2%} are -999" in warning
    assert "of its range -999 to " in warning
    assert '"missing"' in warning
    assert '"exclude_branches": ["x"]' in warning


@pytest.mark.parametrize("far", [1e30, -1e300, 5000.0])
def test_one_value_far_away(tmp_path: Path, far: float) -> None:
    def make(n: int, i: int) -> Any:
        values = np.random.default_rng(i).normal(0, 1, n)
        values[77] = far if i else values[77]
        return values

    (warning,) = warned(tmp_path, two_files(x=make), ["0", "1"])
    assert "x (99.9 % lie within 1 % of its range" in warning
    assert f"some as far as {far:.6g}" in warning


@pytest.mark.parametrize("normalisation", ["minmax", "standard"])
@pytest.mark.parametrize(
    ("share", "far"), [(0.002, 1e30), (0.002, -1e30), (0.002, 5000), (0.02, 1e30), (0.02, -1e5)]
)
def test_a_few_values_far_away(
    tmp_path: Path, share: float, far: float, normalisation: str
) -> None:
    def make(n: int, i: int) -> Any:
        random = np.random.default_rng(i)
        values = random.normal(0, 1, n)
        chosen = random.permutation(n)[: int(share * n)]
        values[chosen] = far * (random.uniform(0.2, 1, len(chosen)) if share > 0.01 else 1)
        return values

    files = two_files(x=make)
    (warning,) = warned(tmp_path, files, ["0", "1"], normalisation=normalisation)
    assert "a few values squeeze all others into a small part of the range: x (" in warning
    most = max((f["x"].min() if far < 0 else f["x"].max() for f in files), key=lambda x: x / far)
    assert f"{most:.6g}" in warning


ORDINARY_SHAPES = {
    "pt": lambda random, n: 20 * (1 + random.pareto(4, n)),
    "parton": lambda random, n: 20 * (1 + random.pareto(3, n)),
    "tails": lambda random, n: random.standard_t(3, n),
    "mass": lambda random, n: 91 + 1.25 * random.standard_cauchy(n).clip(-36, 400),
    "energy": lambda random, n: random.lognormal(3, 1.5, n),
    "chi2": lambda random, n: random.chisquare(1, n),
    "count": lambda random, n: random.geometric(0.3, n).astype(np.int32),
    "rare": lambda random, n: (random.random(n) < 0.004).astype(np.int32) * 7,
    "muon": lambda random, n: np.where(random.random(n) < 0.97, 0, random.exponential(3e4, n)),
    "tau": lambda random, n: np.where(random.random(n) < 0.996, -1, random.exponential(3e4, n)),
}


@pytest.mark.parametrize("normalisation", ["minmax", "standard"])
def test_ordinary_shapes_raise_no_alarm(tmp_path: Path, normalisation: str) -> None:
    """Spectra, resolutions, counts, and numbers that few events have, others 0 or -1."""
    shapes = ORDINARY_SHAPES.items()
    files = [
        events(20_000, i, **{name: make(np.random.default_rng(i), 20_000) for name, make in shapes})
        for i in range(2)
    ]
    assert warned(tmp_path, files, ["0", "1"], normalisation=normalisation) == []


REAL_TARGETS = {"nanoaod": "MET_pt", "hzz": "MET_px", "zmumu": "M"}
FAR = {
    "nanoAOD_2015_CMS_Open_Data_ttbar.root": [  # -10, 21, -99 and -1 stand for a missing value
        "GenJet_partonFlavour", "Jet_btagCSVV2", "Jet_partonFlavour", "Jet_puIdDisc", "Jet_qgl"
    ],
    "uproot-HZZ.root": ["Jet_btag"],  # -1
}  # fmt: skip


@pytest.mark.parametrize("normalisation", ["minmax", "standard"])
@each(files=[real for real in REAL if any(kind in real.name.lower() for kind in REAL_TARGETS)])
def test_of_real_files_only_stand_ins_are_named(
    tmp_path: Path, real: RealFile, normalisation: str
) -> None:
    target = next(to for kind, to in REAL_TARGETS.items() if kind in real.name.lower())
    with ExitStack() as stack:
        data, seen = streamed(
            stack,
            [real.path],
            [],
            tmp_path,
            branch=real.tree,
            target=target,
            normalisation=normalisation,
            exclude_branches=["HTXS_*"] if target == "MET_pt" else [],  # all NaN
        )
    told = warnings_about(seen.sample, data.task.specs, [], data.task.params, data.task.target)
    squeezed = "".join(each for each in told if each.startswith("a few values"))
    assert re.findall(r"(\w+) \(", squeezed) == FAR.get(real.name, [])


def test_shares_are_of_all_events_though_rare_classes_are_drawn_whole(tmp_path: Path) -> None:
    def make(n: int, i: int) -> Any:
        values = np.random.default_rng(i).normal(0, 1, n)
        values[: n // 2 if i else 0] = -999
        return values

    files = [events(n, i, x=make(n, i)) for i, n in enumerate((40_000, 1_000))]
    (warning,) = warned(tmp_path, files, ["0", "1"], selected_branches=["x"])
    assert "x (1.22% are -999" in warning  # 500 of 41,000


def test_missing_values_are_no_sentinel(tmp_path: Path) -> None:
    def make(n: int, i: int) -> Any:
        values = np.random.default_rng(i).normal(100, 1, n)
        values[::5] = np.nan
        return values

    assert warned(tmp_path, two_files(x=make, y=make), ["0", "1"]) == []

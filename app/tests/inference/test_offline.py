from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import awkward as ak
import numpy as np
import pytest
import uproot

from mlaas4hep.core.errors import DataError, FileError, LedgerError, UsageError
from mlaas4hep.inference.offline import ROWS, LocalAnswers, predict_files, score_file
from mlaas4hep.models.bundle import Bundle
from mlaas4hep.sources.filelist import FileList, Listed
from sources.doctor.answers import serving
from sources.plain import write_tree
from sources.test_remote import RangeHandler
from support.bundles import make_bundle, make_specs

NEEDED = ["met", "nJet", "jet_eta", "jet_pt"]


def write(path: Path, eta: list[int], pt: list[int], **more: np.ndarray) -> str:
    events = len(eta)
    branches = {
        "met": np.ones(events, np.float32),
        "nJet": np.array(eta, np.int32),
        "jet_eta": ak.unflatten(np.ones(sum(eta), np.float32), eta),
        "jet_pt": ak.unflatten(np.ones(sum(pt), np.float32), pt),
    }
    return str(write_tree(path, "Events", branches | more))


def test_lists_of_one_collection_name_file_event_and_lengths(tmp_path: Path) -> None:
    specs = replace(make_specs(), collections=[["jet_eta", "jet_pt"]])
    answer = LocalAnswers(Bundle.open(make_bundle(tmp_path, specs=specs)))
    good = write(tmp_path / "good.root", [2] * 10, [2] * 10)
    assert sum(len(s) for s, _ in predict_files([good], "Events", NEEDED, answer)) == 10
    lengths = [2] * (ROWS + 10)
    other = write(tmp_path / "other.root", lengths, [*lengths[:-1], 3])
    with pytest.raises(DataError) as error:
        list(predict_files([good, other], "Events", NEEDED, answer))
    event = f"event {ROWS + 9}: jet_eta has 2 values, jet_pt has 3"
    assert f"{other}: {event}" in error.value.message


@pytest.mark.parametrize(
    ("limited", "dropped"), [([], 3), (["jet_pt"], 2), (["jet_eta", "jet_pt"], 0)]
)
def test_values_that_are_dropped_on_purpose_are_not_counted(
    tmp_path: Path, limited: list[str], dropped: int
) -> None:
    specs = replace(make_specs(), limited=limited)
    answer = LocalAnswers(Bundle.open(make_bundle(tmp_path, specs=specs)))
    longest = specs.jdim
    path = write(tmp_path / "long.root", [longest["jet_eta"] + 2], [longest["jet_pt"] + 1])
    list(predict_files([path], "Events", NEEDED, answer))
    assert answer.truncated == dropped


def test_branches_that_are_absent_are_all_named_with_the_file(tmp_path: Path) -> None:
    answer = LocalAnswers(Bundle.open(make_bundle(tmp_path)))
    good = write(tmp_path / "good.root", [2], [2])
    path = write_tree(
        tmp_path / "none.root",
        "Events",
        {"met": np.ones(3), "pT_of_jets": np.ones(3), "z": np.ones(3)},
    )
    with pytest.raises(DataError, match=r"none\.root: no branch 'nJet', 'jet_eta'") as error:
        list(predict_files([good, str(path)], "Events", ["met", "nJet", "jet_eta"], answer))
    assert error.value.remedy == "There are: 'pT_of_jets', 'z'."
    with pytest.raises(DataError, match=r"good\.root: no branch 'jet_pT' .* needs it") as error:
        list(predict_files([good], "Events", ["met", "jet_pT"], answer))
    assert "Did you mean 'jet_pt'" in error.value.remedy


def test_a_branch_that_is_a_list_only_here_or_only_in_the_training(tmp_path: Path) -> None:
    answer = LocalAnswers(Bundle.open(make_bundle(tmp_path)))
    lists = ak.Array([[1.0, 2.0], [], [3.0]])
    for name, content in {
        "jagged.root": {"met": lists, "jet_pt": lists, "jet_eta": lists},
        "flat.root": {"met": np.ones(3), "jet_pt": np.ones(3), "jet_eta": lists},
    }.items():
        path = write_tree(tmp_path / name, "Events", content | {"nJet": np.ones(3)})
        with pytest.raises(DataError) as error:
            list(predict_files([str(path)], "Events", NEEDED, answer, kinds=answer.kinds))
        said = {
            "jagged.root": "met is a list per event, but was one number per event",
            "flat.root": "jet_pt is one number per event, but was a list per event",
        }[name]
        assert f"{name}: the branch {said} when the model was trained" in error.value.message
        assert "train on files like this one" in error.value.remedy


def test_a_file_that_is_written_to_while_it_is_predicted(tmp_path: Path) -> None:
    answer = LocalAnswers(Bundle.open(make_bundle(tmp_path)))
    path = write(tmp_path / "new.root", [2] * 10, [2] * 10)
    scores = predict_files([path], "Events", NEEDED, answer)
    next(scores)
    Path(path).write_bytes(Path(path).read_bytes())
    with pytest.raises(FileError, match=r"new\.root was changed while it was read"):
        list(scores)


def test_each_event_has_a_score(tmp_path: Path) -> None:
    answer = LocalAnswers(Bundle.open(make_bundle(tmp_path)))
    path = write(tmp_path / "new.root", [2] * 10, [2] * 10)
    with pytest.raises(LedgerError, match=r"new\.root: 9 scores from event 0 on"):
        list(predict_files([path], "Events", NEEDED, lambda *given: answer(*given)[:-1]))


@pytest.mark.parametrize("name", ["scores.root", "scores.csv"])
def test_scores_are_written_whole_or_not_at_all(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text("older")

    def fill(fails: bool) -> None:
        with score_file(path, ["score_1"]) as add:
            add(np.ones((5, 1), np.float32), {})
            if fails:
                raise DataError("the second file is damaged")

    with pytest.raises(DataError, match="damaged"):
        fill(True)
    assert path.read_text() == "older"
    fill(False)
    assert path.read_bytes()[:4] in (b"root", b"scor")
    assert list(tmp_path.iterdir()) == [path]
    told = pytest.raises(UsageError, match=f"none/{name}: there is no folder .*none")
    with told, score_file(tmp_path / "none" / name, ["score_1"]):
        pass


@pytest.mark.parametrize("name", ["scores.root", "scores.csv"])
def test_observers_of_files_of_other_types(tmp_path: Path, name: str) -> None:
    """As wide as can be; whole numbers and others are told apart, and no event is an empty file."""
    answer = LocalAnswers(Bundle.open(make_bundle(tmp_path)))
    mass, number = np.array([91.2, np.nan]), np.array([7, -1])
    files = [
        write(tmp_path / f"{i}.root", [1, 1], [1, 1], mass=mass.astype(f), n=number.astype(k))
        for i, (f, k) in enumerate([(np.float32, np.int8), (np.float64, np.int64)])
    ]
    other = write(tmp_path / "other.root", [1], [1], mass=np.ones(1), n=np.ones(1))
    path = tmp_path / name

    def predict(*names: str) -> None:
        with score_file(path, ["score_1"], ["n", "mass"]) as add:
            for each in predict_files(names, "Events", NEEDED, answer, observers=["n", "mass"]):
                add(*each)

    predict(*files)
    if name.endswith(".csv"):
        lines = [line.split(",") for line in path.read_text().splitlines()]
        assert lines[0] == ["score_1", "n", "mass"]
        assert [line[1:] for line in lines[1:3]] == [
            ["7", str(float(mass.astype("f4")[0]))],
            ["-1", "nan"],
        ]
        return
    with uproot.open(path) as file:
        found = file["scores"].arrays()
    assert found.n.tolist() == [7, -1, 7, -1]
    np.testing.assert_array_equal(found.mass, [*mass.astype(np.float32), *mass])
    with pytest.raises(DataError, match="the observer n is float64 in one file, int64 in"):
        predict(*files, other)
    predict()
    with uproot.open(path) as file:
        assert file["scores"].num_entries == 0


def test_files_are_opened_as_by_a_training(tmp_path: Path) -> None:
    """Replicas in their order, names by the redirector, and what the list says of a file."""
    answer = LocalAnswers(Bundle.open(make_bundle(tmp_path)))
    (tmp_path / "there").mkdir()
    path = write(tmp_path / "there" / "new.root", [2] * 10, [2] * 10)
    with uproot.open(path) as file:
        uuid = str(file.file.uuid)
    handler = type("Handler", (RangeHandler,), {"folder": tmp_path / "there"})

    def events(said: Listed, redirector: str = "") -> int:
        found = predict_files(FileList([said]), "Events", NEEDED, answer, redirector=redirector)
        return sum(len(scores) for scores, _ in found)

    with serving(handler) as server:
        url = f"{server}/new.root"
        assert events(Listed("new.root"), server) == 10
        assert events(Listed(f"{server}/none.root", replicas=(url,), entries=10, uuid=uuid)) == 10
        with pytest.raises(FileError, match="has 10 entries, but 9 by line 3 of a list"):
            events(Listed(url, "line 3 of a list", entries=9))
        with pytest.raises(FileError, match="as UUID, but 0"):
            events(Listed(url, "line 3 of a list", uuid="0" * 32))

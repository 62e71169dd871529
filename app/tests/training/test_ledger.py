from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uproot

from mlaas4hep.core.errors import LedgerError
from mlaas4hep.data import TEST, TRAIN, VALIDATION, file_key, membership
from mlaas4hep.training.dataset import Dataset
from mlaas4hep.training.ledger import Account, Ledger, Tally
from sources.test_retries import Server
from training.faults import EVENTS, LABELS, flip, four, ledger_of, trained
from training.root_files import content, write
from training.tasks import prepared, streamed


def by_name(ledger: dict[str, Any]) -> dict[str, Any]:
    return {Path(each["file"]).name: each for each in ledger["files"]}


def test_a_training_on_all_events(tmp_path: Path) -> None:
    """Parts as their hash gives them, bytes at least those of the baskets."""
    ledger = ledger_of(trained(four(tmp_path), exclude_branches=["id"]))
    assert ledger["sum"] | {"bytes": 0} == {
        "files": 4,
        "skipped": 0,
        "uncounted": 0,
        "entries": 1400,
        "used": 1400,
        "cut": 0,
        "lost": 0,
        "bytes": 0,
        "retries": 0,
    }
    for position, (name, events) in enumerate(EVENTS.items()):
        with uproot.open(tmp_path / name) as file:
            uuid = str(file.file.uuid)
            packed = sum(file["Events"][k].compressed_bytes for k in ("met", "jet_pt", "kind"))
        parts = membership(21, file_key(position, uuid), 0, events)
        found = by_name(ledger)[name]
        assert found["uuid"] == uuid
        assert found["label"] == LABELS[name]
        assert found["used"] == {
            "train": int((parts == TRAIN).sum()),
            "validation": int((parts == VALIDATION).sum()),
            "test": int((parts == TEST).sum()),
        }
        assert found["read"] == found["selected"] == found["entries"] == events
        assert found["bytes"] > packed
        assert (found["cut"], found["lost"], found["skipped"]) == ({}, 0, None)


def test_each_cut_is_counted_also_what_nevts_leaves_out(tmp_path: Path) -> None:
    ledger = ledger_of(trained(four(tmp_path), selection="met > 30 and kind > -1", nevts=300))
    for name, found in by_name(ledger).items():
        with uproot.open(tmp_path / name) as file:
            events = file["Events"].arrays(["met", "kind"], library="np")
        first = events["met"] > 30
        both = first & (events["kind"] > -1)
        cut = found["cut"]
        assert cut["met > 30"] == int((~first).sum())
        assert cut["kind > -1"] == int((first & ~both).sum())
        assert found["selected"] == int(both.sum())
        assert cut["beyond nevts"] == int(both.sum()) - sum(found["used"].values())
    assert ledger["sum"]["used"] == 300


def test_events_without_a_target_and_folds(tmp_path: Path, stack: ExitStack) -> None:
    """Each event is tested in one fold; a NaN is no target."""
    files = [write(tmp_path / "b1.root", content(500, 1))]
    params: dict[str, Any] = {"target": "met", "split": {"folds": 3}}
    task = prepared(stack, files, [], **params)
    data = Dataset(task)
    tasks = [task, task.of_fold(1), task.of_fold(2)]
    found = Ledger.of(tasks, data.first_pass().read).as_dict()["files"][0]
    without = len(range(0, 500, 37))
    assert found["cut"] == {"met is a number": without}
    assert list(found["used"]) == ["fold 1", "fold 2", "fold 3"]
    assert sum(found["used"].values()) == found["read"] == 500 - without
    for each in tasks[1:]:
        list(Dataset(each).chunks())  # which checks that each event came once


def test_friends_are_accounted_for(tmp_path: Path, stack: ExitStack) -> None:
    files = [four(tmp_path) / name for name in LABELS]
    for seed, (name, events) in enumerate(EVENTS.items()):
        values = content(events, seed)
        write(tmp_path / f"{name[:2]}_friend.root", {"run": values["run"], "z": values["met"]}, "F")
    data, seen = streamed(
        stack, files, list(LABELS.values()), friends={"F": "{dir}/{stem}_friend.root"}
    )
    found = Ledger.of([data.task], seen.read).as_dict()["files"]
    assert all(each["friends"]["F"]["bytes"] > 0 for each in found)


def test_bytes_grow_with_each_pass(tmp_path: Path, stack: ExitStack) -> None:
    files = [four(tmp_path) / name for name in LABELS]
    data, _ = streamed(stack, files, list(LABELS.values()), cache_bytes=0)
    before = [file.traffic.bytes for file in data.task.files]
    list(data.epoch(0))
    after = [file.traffic.bytes for file in data.task.files]
    assert all(a > b for a, b in zip(after, before, strict=True))


@pytest.mark.parametrize("selection", ["", "met > 20"])
@pytest.mark.parametrize(
    "harm", ["twice", "lost", "one for another", "another part", "two parts swapped", "none"]
)
def test_a_pass_that_is_not_as_planned_is_refused(
    tmp_path: Path, stack: ExitStack, harm: str, selection: str
) -> None:
    files = [four(tmp_path) / name for name in LABELS]
    task = prepared(stack, files, list(LABELS.values()), selection=selection)
    tally = Tally(task)
    for index, ranges in enumerate(task.use.ranges):
        passing = task.use.passing[index]
        pieces = [(a, a + 50) for a in range(ranges[0][0], ranges[0][1] - 50, 50)]
        pieces.append((pieces[-1][1], ranges[0][1]))
        if index == 1 and harm in ("twice", "one for another"):
            pieces.append(pieces[1])
        if index == 1 and harm in ("lost", "one for another"):
            del pieces[2]
        for start, stop in pieces:
            parts = task.parts(index, start, stop, {})
            if index == 1 and harm == "another part":
                parts = np.roll(parts, 1) if start > ranges[0][0] else (parts + 1) % 3
            if index == 1 and harm == "two parts swapped" and start == ranges[0][0]:
                at = [int(np.flatnonzero(parts == part)[0]) for part in (TRAIN, TEST)]
                parts[at] = parts[at[::-1]]
            tally.add(index, start, parts.astype(np.uint8))
            assert len(parts) == passing.count(start, stop)
    if harm == "none":
        tally.check()
    else:
        with pytest.raises(LedgerError, match=r"events don't add up: .*b2\.root gave"):
            tally.check()


def test_no_credential_of_an_address_is_in_the_bundle(tmp_path: Path) -> None:
    """The bundle is shared with those who may not read the files."""
    server = Server((four(tmp_path) / "s1.root").read_bytes())
    files = [f"{server.url.rpartition('/')[0]}/s1.root?access_token=Top5ecret"]
    files += [name for name in LABELS if LABELS[name] == "0"]
    told: list[str] = []
    try:
        result = trained(tmp_path, files=files, told=told)
    finally:
        server.close()
    account = ledger_of(result)["files"][0]
    assert account["file"].endswith("/s1.root?access_token=...")
    assert account["used"]
    for text in [*told, *(f.read_bytes().decode("latin-1") for f in result.bundle.rglob("*.*"))]:
        assert "Top5ecret" not in text


def test_an_account_that_does_not_add_up_is_refused() -> None:
    Account("a.root", "", None, 10, 7, {"train": 7}, {"x > 1": 3}).check()
    with pytest.raises(LedgerError, match="10 entries: 7 read, 7 used, 2 cut, 0 lost"):
        Account("a.root", "", None, 10, 7, {"train": 7}, {"x > 1": 2}).check()
    with pytest.raises(LedgerError, match="10 entries: 6 read, 7 used, 3 cut, 0 lost"):
        Account("a.root", "", None, 10, 6, {"train": 7}, {"x > 1": 3}).check()


def test_what_is_left_out_is_in_the_sums(tmp_path: Path) -> None:
    """300 lost events are known; those of a file that was never opened are not."""
    four(tmp_path)
    flip(tmp_path / "b2.root")
    (tmp_path / "s2.root").unlink()
    result = trained(tmp_path)
    ledger = ledger_of(result)
    assert [Path(each["file"]).name for each in ledger["files"]] == list(LABELS)
    assert {k: ledger["sum"][k] for k in ("skipped", "uncounted", "entries", "used", "lost")} == {
        "skipped": 2,
        "uncounted": 1,
        "entries": 1200,
        "used": 900,
        "lost": 300,
    }
    said = "1200 in 4 files: 900 used, 0 cut, 300 lost and those of 1 file that could not be opened"
    assert ("events", said) in result.summary
    assert said in (result.bundle / "report.html").read_text()

"""Trees beside the events' own, entry by entry, as ROOT and RDataFrame write them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pytest
import uproot

from mlaas4hep.core.errors import DataError, UsageError
from mlaas4hep.data import Events
from mlaas4hep.sources.friends import open_files
from mlaas4hep.sources.names import check_friends, friends_of
from mlaas4hep.sources.root import RootFile
from mlaas4hep.sources.scan import scan
from mlaas4hep.sources.selection import IDENTIFIER, Selection, select
from real.files import written
from sources.plain import assert_same, join, plain_tree, write_tree

NANO = "{dir}/{stem}_friend.root"


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def opened(stack: ExitStack, names: list[Any], tree: str, **friends: str) -> list[RootFile]:
    return open_files([str(name) for name in names], tree, friends, IDENTIFIER, stack)


def assert_same_as_uproot(events: Events, files: dict[str, tuple[Path, str]], *at: int) -> None:
    """``files`` has file and tree by what the names begin with."""
    for name, values in events.items():
        friend, dot, own = name.partition(".")
        path, tree = files[friend if dot else ""]
        assert_same(values, path, tree, own if dot else name, *at)


def test_another_tree_of_the_same_file(stack: ExitStack) -> None:
    path = written() / "trees.root"
    (file,) = opened(stack, [path], "events", more="{file}")
    assert list(file.branches) == ["x", "v", "more.y", "more.z"]
    assert file.branches["more.z"].kind == "flat"
    for at in ((0, 300), (17, 18), (299, 300)):
        events = file.read(list(file.branches), *at)
        assert_same_as_uproot(events, {"": (path, "events"), "more": (path, "more")}, *at)


@pytest.mark.parametrize("name", ["nanoaod.root", "nanoaod_rntuple.root"])
def test_a_friend_of_a_ttree_and_of_an_rntuple(name: str, stack: ExitStack) -> None:
    """Read in parts, by window and spread over the file, every entry has its own of the friend."""
    folder = written()
    friend = folder / "nanoaod_friend.root"
    (file,) = opened(stack, [folder / name], "Events", F=f"{friend}:Friend")
    files = {"": (folder / "nanoaod.root", "Events"), "F": (friend, "Friend")}
    names = ["F.event", "event", "Jet_pt", "F.Jet_btag", "MET_pt", "F.score"]
    reader = file.reader(names, 5000)
    while reader.position < reader.stop:
        start = reader.position
        assert_same_as_uproot(reader.take(170), files, start, reader.position)
    spread = file.spread(names, [(0, 2000)], 1 << 20, 300)
    parts = sorted(spread.take(2000), key=lambda part: part[0])
    assert [part[0] for part in parts] == [0, *(part[1] for part in parts[:-1])]
    whole = {name: join([events[name] for *_, events in parts]) for name in names}
    assert_same_as_uproot(whole, files, 0, 2000)


def test_baskets_of_a_friend_may_end_elsewhere(tmp_path: Path, stack: ExitStack) -> None:
    path, random = written() / "hzz.root", np.random.default_rng(2)
    with uproot.recreate(tmp_path / "other.root") as file:
        for start in range(0, 2400, 170):
            events = min(170, 2400 - start)
            lists = ak.unflatten(random.normal(size=3 * events), np.full(events, 3))
            branches = {"y": np.arange(start, start + events), "z": lists}
            if not start:
                file.mktree("F", {"y": "int64", "z": "var * float64"})
            file["F"].extend(branches)
    (file,) = opened(stack, [path], "events", F=str(tmp_path / "other.root"))
    files = {"": (path, "events"), "F": (tmp_path / "other.root", "F")}
    names = ["F.y", "F.z", "Jet_Px", "MET_px"]
    assert file._column("Jet_Px").entry_offsets[1] not in file._column("F.y").entry_offsets
    for at in ((0, 2400), (169, 171), (1000, 1999)):
        assert_same_as_uproot(file.read(names, *at), files, *at)
    reader = file.reader(names, 20_000)
    while reader.position < reader.stop:
        start = reader.position
        assert_same_as_uproot(reader.take(111), files, start, reader.position)
    parts = sorted(file.spread(names, [(0, 2400)], 1 << 16, 200).take(2400), key=lambda p: p[0])
    assert len(parts) > 12
    whole = {name: join([events[name] for *_, events in parts]) for name in names}
    assert_same_as_uproot(whole, files, 0, 2400)


def test_what_identifies_events_is_no_feature_of_a_friend(stack: ExitStack) -> None:
    files = opened(stack, [written() / "nanoaod.root"], "Events", Friend=NANO)
    selection = Selection("Events", exclude_branches=("HTXS_Higgs_y",), weight_branch="genWeight")
    found = select(files, selection)
    friends = [name for names in found for name in names if name.startswith("Friend.")]
    assert friends == ["Friend.score", "Friend.weight", "Friend.Jet_btag"]
    named = Selection("Events", selected_branches=("Friend.event",))
    assert select(files, named).flat == ["Friend.event"]
    specs = scan(files, Selection("Events", selected_branches=("Jet_*", "Friend.*")))
    plain = plain_tree(written() / "nanoaod_friend.root", "Friend")
    score = plain["score"].array(library="np")
    assert (specs.minv["Friend.score"], specs.maxv["Friend.score"]) == (score.min(), score.max())
    (record,) = specs.files[0].friends
    assert (record.tree, record.entries) == ("Friend", 2000)
    assert type(specs).from_json(specs.to_json(), "here") == specs


def test_a_friend_that_changed_makes_specs_stale(tmp_path: Path, stack: ExitStack) -> None:
    def scanned(values: list[float]) -> Any:
        write_tree(tmp_path / "a_f.root", "f", {"y": np.array(values)})
        files = opened(stack, [main], "t", f="{dir}/{stem}_f.root")
        return files, scan(files, Selection("t"))

    main = write_tree(tmp_path / "a.root", "t", {"x": np.arange(3.0)})
    _, specs = scanned([1, 2, 3])
    files, other = scanned([1, 2, 4])
    with pytest.raises(DataError, match=r"stale specs: .*a_f\.root: uuid was"):
        specs.check_fits([file.record for file in files], specs.selection)
    other.check_fits([file.record for file in files], other.selection)


def test_friends_that_do_not_fit_are_named(tmp_path: Path, stack: ExitStack) -> None:
    folder = written()
    nano = folder / "nanoaod.root"
    for place, said in (
        (
            "shorter_friend.root:Friend",
            r"nanoaod\.root has 2000 entries in the tree Events, its friend F, .*shorter_friend"
            r".*, has 1999 in the tree Friend",
        ),
        ("indexed_friend.root:Friend", r"indexed_friend\.root has an index \(TTree::BuildIndex\)"),
        (
            "swapped_friend.root:Friend",
            rf"F: entry 0 is event {2**40 + 1} in .*swapped_friend\.root.*, {2**40} in .*nanoaod",
        ),
        ("none.root", r"friends: F: no such file: .*none\.root"),
        ("nanoaod_friend.root", r"friends: F: .*nanoaod_friend\.root: no tree 'F'"),
    ):
        with pytest.raises(DataError, match=said) as error:
            opened(stack, [nano], "Events", F=f"{folder}/{place}")
        assert error.value.remedy
    two = [write_tree(tmp_path / f"{k}.root", "t", {"x": np.arange(3.0)}) for k in "ab"]
    other = write_tree(tmp_path / "f.root", "F", {"y": np.arange(3.0)})
    with pytest.raises(DataError, match=r"f\.root would be the friend of .*a\.root and of .*b\.r"):
        opened(stack, two, "t", F=str(other))
    dotted = tmp_path / "dotted.root"
    with uproot.recreate(dotted) as file:
        file.mkrntuple("t", {"F.y": np.arange(3.0)})
    with pytest.raises(DataError, match=r"F\.y is a branch of the tree t of .*dotted\.root"):
        opened(stack, [dotted], "t", F=str(other))[0].branches  # noqa: B018


def test_each_tree_of_a_file_has_its_own_friend(tmp_path: Path, stack: ExitStack) -> None:
    """TMVA's layout; the second tree has no events."""
    for path, name, shift in ((tmp_path / "a.root", "x", 0), (tmp_path / "f.root", "y", 100)):
        with uproot.recreate(path) as file:
            for number, tree in enumerate(("TreeS", "TreeB", "TreeNone")):
                file.mktree(tree, {name: "float64"})
                if events := (3, 3, 0)[number]:
                    file[tree].extend({name: np.arange(events) + 10.0 * number + shift})
    names = [f"{tmp_path}/a.root:{tree}" for tree in ("TreeS", "TreeB", "TreeNone")]
    files = opened(stack, names, "Events", F="{dir}/f.root:{tree}")
    read = [file.read(["x", "F.y"]) for file in files]
    assert [len(events["x"]) for events in read] == [3, 3, 0]
    for events in read:
        np.testing.assert_array_equal(events["F.y"], np.asarray(events["x"]) + 100)
    with pytest.raises(DataError, match=r"the tree TreeS of .* would be the friend of"):
        opened(stack, names[:2], "Events", F="{dir}/f.root:TreeS")


def test_a_friend_of_which_a_branch_can_not_be_read(tmp_path: Path, stack: ExitStack) -> None:
    """The friend's file is named, and the branch as it is used."""
    main = write_tree(tmp_path / "a.root", "t", {"x": np.arange(500.0)})
    other = write_tree(tmp_path / "f.root", "F", {"y": np.arange(500.0)})
    with uproot.open(other) as plain:
        seek = int(plain["F"]["y"].member("fBasketSeek")[0])
    content = bytearray(other.read_bytes())
    content[seek + 100 : seek + 300] = bytes(200)
    other.write_bytes(content)
    (file,) = opened(stack, [main], "t", F="{dir}/f.root")
    with pytest.raises(DataError, match=r"f\.root: branch F\.y can't be read"):
        file.read(["x", "F.y"])


def test_where_friends_are() -> None:
    places = {"F": "{dir}/friends/{stem}_f.root:T", "G": "{file}", "H": "/h.root:{tree}"}
    assert friends_of("root://host:1094//store/a.root:Events", "t", places) == {
        "F": "root://host:1094//store/friends/a_f.root:T",
        "G": "root://host:1094//store/a.root",
        "H": "/h.root:Events",
    }
    assert friends_of("a.root", "t", places)["F"] == "./friends/a_f.root:T"
    assert friends_of("/a.root.1", "t", places)["F"] == "/friends/a.root.1_f.root:T"
    assert friends_of("a.root", "t", places)["H"] == "/h.root:t"
    for name, place, said in (
        ("my friend", "a.root", "'my friend' can't be the name"),
        ("F", " ", "no file is named"),
        ("F", "{name}.root", "{name} stands for nothing"),
    ):
        with pytest.raises(UsageError, match=said) as error:
            check_friends({name: place})
        assert error.value.remedy

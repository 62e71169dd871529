from __future__ import annotations

import pytest
from pydantic import ValidationError

from mlaas4hep.core.origins import EVERYTHING, Cache, Door, Doors, doors_of, origins_of
from mlaas4hep.core.settings import JobSettings

GROUPS = {"cms": ["/store/mc/", "/store/data/"], "atlas": ["/atlas/"], "*": ["/store/open/"]}
TWO = "a.org, B.org:1095"


def cache(**settings: object) -> Cache:
    given = {"xrootd_cache": "xrootd-cache:2000", "xrootd_origins": TWO}
    found = JobSettings(**{**given, **settings}).cache
    assert found
    return found


def test_groups_read_their_folders_and_everybodys() -> None:
    ours = JobSettings(data_paths=GROUPS)
    assert ours.paths_of(["cms", "none"]) == ("/store/data/", "/store/mc/", "/store/open/")
    assert ours.paths_of([]) == ("/store/open/",)
    assert JobSettings(data_paths={"cms": ["/a/"]}).paths_of(["atlas"]) == ()
    assert JobSettings().paths_of(["cms"]) is None


@pytest.mark.parametrize("path", ["/store", "store/", "", "/store/../", "/a b/", "/a/,/b/"])
def test_what_is_no_folder_is_refused(path: str) -> None:
    """One without the slash at the end would open others that begin alike."""
    with pytest.raises(ValidationError, match="is no folder of grid data"):
        JobSettings(data_paths={"cms": [path]})


def test_each_origin_has_a_door() -> None:
    ours = cache()
    assert ours.doors == (Door(0, "a.org:1094", EVERYTHING), Door(1, "B.org:1095", EVERYTHING))
    assert ours.open_to(None) == list(ours.doors)
    assert ours.tunnels(ours.doors) == {1094: "xrootd-cache:2000", 1095: "xrootd-cache:2001"}
    assert ours.status == "xrootd-cache:8085"
    assert JobSettings(xrootd_origins=TWO).cache is None
    assert JobSettings(xrootd_cache="xrootd-cache:1094").cache is None


def test_each_folder_that_groups_tell_apart_has_one() -> None:
    ours = cache(data_paths={"cms": ["/mc/", "/open/"], "atlas": ["/open/"], "*": ["/all/"]})
    folders = ["/all/", "/mc/", "/open/"] * 2
    assert [door.folder for door in ours.doors] == folders
    assert [door.number for door in ours.open_to(["/all/", "/open/"])] == [0, 2, 3, 5]
    assert ours.open_to([]) == []
    assert ours.at(ours.doors[4]) == ("xrootd-cache", 2004)


def test_a_pass_names_doors_and_is_void_where_they_are_others() -> None:
    ours, others = cache(), cache(data_paths={"cms": ["/mc/", "/secret/"]})
    assert ours.passed(ours.pass_for(ours.doors[1:])) == [ours.doors[1]]
    assert ours.passed(ours.pass_for([])) == []
    assert others.passed(ours.pass_for(ours.doors)) == []
    assert ours.passed("@") == []


def test_a_training_takes_the_door_of_the_narrowest_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Doors.of_environment() is None
    every = doors_of(origins_of(TWO), ["/store/", "/store/mc/"])
    ours = Cache("xrootd-cache:1094", 8085, tuple(every))
    for name, value in ours.environment(every[:3], 3000).items():
        monkeypatch.setenv(name, value)
    doors = Doors.of_environment()
    assert doors
    assert doors.origins == ("a.org:1094", "B.org:1095")
    assert doors.status == "http://xrootd-cache:8085"
    assert doors.to("a.org:1094", "/store/mc/a.root") == ("127.0.0.1:3001", every[1])
    assert doors.to("a.org:1094", "/store/mcother/a.root") == ("127.0.0.1:3000", every[0])
    assert doors.to("B.org:1095", "/store/mc/a.root") == ("127.0.0.1:3002", every[2])
    assert doors.to("a.org:1094", "/store/../etc/passwd") is None
    assert doors.to("a.org:1094", "/storey/a.root") is None
    assert doors.folders("a.org:1094") == ["/store/", "/store/mc/"]

from __future__ import annotations

import shutil
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pytest
import uproot

from mlaas4hep.core.errors import DataError
from mlaas4hep.data import Branch, Encoder, Jagged
from mlaas4hep.sources.inspect import describe
from mlaas4hep.sources.rntuple import FieldColumn
from mlaas4hep.sources.root import RootFile, known_trees
from mlaas4hep.sources.scan import scan
from mlaas4hep.sources.selection import Selection, select
from real.files import GIVEN_FOLDER, RealFile, written
from real.write import FIELDS
from sources.plain import join, one_list, write_tree

UNREADABLE = {"leptons.hits", "nested", "arrays", "texts", "maybe", "either"}


def assert_is(found: Branch, wanted: ak.Array, name: str, type: str = "") -> None:
    """Values and lengths of lists are the same; of a char uproot drops the sign."""
    if isinstance(found, Jagged):
        wanted = one_list(wanted)
        assert found.counts.tolist() == ak.num(wanted).tolist(), name
        found, wanted = found.content[found.offsets[0] : found.offsets[-1]], ak.flatten(wanted)
    if found.dtype == object:
        assert found.tolist() == wanted.tolist(), name
        return
    values = ak.to_numpy(wanted)
    if type in ("char", "std::vector<char>"):
        values = values.view(np.int8)
    assert found.dtype == values.dtype or "Cardinality" in type, name
    np.testing.assert_array_equal(found, values, err_msg=name)


def compare(path: Path, tree: str, every: int = 1) -> int:
    """Read fields (each ``every``-th) here and with uproot; the number of them."""
    plain = uproot.open({str(path): tree})
    with RootFile(str(path), tree) as file:
        assert file.entries == plain.num_entries
        usable = [b.name for b in file.branches.values() if b.kind != "unsupported"][::every]
        for name, values in file.read(usable).items():
            assert_is(values, plain[name].array(), name, file.branches[name].type)
    return len(usable)


def test_fields_that_root_wrote() -> None:
    """In clusters of 90 events; some fields were added after 150."""
    path = written() / "rntuple.root"
    assert known_trees(str(path)) == ["Events"]
    with RootFile(str(path)) as file:
        kinds = {name: branch.kind for name, branch in file.branches.items()}
        late = file.read(["late", "lates"])
    assert {name for name, kind in kinds.items() if kind == "unsupported"} == UNREADABLE
    others = {"vertex.x", "vertex.tracks", "pair.0", "pair.1", "leptons.pt", "nleptons", "late"}
    known = {field.name for field in FIELDS} - {"vertex", "pair", "leptons"}
    assert set(kinds) == known | others | UNREADABLE | {"leptons.charge", "lates"}
    assert {kinds[name] for name in others} == {"flat", "jagged"}
    assert compare(path, "Events") == len(kinds) - len(UNREADABLE)
    assert not late["late"][:150].any()
    assert late["late"][150:].all()
    assert not late["lates"][:150].counts.any()
    assert compare(written() / "bits.root", "Events") == 1


def test_fields_are_what_root_itself_finds() -> None:
    """RDataFrame, which names the parts of a pair in its own way, is the second opinion."""
    real = RealFile("rntuple.root", "Events")
    opinion = real.opinion()
    [found] = describe(str(real.path), "Events")
    compared = 0
    for branch in found.branches:
        root = opinion.pop(branch.name.replace("pair.", "pair._"), None)
        if root is None or branch.kind == "unsupported":
            continue
        compared += 1
        assert (branch.low, branch.high) == (root["low"], root["high"]), branch
        assert branch.missing == root["missing"], branch
        if branch.multiplicity and not branch.type.startswith("std::array"):
            assert branch.multiplicity[::2] == (root["least"], root["most"]), branch
    assert not opinion
    assert compared >= 30


def test_what_can_not_be_read_names_field_and_type() -> None:
    path = written() / "rntuple.root"
    with RootFile(str(path)) as file:
        with pytest.raises(DataError, match=r"nested \(std::vector<std::vector<float>>\)"):
            file.read(["nested"])
        with pytest.raises(DataError, match=r"maybe \(std::optional<float>, which some events"):
            file.read(["maybe"])
        assert set(select([file], Selection("Events")).left_out) >= UNREADABLE


@pytest.fixture(scope="module")
def clusters(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Five clusters, as uproot writes one per ``extend``, one of them empty of lists."""
    random = np.random.default_rng(3)
    path = tmp_path_factory.mktemp("rntuple") / "clusters.root"
    parts = []
    for events in (400, 1, 300, 250, 49):
        counts = random.integers(0, 4, events) * (events != 250)
        total = int(counts.sum())
        jets = {
            "pt": random.exponential(30, total).astype(np.float32),
            "id": random.integers(-9, 9, total).astype(np.int8),
        }
        parts.append(
            {
                "met": random.normal(size=events),
                "ok": random.random(events) < 0.3,
                "n": random.integers(0, 60000, events).astype(np.uint16),
                "Jet": ak.zip({k: ak.unflatten(v, counts) for k, v in jets.items()}),
                "v": ak.unflatten(random.normal(size=total), counts),
                "kind": [f"kind {i % 3}é" for i in range(events)],
            }
        )
    with uproot.recreate(path) as file:
        file["Events"] = parts[0]
        for part in parts[1:]:
            file["Events"].extend(part)
    whole = {name: ak.concatenate([part[name] for part in parts]) for name in parts[0]}
    jets = whole.pop("Jet")
    return path, whole | {"Jet.pt": jets.pt, "Jet.id": jets.id}


def test_what_uproot_writes_by_default_is_read(clusters: tuple[Path, dict[str, Any]]) -> None:
    path, wanted = clusters
    with RootFile(str(path)) as file:
        assert set(file.branches) == set(wanted)
        counters = {name: branch.counter for name, branch in file.branches.items()}
        assert counters == dict.fromkeys(wanted, "") | {"Jet.pt": "Jet", "Jet.id": "Jet"}
        for start, stop in ((0, 1000), (399, 402), (400, 401), (701, 950), (5, 5), (990, 2000)):
            for name, values in file.read(list(wanted), start, stop).items():
                assert_is(values, wanted[name][start:stop], name)


@pytest.mark.parametrize("window", [1, 50_000, 1 << 24])
def test_windows_of_clusters(
    clusters: tuple[Path, dict[str, Any]], window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every cluster is unpacked once, and no more at a time than fit a window."""
    path, wanted = clusters
    decoded: Counter[tuple[Any, int]] = Counter()
    decode = FieldColumn.decode

    def counting(self: FieldColumn, number: int, chunks: list[Any]) -> object:
        decoded[self, number] += 1
        return decode(self, number, chunks)

    monkeypatch.setattr(FieldColumn, "decode", counting)
    parts: dict[str, list[Branch]] = {name: [] for name in wanted}
    with RootFile(str(path)) as file:
        reader = file.reader(list(wanted), window)
        while reader.position < 1000:
            for name, values in reader.take(90).items():
                parts[name].append(values)
            if reader.position == 90:
                first = len({number for _, number in decoded})
    assert first == {1: 1, 50_000: 3, 1 << 24: 5}[window]
    assert set(decoded.values()) == {1}
    for name, pieces in parts.items():
        assert_is(join(pieces), wanted[name], name)


def test_specs_and_rows_are_those_of_the_same_events_in_a_tree(
    clusters: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    path, wanted = clusters
    wanted = {name: values for name, values in wanted.items() if name != "kind"}
    tree = {name.replace(".", "_"): values for name, values in wanted.items()}
    other = write_tree(tmp_path / "tree.root", "Events", tree)
    rows = []
    with ExitStack() as stack:
        for file, sign in ((path, "."), (other, "_")):
            opened = stack.enter_context(RootFile(str(file)))
            chosen = tuple(name.replace(".", sign) for name in wanted)
            specs = scan([opened], Selection(selected_branches=chosen))
            assert sign == "_" or specs.collections[0] == ["Jet.id", "Jet.pt"]
            reader = opened.spread(chosen, [(0, 1000)], 1 << 20, 200)
            found = np.empty((1000, specs.width), np.float32)
            for _ in range(10):
                for start, stop, events in reader.take(100):
                    found[start:stop] = Encoder(specs).encode(events)
            rows.append(found)
    np.testing.assert_array_equal(*rows)


def test_a_damaged_page_is_found(tmp_path: Path) -> None:
    """Also one that isn't compressed, in which every byte could be a value."""
    path = shutil.copy(written() / "rntuple.root", tmp_path / "damaged.root")
    with RootFile(str(path)) as file:
        start, stop = file._column("d").places(2)[0]
    content = bytearray(path.read_bytes())
    content[(start + stop) // 2] ^= 1
    path.write_bytes(content)
    with RootFile(str(path)) as file:
        assert len(file.read(["d"], 0, 180)["d"]) == 180
        with pytest.raises(DataError, match=r"damaged\.root: branch d .* damaged.*checksum"):
            file.read(["d"])


def test_no_events(tmp_path: Path) -> None:
    path = tmp_path / "none.root"
    with uproot.recreate(path) as file:
        file.mkrntuple("Events", {"x": np.dtype(np.float32), "v": "var * int16"})
    with RootFile(str(path)) as file:
        assert file.entries == 0
        events = file.read(["x", "v"])
    assert (events["x"].dtype, len(events["v"])) == (np.float32, 0)


PHYSLITE = GIVEN_FOLDER / "uproot-physlite-rntuple_v1-0-0-0.root"
REAL = [("nanoaod_rntuple.root", {"Events": 5})]
"""Files as experiments write them, and how many fields of each tree are compared, at least."""
if PHYSLITE.is_file():
    REAL.append((str(PHYSLITE), {"EventData": 60, "EventTag": 14}))


@pytest.mark.parametrize(("name", "trees"), REAL)
def test_files_of_experiments(name: str, trees: dict[str, int]) -> None:
    path = written() / name
    assert trees.keys() <= set(known_trees(str(path)))
    for tree, fields in trees.items():
        assert compare(path, tree, 12 if fields > 50 else 1) >= fields

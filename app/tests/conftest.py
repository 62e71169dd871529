"""Files that tests of several parts read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import awkward as ak
import numpy as np
import pytest
import uproot
from hypothesis import HealthCheck, settings

from parts.xrootd import (
    Bucket,
    Pki,
    Redirector,
    XRootD,
    gsi_origin,
    plain_origin,
    redirector,
    s3,
    token_origin,
)

# Neither chance nor the load of the machine decides what passes.
settings.register_profile(
    "tests", derandomize=True, deadline=None, suppress_health_check=list(HealthCheck)
)
settings.load_profile("tests")


@pytest.fixture(scope="session")
def small_files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two files with the tree "events" of 700 and 300 events in baskets of 100.

    Flat: run (constant), x (float32), y (double), n (int32), nJet (the counter of the lists);
    jagged: Jet_pt, Jet_eta (float32), Jet_id (int32).
    """
    folder = tmp_path_factory.mktemp("small")
    files = []
    for seed, (name, events) in enumerate((("a.root", 700), ("b.root", 300))):
        rng = np.random.default_rng(seed)
        path = folder / name
        with uproot.recreate(path) as file:
            for start in range(0, events, 100):
                counts = rng.poisson(2, 100)
                total = int(counts.sum())
                jets = {
                    "pt": rng.exponential(30, total).astype(np.float32),
                    "eta": rng.normal(size=total).astype(np.float32),
                    "id": rng.integers(-3, 3, total, dtype=np.int32),
                }
                chunk = {
                    "run": np.full(100, 7, np.int32),
                    "x": rng.normal(size=100).astype(np.float32),
                    "y": rng.normal(100, 5, size=100),
                    "n": rng.integers(0, 9, 100, dtype=np.int32),
                    "Jet": ak.zip({k: ak.unflatten(v, counts) for k, v in jets.items()}),
                }
                if start:
                    file["events"].extend(chunk)
                else:
                    file.mktree("events", {k: ak.Array(v).type for k, v in chunk.items()})
                    file["events"].extend(chunk)
        files.append(path)
    return files


# Servers of remote files for the tests with the marker `grid`. Each starts once, when a test asks
# for it, and has no files but those that tests put there, under names of their own.


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    """The authority that the servers trust, and whose proxies and tokens they take."""
    return Pki(tmp_path_factory.mktemp("grid") / "pki")


@pytest.fixture(scope="session")
def plain() -> Iterator[XRootD]:
    with plain_origin() as server:
        yield server


@pytest.fixture(scope="session")
def gsi(pki: Pki) -> Iterator[XRootD]:
    with gsi_origin(pki) as server:
        yield server


@pytest.fixture(scope="session")
def tokens(pki: Pki) -> Iterator[XRootD]:
    with token_origin(pki) as server:
        yield server


@pytest.fixture(scope="session")
def redirecting(pki: Pki) -> Iterator[Redirector]:
    with redirector(pki) as server:
        yield server


@pytest.fixture(scope="session")
def bucket(pki: Pki) -> Iterator[Bucket]:
    with s3(pki) as server:
        yield server

"""Simulated collisions to try the service with: a resonance over a falling spectrum.

Signal is a resonance X(125) that decays to two leptons, made with b jets and little missing
momentum; background is a dilepton continuum that falls with mass, with light jets. The detector
smears momenta. No branch alone separates the two well; their combination does.
"""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

import awkward as ak
import numpy as np
import uproot
from numpy.typing import NDArray

Floats = NDArray[np.float64]

MASS = 125.0
"""Mass of the resonance in GeV."""
RESOLUTION = 0.06
"""Relative smearing of a lepton's transverse momentum."""
MIN_PT = 20.0
"""Jets and leptons below this transverse momentum in GeV are not reconstructed."""


def collisions(n: int, *, signal: bool, rng: np.random.Generator) -> dict[str, ak.Array | Floats]:
    """``n`` simulated events as branches: momenta in GeV, angles in radians."""
    leptons = _leptons(n, signal, rng)
    jets = _jets(n, signal, rng)
    met = rng.gamma(2.0, 13.0 if signal else 19.0, n)
    return {
        "runNo": np.full(n, 362_104, np.int32),
        "evtNo": rng.permutation(n).astype(np.int64),
        "lumi": rng.integers(1, 900, n, dtype=np.int32),
        "MET_pt": met.astype(np.float32),
        "MET_phi": rng.uniform(-np.pi, np.pi, n).astype(np.float32),
        "HT": np.asarray(ak.sum(jets["pt"], axis=1), np.float32),
        "nPV": rng.poisson(32, n).astype(np.int32),
        "Lepton": leptons,
        "Jet": jets,
    }


def _leptons(n: int, signal: bool, rng: np.random.Generator) -> ak.Array:
    """Two leptons from a decay of mass m, boosted; one or both may be lost below threshold."""
    if signal:
        mass = np.clip(MASS + 2.5 * rng.standard_cauchy(n), 60, 250)
    else:
        mass = 45 + rng.exponential(75, n)
    boost = rng.gamma(2.0, 26.0 if signal else 17.0, n)
    decay, polar = rng.uniform(-np.pi, np.pi, n), rng.uniform(-1, 1, n)
    momentum = mass / 2
    transverse = momentum * np.sqrt(1 - polar**2)
    phi = rng.uniform(-np.pi, np.pi, n)
    rapidity = rng.normal(0, 0.9 if signal else 1.3, n)

    pts, etas, phis = [], [], []
    for sign in (1, -1):
        px = sign * transverse * np.cos(decay) + boost / 2
        py = sign * transverse * np.sin(decay)
        pz = sign * momentum * polar
        pt = np.hypot(px, py)
        pts.append(pt * rng.normal(1, RESOLUTION, n))
        etas.append(np.clip(np.arcsinh(pz / pt) + rapidity, -2.5, 2.5))
        phis.append(_wrap(np.arctan2(py, px) + phi))
    pt, eta, angle = (np.stack(v, axis=1) for v in (pts, etas, phis))
    charge = np.where(rng.random((n, 1)) < 0.5, [1, -1], [-1, 1])
    order = np.argsort(-pt, axis=1)
    seen = np.take_along_axis(pt, order, 1) > MIN_PT

    def branch(values: NDArray[np.generic], dtype: type[np.generic]) -> ak.Array:
        ordered = np.take_along_axis(values, order, 1).astype(dtype)
        return ak.unflatten(ordered[seen], seen.sum(axis=1))

    return ak.zip(
        {
            "pt": branch(pt, np.float32),
            "eta": branch(eta, np.float32),
            "phi": branch(angle, np.float32),
            "charge": branch(charge, np.int32),
        }
    )


def _jets(n: int, signal: bool, rng: np.random.Generator) -> ak.Array:
    """A varying number of jets, hardest first, with a b-tagging score."""
    counts = np.minimum(rng.poisson(2.6 if signal else 2.1, n), 10)
    total = int(counts.sum())
    pt = MIN_PT + rng.exponential(38.0 if signal else 30.0, total)
    is_b = rng.random(total) < (0.45 if signal else 0.2)
    score = np.where(is_b, rng.beta(3.2, 1.6, total), rng.beta(1.4, 3.0, total))
    mass = pt * rng.gamma(5.0, 0.028, total)
    fields = {
        "pt": pt,
        "eta": np.clip(rng.normal(0, 1.5 if signal else 1.9, total), -4.7, 4.7),
        "phi": rng.uniform(-np.pi, np.pi, total),
        "mass": mass,
        "btag": score,
    }
    jagged = ak.zip({k: ak.unflatten(v.astype(np.float32), counts) for k, v in fields.items()})
    return jagged[ak.argsort(jagged["pt"], axis=1, ascending=False)]


def _wrap(phi: Floats) -> Floats:
    """Angles brought to [-pi, pi)."""
    return np.asarray((phi + np.pi) % (2 * np.pi) - np.pi)


def write(path: Path, events: dict[str, ak.Array | Floats], rng: np.random.Generator) -> Path:
    """Write events as the TTree "events"; jagged branches of a group share one counter branch.

    ``rng`` draws the file's UUID too, on which the parts of its events depend (see ``split``).
    """
    uuid = UUID(bytes=rng.bytes(16), version=4)
    with uproot.recreate(path, uuid_function=lambda: uuid) as file:
        file.mktree("events", {name: values.type for name, values in _arrays(events).items()})
        file["events"].extend(events)
    return path


def _arrays(events: dict[str, ak.Array | Floats]) -> dict[str, ak.Array]:
    return {name: ak.Array(values) for name, values in events.items()}


def write_files(folder: Path, *, n: int = 20_000, seed: int = 1) -> tuple[Path, Path, Path]:
    """signal.root, background.root, and mixture.root, which another seed made.

    The mixture holds events of both kinds in random order with their origin in the branch
    ``truth``: 1 for signal.
    """
    rng, other = np.random.default_rng(seed), np.random.default_rng(seed + 1_000_003)
    signal = write(folder / "signal.root", collisions(n, signal=True, rng=rng), rng)
    background = write(folder / "background.root", collisions(n, signal=False, rng=rng), rng)

    half = n // 4
    parts = [collisions(half, signal=s, rng=other) for s in (True, False)]
    order = other.permutation(2 * half)
    mixed = {k: ak.concatenate([p[k] for p in parts])[order] for k in parts[0]}
    mixed["truth"] = np.repeat(np.array([1, 0], np.int32), half)[order]
    return signal, background, write(folder / "mixture.root", mixed, other)

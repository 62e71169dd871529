from __future__ import annotations

from pathlib import Path

import numpy as np
import uproot

from mlaas4hep.data import SpecsScan
from mlaas4hep.data.distributions import Distributions
from mlaas4hep.report.distributions import write_distributions


def test_a_picture_for_each_branch_and_histograms_for_root(tmp_path: Path) -> None:
    events = {"Jet/Jet.PT": np.arange(100.0), "jet_jet.pt": np.arange(100), "$x": np.ones(100)}
    scan = SpecsScan("t", list(events), [])
    scan.add(0, events)
    found = Distributions(scan.result(), ["signal", "W+jets"])
    found.add(events, np.arange(100) % 2)
    done = []
    pictures = write_distributions(
        tmp_path / "new/hist", found, lambda phase, n, total, **_: done.append((phase, n, total))
    )
    names = ["_x", "Jet_Jet.PT", "jet_jet.pt_2"]
    assert sorted(p.stem for p in pictures) == sorted(names)
    assert all(p.read_bytes().startswith(b"\x89PNG") for p in pictures)
    assert done[-1] == ("drawing", 3, 3)
    with uproot.open(tmp_path / "new/hist/distributions.root") as file:
        counts, edges = file["Jet_Jet.PT/W_jets"].to_numpy()
    np.testing.assert_array_equal(counts, np.histogram(np.arange(1.0, 100, 2), edges)[0])

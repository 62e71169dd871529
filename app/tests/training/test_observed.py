from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlaas4hep.core.errors import UsageError
from mlaas4hep.data.preprocess import Cleaner
from mlaas4hep.training import observed
from mlaas4hep.training.observed import Observed
from training.root_files import content, two, write
from training.tasks import streamed

PLAIN = Cleaner([-1], (None, None))


@pytest.mark.parametrize("cache_bytes", [0, 1 << 30])
def test_values_are_those_of_the_test_part_in_order(
    tmp_path: Path, stack: ExitStack, cache_bytes: int
) -> None:
    files = two(tmp_path)
    data, seen = streamed(
        stack, files, chunk_size=100, cache_bytes=cache_bytes, observers=["id"], identifier=["run"],
        normalisation="standard", missing={"id": 10_003},
    )  # fmt: skip
    assert "id" not in data.task.specs.flat
    rows, truth = (np.concatenate(each) for each in zip(*data.test(), strict=True))
    ids, known = seen.observed.values["id"], np.isfinite(seen.observed.values["id"])
    assert len(ids) == len(truth) == data.test_events == seen.observed.events
    assert (ids[known] // 10_000).astype(int).tolist() == (truth[known] + 1).tolist()
    kinds = np.concatenate([content(900, 1)["kind"], content(600, 2)["kind"]])
    places = (ids % 10_000 + 900 * truth)[known].astype(int)
    column = rows[known, data.task.specs.columns.index("kind")]
    np.testing.assert_allclose(np.corrcoef(column, kinds[places])[0, 1], 1, rtol=1e-5)


def test_many_events_are_drawn_by_the_seed(monkeypatch: Any) -> None:
    monkeypatch.setattr(observed, "MOST_EVENTS", 300)
    values = np.random.default_rng(1).integers(-1, 500, 5000)
    is_test = np.random.default_rng(2).uniform(size=5000) < 0.4
    wanted = values[is_test]

    def drawn(seed: int, step: int) -> Observed:
        found = Observed({"x": PLAIN}, len(wanted), seed)
        for at in range(0, 5000, step):
            found.add({"x": values[at : at + step]}, is_test[at : at + step])
        return found

    first = drawn(1, 64)
    assert len(first.places) == len({*first.places.tolist()}) == 300
    expected = np.where(wanted == -1, np.nan, wanted)[first.places]
    np.testing.assert_array_equal(first.values["x"], expected)
    np.testing.assert_array_equal(drawn(1, 5000).values["x"], expected)
    assert (drawn(2, 64).places != first.places).any()


def test_memory_is_bounded_with_many_observers(monkeypatch: Any) -> None:
    monkeypatch.setattr(observed, "MOST_BYTES", 8 * 50 * 100)
    found = Observed({f"v{i}": PLAIN for i in range(50)}, 10**6, 1)
    assert len(found.places) == 100
    assert len(Observed({}, 10**6, 1).places) == 0


def test_missing_may_name_an_observer_and_nothing_else_new(
    tmp_path: Path, stack: ExitStack
) -> None:
    file = write(tmp_path / "a.root", content(300, 1))
    other = write(tmp_path / "b.root", content(300, 2))
    data, _ = streamed(
        stack, [file, other], observers=["kind"], missing={"kind": -1}, identifier=["run"]
    )
    assert data.task.specs.missing == {"met": data.task.specs.missing["met"]}
    assert not any("missing" in told for told in data.task.warnings)
    with pytest.raises(UsageError, match="'knd' is neither"):
        streamed(stack, [file, other], observers=["kind"], missing={"knd": -1}, identifier=["run"])

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import numpy as np

from mlaas4hep.training.sample import SAMPLE_BYTES, Sample
from training.root_files import content, two, write
from training.tasks import streamed


def test_rows_to_compare_hold_the_extremes(tmp_path: Path, stack: ExitStack) -> None:
    data, seen = streamed(stack, two(tmp_path, (3000, 2500)), chunk_size=170)
    rows = np.concatenate([rows for rows, _, _ in data.chunks()])
    sample = seen.to_compare
    assert len(sample) >= 1000
    np.testing.assert_array_equal(sample[:-2].min(axis=0), rows.min(axis=0))
    np.testing.assert_array_equal(sample[:-2].max(axis=0), rows.max(axis=0))
    np.testing.assert_array_equal(sample[-2:], [[0] * data.width, [1] * data.width])
    real = {row.tobytes() for row in rows}
    assert sum(row.tobytes() in real for row in sample[:-2]) == len(sample) - 2
    _, few = streamed(stack, two(tmp_path, (30, 20)))
    assert len(few.to_compare) >= 52


def test_the_sample_is_spread_over_the_stream_and_bounded(tmp_path: Path, stack: ExitStack) -> None:
    path = write(tmp_path / "a.root", content(40_000, 1) | {"at": np.arange(40_000.0)})
    other = write(tmp_path / "b.root", content(9_000, 2) | {"at": np.arange(9_000.0)})
    data, seen = streamed(stack, [path, other], selected_branches=["at", "jet_pt"])
    drawn = seen.sample
    assert np.bincount(drawn.classes).tolist() == [5000, 4500]
    assert (drawn.files == drawn.classes).all()
    for file, entries in enumerate((40_000, 9_000)):
        at = drawn.rows[drawn.files == file, 0] * 39_999
        in_each_tenth, _ = np.histogram(at, 10, (0, entries))
        np.testing.assert_allclose(in_each_tenth, len(at) / 10, rtol=0.02)
    assert drawn.counts.shape == (9500, 1)

    many = Sample(data.task.specs, [10**9] * 500)
    assert many._rows.nbytes + many._counts.nbytes <= SAMPLE_BYTES

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from mlaas4hep.core.errors import DataError
from mlaas4hep.training.ahead import ahead


def test_items_and_errors_pass() -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise DataError("gone")

    found = ahead(items())
    assert [next(found), next(found)] == [1, 2]
    with pytest.raises(DataError, match="gone"):
        next(found)


def test_it_is_one_ahead_and_ends_when_it_is_closed() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for i in range(1000):
            made.append(i)
            yield i

    threads = threading.active_count()
    found = ahead(items())
    for expected in range(5):
        assert next(found) == expected
    found.close()  # type: ignore[attr-defined]
    assert threading.active_count() == threads
    assert 5 <= len(made) <= 8

import fcntl
from pathlib import Path

from mlaas4hep.core.locks import is_locked


def test_a_lock_ends_with_the_file_that_holds_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert not is_locked(path)
    with path.open("w") as held:
        assert not is_locked(path)
        fcntl.flock(held, fcntl.LOCK_EX)
        assert is_locked(path)
    assert not is_locked(path)

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mlaas4hep.core.errors import ConflictError, NotFoundError, UsageError
from mlaas4hep.models.owners import Owners, TakenError, base_of
from mlaas4hep.models.repository import Repository
from support.bundles import make_bundle


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "models")


@pytest.fixture
def owners(repository: Repository) -> Owners:
    return Owners(repository)


def test_the_first_who_claims_a_name_has_it_for_good(owners: Owners) -> None:
    assert owners.of("luca") is None
    assert owners.claim("luca", "user:alice") == "user:alice"
    assert owners.claim("luca", "user:alice") == "user:alice"
    with pytest.raises(TakenError, match="'luca' belongs to another user"):
        owners.claim("luca", "user:bob")
    assert issubclass(TakenError, ConflictError)
    assert owners.of("luca") == "user:alice"


def test_all_processes_know_the_owner(owners: Owners, repository: Repository) -> None:
    other = Owners(repository)
    assert other.of("luca") is None
    owners.claim("luca", "user:alice")
    assert other.of("luca") == "user:alice"
    assert repository.names() == []


CLAIM = """
import sys
from pathlib import Path
from mlaas4hep.core.errors import ConflictError
from mlaas4hep.models.owners import Owners
from mlaas4hep.models.repository import Repository
owners, me, won = Owners(Repository(Path(sys.argv[1]))), sys.argv[2], []
for number in range(200):
    try:
        owners.claim(f"name{number}", me)
        won.append(number)
    except ConflictError:
        pass
print(*won)
"""


def test_of_those_who_claim_at_once_one_gets_it(tmp_path: Path) -> None:
    started = [
        subprocess.Popen(
            [sys.executable, "-c", CLAIM, tmp_path / "models", f"user:{n}"],
            stdout=subprocess.PIPE,
            text=True,
        )
        for n in range(3)
    ]
    won = [process.communicate(timeout=240)[0].split() for process in started]
    assert sorted(int(number) for one in won for number in one) == list(range(200))
    left = [path.name for path in (tmp_path / "models/.owners").iterdir()]
    assert sorted(left) == sorted(f"name{n}" for n in range(200))


@pytest.mark.parametrize(
    ("model", "base"),
    [
        ("luca_1", "luca"),
        ("luca_12", "luca"),
        ("luca", "luca"),
        ("luca_1_2", "luca_1"),
        ("luca_x", "luca_x"),
        ("luca_", "luca_"),
        ("_1", "_1"),
        ("a\nb_1", "a\nb_1"),
        ("luca_\u0661", "luca_\u0661"),
    ],
)
def test_a_model_belongs_to_the_name_before_its_number(model: str, base: str) -> None:
    assert base_of(model) == base


def test_everyone_sees_their_own_models_only(
    owners: Owners, repository: Repository, tmp_path: Path
) -> None:
    for name in ("luca_1", "luca_2", "lucas_1", "old_1"):
        repository.put(make_bundle(tmp_path, name), name)
        owners.of(name)
    (repository.root / ".owners/luca").write_text("user:alice")
    (repository.root / ".owners/lucas").write_text("user:bob")
    assert owners.names("user:alice") == ["luca_1", "luca_2"]
    assert owners.names("user:bob") == ["lucas_1"]
    assert owners.names("user:carol") == []
    assert owners.names("") == ["luca_1", "luca_2", "lucas_1", "old_1"]
    owners.check("luca_1", "user:alice")
    owners.check("luca_1", "")
    for model in (
        "lucas_1",
        "lucas_9",
        "old_1",
        "../x_1",
        ".owners",
        "LUCA_1",
        "luca_1/../lucas_1",
    ):
        with pytest.raises(NotFoundError) as caught:
            owners.check(model, "user:alice")
        assert "lucas_1'" not in caught.value.remedy


def test_names_that_are_none_are_refused(owners: Owners) -> None:
    for name in ("../x", "", "a b", "x" * 129, "a\n", ".x"):
        with pytest.raises(UsageError, match="can't be the name"):
            owners.claim(name, "user:alice")
        assert owners.of(name) is None


def test_models_of_before_sign_in_are_nobodys(
    owners: Owners, repository: Repository, tmp_path: Path
) -> None:
    repository.put(make_bundle(tmp_path, "old_3"), "old_3")
    with pytest.raises(TakenError):
        owners.claim("old", "user:alice")
    assert owners.claim("old", "") == ""
    with pytest.raises(TakenError):
        owners.claim("old", "user:alice")


def test_without_sign_in_names_stay_with_their_owners(owners: Owners) -> None:
    owners.claim("luca", "user:alice")
    assert owners.claim("luca", "") == "user:alice"

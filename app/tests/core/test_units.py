import pytest

from mlaas4hep.core.errors import UsageError
from mlaas4hep.core.units import many, parse_size, size


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3gb", 3 * 1024**3),
        ("3g", 3 * 1024**3),
        ("512m", 512 * 1024**2),
        ("1.5 GiB", 1536 * 1024**2),
        ("2GB", 2 * 1024**3),
        ("1tb", 1024**4),
        ("1048576", 1048576),
        ("100b", 100),
        ("7k", 7168),
    ],
)
def test_memory_as_docker_takes_it(text: str, expected: int) -> None:
    assert parse_size(text, "memory") == expected


@pytest.mark.parametrize("text", ["", "gb", "-1gb", "0", "0gb", "3 eb", "1e9", "3gb;id", "NaN"])
def test_memory_that_is_none(text: str) -> None:
    with pytest.raises(UsageError, match=r"^memory: .* is not a size"):
        parse_size(text, "memory")


@pytest.mark.parametrize(
    ("count", "text"),
    [(3 * 1024**3, "3 GB"), (3.2 * 1024**3, "3.2 GB"), (1, "1 bytes"), (5000 * 1024**3, "5000 GB")],
)
def test_sizes_for_people(count: float, text: str) -> None:
    assert size(count) == text


def test_one_and_several() -> None:
    assert [many(n, "label") for n in (0, 1, 2)] == ["0 labels", "1 label", "2 labels"]
    assert [many(2, noun) for noun in ("branch", "class")] == ["2 branches", "2 classes"]

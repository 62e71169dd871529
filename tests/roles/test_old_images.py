"""Which images go when there are newer ones; tests/stack has an engine for it."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

BROUGHT = [
    ("tfaas", "mlaas4hep/tfaas:1"),
    ("job:my env", "a/job:1"),
    ("tfaas", "mlaas4hep/tfaas:2"),
    ("gateway", "caddy@sha256:1"),
    ("tfaas", "mlaas4hep/tfaas:3"),
]


def test_the_current_image_and_the_one_before_stay(old_images: ModuleType) -> None:
    kept, older = old_images.split(BROUGHT, {"tfaas": "mlaas4hep/tfaas:3"})
    assert (kept, older) == (["mlaas4hep/tfaas:2"], ["mlaas4hep/tfaas:1"])


def test_back_at_the_version_before_the_newer_one_stays(old_images: ModuleType) -> None:
    kept, older = old_images.split(BROUGHT, {"tfaas": "mlaas4hep/tfaas:2"})
    assert (kept, older) == (["mlaas4hep/tfaas:3"], ["mlaas4hep/tfaas:1"])


def test_an_image_that_another_part_uses_stays(old_images: ModuleType) -> None:
    used = {"tfaas": "mlaas4hep/tfaas:3", "job:x": "mlaas4hep/tfaas:1"}
    assert old_images.split(BROUGHT, used) == (["mlaas4hep/tfaas:2"], [])


def test_parts_that_were_not_played_are_left_alone(old_images: ModuleType) -> None:
    assert old_images.split(BROUGHT, {}) == ([], [])
    assert old_images.split(BROUGHT, {"gateway": "caddy@sha256:1"}) == ([], [])


def test_a_repository_is_told_without_tag_and_digest(old_images: ModuleType) -> None:
    for name in ("debian", "debian:bookworm-slim", "debian@sha256:1", "debian:x@sha256:1"):
        assert old_images.repository(name) == "debian"
    assert old_images.repository("host:5000/library/debian:x") == "host:5000/library/debian"
    assert old_images.repository("host:5000/debian") == "host:5000/debian"


def test_what_was_brought_is_read_from_its_file(old_images: ModuleType, tmp_path: Path) -> None:
    file = tmp_path / "images"
    assert old_images.read(file) == []
    file.write_text("".join(f"{part} {name}\n" for part, name in BROUGHT))
    assert old_images.read(file) == BROUGHT

"""The documents say what is so: lists are current, links lead somewhere, commands exist."""

from __future__ import annotations

import importlib.util
import re
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from fastapi.routing import iter_route_contexts

from mlaas4hep.core.settings import Settings
from mlaas4hep.demo.simulate import write_files
from mlaas4hep.web.server import create_app
from mlaas4hep.web.tfaas import TFaaS

ROOT = Path(__file__).parents[1]
LISTED = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"]
PAGES = [
    ROOT / name
    for name in subprocess.run(
        LISTED, cwd=ROOT, check=True, capture_output=True, text=True, timeout=300
    ).stdout.splitlines()
]
LINK = re.compile(r"\[[^\]]+\]\(([^)#:]+)(?:#[^)]*)?\)")


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs/generate.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GENERATE = generator()


@pytest.mark.parametrize("page", GENERATE.PAGES)
def test_generated_pages_are_current(page: str) -> None:
    text = (ROOT / "docs/reference" / page).read_text()
    assert text == GENERATE.PAGES[page](), "run: make docs"


def test_every_setting_and_key_says_what_it_is() -> None:
    for fields in (Settings.model_fields, GENERATE.Params.model_fields):
        said = [field.description or "" for field in fields.values()]
        for name, text in zip(fields, said, strict=True):
            assert text.endswith("."), name
            assert len(set(text.rstrip(".").lower().split()) - set(name.split("_"))) > 1, name
        assert len(set(said)) == len(said)


def test_every_key_has_an_example_that_is_valid_and_no_default(tmp_path: Path) -> None:
    shown = re.findall(r"^\| `(\w+)` .* `(\"\w+\": .*)` \|$", GENERATE.params(), re.M)
    assert [name for name, _ in shown] == list(GENERATE.Params.model_fields)
    path = tmp_path / "params.json"
    needed = {"allow_missing": {"skip_bad_files": True}}  # it says so
    for name, example in shown:
        path.write_text(f"{{{example}}}")
        before = GENERATE.Params(**needed.get(name, {}))
        params, _ = GENERATE.Params.load(path, needed.get(name))
        assert {key for key, value in params if value != getattr(before, key)} == {name}


def test_every_setting_is_in_one_section() -> None:
    named = re.findall(r"^\| `MLAAS4HEP_(\w+)`", GENERATE.settings(), re.M)
    assert sorted(named) == sorted(name.upper() for name in Settings.model_fields)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text()):
        assert (page.parent / target).exists(), target


def test_the_notebook_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_files(tmp_path, n=1000)
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "app/README.md").read_text(), re.S)
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["rows"].shape == (1000, len(names["specs"].columns))


def test_where_to_change_what_names_files_that_exist() -> None:
    """Most paths are below the package, and those without a folder beside the one before."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    table = text[text.index("| I want to | file |") :].partition("\n\n")[0]
    rows = [row.strip("| ").split(" | ") for row in table.splitlines()[2:]]
    assert len(rows) >= 15
    roots = [ROOT / "app/src/mlaas4hep", ROOT, ROOT / "plugins/modules"]
    for wish, cell in rows:
        paths = re.findall(r"`([\w/.]+(?:/|\.\w+))`", cell.replace("ROLE", "gateway"))
        assert paths, wish
        beside: list[Path] = []
        for path in paths:
            found = [root / path for root in [*roots, *beside] if (root / path).exists()]
            assert found, f"{wish}: {path}"
            beside = [each if each.is_dir() else each.parent for each in found]


def test_make_targets_in_documents_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.M))
    for page in PAGES:
        for target in re.findall(r"`make ([a-z-]+)|^ {4}make ([a-z-]+)", page.read_text(), re.M):
            assert set(target) - {""} <= targets, f"{page.name}: make {target}"


def test_commands_in_documents_exist() -> None:
    known = set(re.findall(r"^## mlaas4hep ([\w-]+)", GENERATE.command_line(), re.M))
    for page in PAGES:
        used = re.findall(r"(?:bin/|`|^ {4})mlaas4hep ([a-z][\w-]*)", page.read_text(), re.M)
        assert set(used) <= known, page.name


def documented(text: str) -> set[tuple[str, str]]:
    """Method and path of each route in the tables; what is put in is a star."""
    found = set()
    for cell in re.findall(r"^\| (`(?:GET|POST|DELETE) /.*?) \| ", text, re.M):
        method = ""
        for given, path in re.findall(r"`(?:(GET|POST|DELETE) )?(/[^`?]*)", cell):
            method = given or method
            found.add((method, re.sub(r"\b(U_k|U|NAME)\b", "*", path)))
    return found


def test_the_reference_has_exactly_the_routes_that_exist(tmp_path: Path) -> None:
    settings = Settings(store=tmp_path)
    tfaas = TFaaS(settings)
    served = {
        (method, re.sub(r"\{\w+\}", "*", route.path))
        for route in [*iter_route_contexts(create_app(settings).routes), *tfaas.site.routes]
        for method in (route.methods or set()) - {"HEAD"}
    }
    served |= {("POST", path) for path in tfaas.predictions.routes}
    internal = {"/page.css", "/page.js", "/openapi.json", "/docs"}
    served = {(method, path) for method, path in served if path not in internal}
    assert documented((ROOT / "docs/reference/http.md").read_text()) == served


def test_every_dependency_has_its_reason() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    project = (ROOT / "app/pyproject.toml").read_text()
    block = project[project.index("dependencies = [") : project.index("[project.scripts]")]
    names = set(re.findall(r'"([a-zA-Z0-9_-]+?)[<>=\["]', block)) - {"mlaas4hep"}
    typing = {n for n in names if n.startswith("types-")}
    missing = {n for n in names - typing if n.replace("-", "") not in text.replace("-", "")}
    assert not missing


BANNED = """Two doors; No life and no result; banning of who guesses; Who may come; none is none;
sets no limit of its own; what lacks; it said last; before one's eyes; Forget the engine;
born on the host; its model is served on; the old ones do; the same ones;
such names are not given here; when that is mended; is no file of the host;
somebody else's; what it lacks; equal to the letter; in small letters; to be used on;
whom the runner runs as; leaves those of; is no feature; are no features; built anew; made anew;
merged anew; mixed anew"""
EXEMPT = ("CHANGELOG.md", "tests/test_docs.py")


def test_no_text_has_a_banned_phrase() -> None:
    """Phrases that a reader has to read twice; the plain ones are in the documents."""
    phrases = [re.escape(" ".join(phrase.split())) for phrase in BANNED.split(";")]
    banned = re.compile(rf"{'|'.join(phrases)}|(?-i:\bMost \w+ that\b)", re.IGNORECASE)
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, timeout=300
    ).stdout
    for name in listed.splitlines():
        if name.startswith(EXEMPT) or not (ROOT / name).is_file():
            continue
        text = (ROOT / name).read_bytes().decode(errors="ignore")
        assert not banned.findall(" ".join(text.split())), name


def test_make_help_lists_every_target() -> None:
    said = subprocess.run(
        ["make", "help"], cwd=ROOT, capture_output=True, text=True, timeout=300
    ).stdout
    (phony,) = re.findall(r"^\.PHONY: (.*)", (ROOT / "Makefile").read_text(), re.M)
    listed = dict(re.findall(r"^([a-z-]+)  +(\S.*)", said, re.M))
    assert set(listed) == set(phony.split()) - {"c++"}  # a check, no target of its own

"""The collection as an operator gets it: its options, its order of tasks, its tarball."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
ROLES = sorted(path for path in (ROOT / "roles").iterdir() if path.is_dir())
INTERNAL = ("common", "image", "service_container", "preflight")
PREFIXES = {"common": "mlaas4hep"}
"""How options are called that aren't called after their role: the site's, after the stack."""
PUBLIC = [role for role in ROLES if role.name not in INTERNAL]
BIN = Path(sys.executable).parent
CONDITIONS: dict[str, dict[str, str]] = yaml.safe_load(
    (Path(__file__).parent / "conditions.yml").read_text()
)
MOST_BYTES = 2_000_000


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def tasks(path: Path) -> Iterator[dict[str, Any]]:
    """Every task of a file, those in blocks too."""
    todo = list(load(path) or [])
    while todo:
        task = todo.pop(0)
        yield task
        for part in ("block", "rescue", "always"):
            todo += task.get(part, [])


def options(role: Path) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = load(role / "meta/argument_specs.yml")["argument_specs"][
        "main"
    ]["options"]
    return found


def dependencies(role: Path) -> list[str]:
    meta = role / "meta/main.yml"
    found = load(meta)["dependencies"] if meta.exists() else []
    return [entry["role"].removeprefix("mlaas4hep.stack.") for entry in found]


def loop_variables(role: Path) -> Iterator[str]:
    for path in (role / "tasks").glob("*.yml"):
        for task in tasks(path):
            yield from [task.get("loop_control", {}).get("loop_var")]


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
class TestOptions:
    def test_every_option_is_named_after_the_role_and_explained(self, role: Path) -> None:
        for name, option in options(role).items():
            assert name.startswith(f"{PREFIXES.get(role.name, role.name)}_"), name
            assert option["type"], name
            text = option["description"]
            assert (text if isinstance(text, str) else text[-1]).strip().endswith("."), name

    def test_every_variable_that_tasks_use_is_an_option_or_internal(self, role: Path) -> None:
        """Of the role itself or of what it depends on; of another role only with a default."""
        depends = [ROOT / "roles" / name for name in dependencies(role)]
        known = {name for taken in [role, *depends] for name in options(taken)}
        known |= set(loop_variables(role))
        known |= {f"{role.name}_{path.stem}" for path in (role / "tasks").glob("*.yml")}
        if role.name == "preflight":  # which says that one became the other
            known |= {"oauth2_proxy_https_port", "gateway_https_port"}
            known |= {f"oauth2_proxy_initial_access_token{end}" for end in ("", "_file")}
            known |= {f"service_container_log_{what}" for what in ("", "files", "size")}
        names = "|".join(other.name for other in ROLES)
        option = rf"(?<![\w.])(?:{names})_[a-z0-9_]+\b(?!:| \| default\()"
        internal = rf"(?<!\w)__({names})_"
        for path in [*role.rglob("tasks/*.yml"), *role.rglob("templates/*"), *role.rglob("vars/*")]:
            text = path.read_text()
            for name in re.findall(option, text):
                assert name in known, f"{path.relative_to(ROOT)}: {name}"
            for name in re.findall(internal, text):
                assert name in {role.name, *dependencies(role)}, f"{path.relative_to(ROOT)}: {name}"


def test_sanity_ignores_what_exists_for_supported_versions() -> None:
    """What `make sanity`, which needs a network, reads: ansible-core takes the list of its own."""
    lock = (ROOT / "tests/locks/stack.txt").read_text()
    core = re.search(r"^ansible-core==(\d+\.\d+)", lock, re.MULTILINE)
    assert core
    lists = sorted(path.name for path in (ROOT / "tests/sanity").iterdir())
    assert lists == [f"ignore-{core[1]}.txt"]
    ignored = {}
    for line in (ROOT / "tests/sanity" / lists[0]).read_text().splitlines():
        entry, _, why = line.partition(" # ")
        path, rule = entry.split()
        assert (ROOT / path).is_file(), path
        assert re.fullmatch("[a-z-]+:[a-z0-9-]+", rule), rule
        assert why, line
        ignored[path] = rule
    # Each plugin is ours: one that is not in the list would fail for want of the GPL.
    plugins = [p for kind in ("modules", "lookup") for p in (ROOT / "plugins" / kind).glob("*.py")]
    licensed = {str(path.relative_to(ROOT)) for path in plugins if path.name != "__init__.py"}
    assert set(ignored) == licensed


def test_defaults_and_readmes_are_generated() -> None:
    subprocess.run([sys.executable, ROOT / "docs/roles.py", "--check"], check=True, timeout=300)


@pytest.mark.parametrize("role", PUBLIC, ids=lambda role: role.name)
def test_main_is_a_table_of_contents(role: Path) -> None:
    parts = ["preflight", "install", "configure", "service"]
    found = load(role / "tasks/main.yml")
    imported = [task["ansible.builtin.import_tasks"].removesuffix(".yml") for task in found]
    assert imported == [part for part in parts if part in imported]
    assert {"preflight", "service"} <= set(imported)
    for task, part in zip(found, imported, strict=True):
        assert set(task) == {"name", "ansible.builtin.import_tasks", "tags"}
        assert task["tags"] == [role.name, f"{role.name}_{part}"]
    assert (role / "tasks/uninstall.yml").exists()


def test_every_changed_when_and_failed_when_has_its_reason() -> None:
    """conditions.yml says of each why it is there and which test would notice its absence."""
    found = {
        f"{path.relative_to(ROOT)}: {task['name']}": set(task) & {"changed_when", "failed_when"}
        for folder in ("roles", "playbooks")
        for path in sorted((ROOT / folder).rglob("*.yml"))
        if isinstance(load(path), list)
        for play in load(path)
        for task in _all(play)
        if set(task) & {"changed_when", "failed_when"}
    }
    assert set(found) == set(CONDITIONS)
    for name, entry in CONDITIONS.items():
        assert set(entry) == {"why", "test"}, name
        path, _, test = entry["test"].partition("::")
        assert test in (ROOT / path).read_text(), f"{name}: {entry['test']}"


def _all(task: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield task
    for part in ("block", "rescue", "always", "tasks", "pre_tasks", "post_tasks", "handlers"):
        for inner in task.get(part, []):
            yield from _all(inner)


def test_nothing_hides_an_error() -> None:
    for folder in ("roles", "playbooks"):
        for path in (ROOT / folder).rglob("*.yml"):
            assert "ignore_errors" not in path.read_text(), path


def test_secrets_are_not_logged() -> None:
    """A task that touches a secret says no_log; the name of the variable tells."""
    secret = re.compile(r"secret|password|private_key|access_token", re.IGNORECASE)
    for path in sorted((ROOT / "roles").rglob("tasks/*.yml")):
        for task in tasks(path):
            values = {
                k: v for k, v in task.items() if k not in ("name", "block", "rescue", "always")
            }
            writes = {"ansible.builtin.copy", "ansible.builtin.template", "ansible.builtin.uri"}
            text = json.dumps(values)
            if set(values) & writes and secret.search(re.sub(r"\w+_(secret|token)_file", "", text)):
                assert task.get("no_log") is not None, f"{path}: {task['name']}"


CACHES = (
    ".venv/bin/python",
    ".venv-root/made",
    "build/collections/x",
    "demo/signal.root",
    "my-site/hosts.yml",
    "app/.pytest_cache/x",
    "app/.hypothesis/x",
    "app/.mypy_cache/3.11/x.json",
    "app/.import_linter_cache/x",
    "app/src/mlaas4hep/__pycache__/x.pyc",
    ".cache/x",
    "plugins/modules/__pycache__/x.pyc",
    "docker/__pycache__/x.txt",
    "app/src/mlaas4hep.egg-info/PKG-INFO",
    "roles/gateway/.cache/x",
    "tests/stack/node_modules/x.js",
    "mlaas4hep-stack-0.0.9.tar.gz",
    "app/global-specs.json",
    ".ruff_cache/x",
    "tosca/tests/__pycache__/x.pyc",
)


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that git knows, as a fresh clone has them."""
    source = tmp_path_factory.mktemp("source")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, timeout=300,
    ).stdout  # fmt: skip
    for name in listed.decode().split("\0")[:-1]:
        if (ROOT / name).is_file() or (ROOT / name).is_symlink():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, source / name, follow_symlinks=False)
    return source


@pytest.fixture(scope="session")
def tarball(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The collection as it would be published, from a clone that was worked in."""
    source, target = tmp_path_factory.mktemp("dirty") / "clone", tmp_path_factory.mktemp("built")
    shutil.copytree(checkout, source, symlinks=True)
    for name in CACHES:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text("what a run left")
    subprocess.run(
        [BIN / "ansible-galaxy", "collection", "build", "--output-path", target],
        cwd=source, check=True, timeout=300,
    )  # fmt: skip
    (built,) = target.glob("mlaas4hep-stack-*.tar.gz")
    return built


def test_the_tarball_holds_what_a_host_needs_and_no_more(tarball: Path, checkout: Path) -> None:
    assert tarball.stat().st_size < MOST_BYTES
    with tarfile.open(tarball) as archive:
        names = {member.name for member in archive.getmembers() if member.isfile()}
    needed = {
        "README.md", "LICENSE", "meta/runtime.yml", "playbooks/site.yml", "playbooks/uninstall.yml",
        "docker/build.py", "docker/Dockerfile", "app/pyproject.toml",
        "app/src/mlaas4hep/__init__.py", "inventory/example/hosts.yml",
    }  # fmt: skip
    assert needed <= names
    assert {f"roles/{role.name}/meta/argument_specs.yml" for role in ROLES} <= names
    made = {"MANIFEST.json", "FILES.json"}
    assert {name for name in names - made if not (checkout / name).exists()} == set()
    assert names.isdisjoint(CACHES)
    assert not [n for n in names if n.startswith(("app/tests/", "app/bench/", "molecule/"))]
    tests = {name for name in names if name.startswith("tests/")}
    assert tests == {"tests/parts/README.md", "tests/dodas/README.md"}


def test_every_link_of_its_documents_leads_into_the_tarball(tarball: Path, tmp_path: Path) -> None:
    with tarfile.open(tarball) as archive:
        archive.extractall(tmp_path, filter="data")
    links = [
        (page, target)
        for page in tmp_path.rglob("*.md")
        for target in re.findall(r"\]\((?!https?:)([^)#: ]+)", page.read_text())
    ]
    assert (tmp_path / "README.md", "LICENSE") in links
    dead = [f"{p.relative_to(tmp_path)}: {t}" for p, t in links if not (p.parent / t).exists()]
    assert dead == []


def test_the_readmes_way_to_deploy_works_from_a_fresh_checkout(
    checkout: Path, tmp_path: Path
) -> None:
    """Its very lines; the playbook is read and its roles are found, but no host is changed."""
    text = (ROOT / "README.md").read_text()
    block = text[text.index("## Deploy it") :]
    lines = re.findall(r"^ {4}(\S.*)$", block[: block.index("**You have an")], re.MULTILINE)
    assert lines[0].startswith("cp -r inventory/example ")
    assert lines[-1].startswith("ansible-playbook -i ")
    clone = tmp_path / "clone"
    shutil.copytree(checkout, clone, symlinks=True)
    said = subprocess.run(
        ["bash", "-ec", "\n".join([*lines[:-1], f"{lines[-1]} --list-tasks"])],
        cwd=clone, check=True, capture_output=True, text=True,
        env={"PATH": f"{BIN}:/usr/bin:/bin", "HOME": str(tmp_path)}, timeout=300,
    ).stdout  # fmt: skip
    parts = load(ROOT / "roles/common/vars/main.yml")
    for name in parts["__common_services"] + parts["__common_doors"]:
        assert f"mlaas4hep.stack.{name} : " in said, name


def test_the_commands_of_install_md_are_what_a_clone_understands(
    checkout: Path, tmp_path: Path
) -> None:
    """Each line of it that plays something, as written there; no host is changed."""
    text = (ROOT / "docs/how-to/install.md").read_text()
    lines = re.findall(r"^ {4}((?:cp|ansible-playbook) \S.*?)(?: {2,}#.*)?$", text, re.MULTILINE)
    plays = [line for line in lines if line.startswith("ansible-playbook")]
    assert len(plays) > 5
    clone = tmp_path / "clone"
    shutil.copytree(checkout, clone, symlinks=True)
    script = [f"{line} --list-tasks" if line in plays else line for line in lines]
    subprocess.run(
        ["bash", "-ec", "\n".join(script)], cwd=clone, check=True, timeout=300,
        env={"PATH": f"{BIN}:/usr/bin:/bin", "HOME": str(tmp_path)},
    )  # fmt: skip


def installed(source: str, target: Path) -> Path:
    """The collection after an install; `--force` as ansible-lint has put it elsewhere already."""
    subprocess.run(
        [BIN / "ansible-galaxy", "collection", "install", "--force", source, "-p", target],
        check=True, stdout=subprocess.DEVNULL, timeout=300,
    )  # fmt: skip
    return target / "ansible_collections/mlaas4hep/stack"


def test_it_installs_from_the_tarball(tarball: Path, tmp_path: Path) -> None:
    found = installed(str(tarball), tmp_path)
    assert load(found / "roles/gateway/meta/argument_specs.yml")
    subprocess.run(
        [BIN / "ansible-playbook", "--syntax-check", "mlaas4hep.stack.site", "-i", "localhost,"],
        check=True, env={"PATH": f"{BIN}:/usr/bin:/bin", "HOME": str(tmp_path),
                         "ANSIBLE_COLLECTIONS_PATH": str(tmp_path)}, timeout=300,
    )  # fmt: skip


def test_it_installs_from_a_git_address(tmp_path: Path) -> None:
    """The last commit, as `ansible-galaxy collection install git+https://...` would."""
    found = installed(f"git+file://{ROOT},HEAD", tmp_path)
    assert (found / "playbooks/site.yml").exists()


def test_every_test_of_the_stack_is_named_by_a_scenario() -> None:
    """molecule runs the files that a scenario names, and no others."""
    named = {
        (scenario.parent / path).resolve()
        for scenario in (ROOT / "molecule").glob("*/molecule.yml")
        for path in load(scenario)["verifier"]["additional_files_or_dirs"]
    }
    assert named == {path.resolve() for path in (ROOT / "tests/stack").glob("test_*.py")}


def test_troubleshooting_has_every_problem_that_preflight_may_find() -> None:
    source = (ROOT / "plugins/modules/preflight.py").read_text()
    text = (ROOT / "docs/how-to/troubleshooting.md").read_text()
    table = text[text.index("## Preflight") : text.index("## After the deployment")]
    said = re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE)
    assert said
    calls = []
    for function in ast.walk(ast.parse(source)):
        if not isinstance(function, ast.FunctionDef):
            continue
        for call in ast.walk(function):
            found = isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute)
            if found and call.func.attr in ("problem", "warning"):
                # What is said in two places is put together before.
                where = function if isinstance(call.args[0], ast.Name) else call
                words = [str(n.value) for n in ast.walk(where) if isinstance(n, ast.Constant)]
                calls.append(" ".join(words))
    assert len(calls) > 15
    for call in calls:
        assert any(words in call for words in said), call
    for words in said:
        assert words in source, words


def test_troubleshooting_has_what_the_check_after_the_deployment_says() -> None:
    source = (ROOT / "plugins/modules/self_check.py").read_text()
    text = (ROOT / "docs/how-to/troubleshooting.md").read_text()
    table = text[text.index("## After the deployment") : text.index("## How a job ended")]
    said = re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE)
    assert len(said) > 10
    assert [words for words in said if words not in source] == []

"""The rules of style, as tests."""

import ast
import graphlib
import json
import re
import runpy
import subprocess
import sys
import tomllib
from collections.abc import Set
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import yaml

from vclust_py.site import PROJECT

BIN = Path(sys.executable).parent
MODULES = sorted(path.stem for path in (PROJECT / "library").glob("vclust_*.py"))
PLUGINS = {
    kind: sorted(path.stem for path in (PROJECT / "plugins" / kind).glob(pattern))
    for kind, pattern in (("inventory", "*.py"), ("lookup", "*.py"), ("filter", "*.yml"))
}

PACKAGES = [PROJECT / "vclust_py/__init__.py", *(PROJECT / "vclust_py").glob("*/__init__.py")]
FOLDERS = "docs|examples|library|metapackages|playbooks|plugins|roles|tests|vclust_hop|vclust_py"


def passes(*argv: str | Path) -> str:
    """Run a tool of the test environment in the checkout; its output is the failure's text."""
    done = subprocess.run(
        [BIN / argv[0], *argv[1:]], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_ruff() -> None:
    passes("ruff", "check", "--no-cache", ".")


def test_ruff_format() -> None:
    passes("ruff", "format", "--no-cache", "--check", ".")


def test_mypy() -> None:
    passes("mypy")


def test_mypy_of_the_hop() -> None:
    """It runs on hosts' Python, 3.9; this is the oldest that mypy knows.  Ruff checks it for 3.9."""
    passes("mypy", "--python-version", "3.10", "-p", "vclust_hop")


def test_yamllint() -> None:
    passes("yamllint", "--strict", ".")


def test_ansible_lint() -> None:
    passes("ansible-lint", "--offline", "-q")


def test_what_is_imported_is_declared() -> None:
    """Of other projects; in pyproject.toml, or what only Debian has among the wrapper's packages."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    declared = {re.split("[^A-Za-z0-9_-]", wanted)[0].lower() for wanted in chain.from_iterable(lists)}
    names = {
        "yaml": "pyyaml",
        "ansible": "ansible-core",
        "ansible_runner": "ansible-runner",
        "libvirt": "libvirt-python",
        "libvirt_qemu": "libvirt-python",
    }
    own = {"vclust_py", "vclust_hop", "ansible_collections"}
    for path in chain.from_iterable(
        (PROJECT / top).rglob("*.py") for top in ("vclust_py", "library", "plugins")
    ):
        for found in imported(path) - sys.stdlib_module_names - own:
            if found == "seccomp":
                assert "python3-seccomp" in (PROJECT / "vclust").read_text()
            else:
                assert names.get(found, found) in declared, f"{path}: {found}"


def imported(path: Path) -> set[str]:
    found = set()
    for statement in ast.walk(ast.parse(path.read_text())):
        if isinstance(statement, ast.Import):
            found |= {name.name.partition(".")[0] for name in statement.names}
        elif isinstance(statement, ast.ImportFrom) and not statement.level:
            found.add(str(statement.module).partition(".")[0])
    return found


@pytest.mark.parametrize("package", ["vclust_hop", *sorted(path.parent.name for path in PACKAGES)])
def test_a_package_says_what_is_in_it(package: str) -> None:
    """The docstring, or that of the package above, is the map: it has a word on every module."""
    folder = PROJECT / package if package.startswith("vclust_") else PROJECT / "vclust_py" / package
    texts = [
        path.read_text() for path in (folder / "__init__.py", folder.parent / "__init__.py") if path.exists()
    ]
    words = set(re.findall(r"\w+", " ".join(str(ast.get_docstring(ast.parse(text))) for text in texts)))
    modules = {path.stem for path in folder.glob("*.py")} | {
        path.parent.name for path in folder.glob("*/__init__.py")
    }
    assert modules - {"__init__", "__main__"} <= words


def test_documents_name_files_that_are_there() -> None:
    tests = {path.name for path in (PROJECT / "tests").rglob("test_*.py")}
    for document in (PROJECT / "README.md", *(PROJECT / "docs").glob("*.md")):
        text = document.read_text()
        named = re.findall(rf"(?<![\w/])(?:{FOLDERS})/[\w./-]*\w", text)
        assert [name for name in named if not (PROJECT / name).exists()] == [], document.name
        assert set(re.findall(r"\btest_\w+\.py\b", text)) <= tests, document.name


@pytest.mark.parametrize("playbook", sorted(path.name for path in (PROJECT / "playbooks").glob("*.yml")))
def test_playbook_syntax(playbook: str) -> None:
    passes("ansible-playbook", "--syntax-check", f"playbooks/{playbook}")


def documented(kind: str, names: list[str]) -> dict[str, Any]:
    docs: dict[str, Any] = json.loads(passes("ansible-doc", "--json", "-t", kind, *names))
    assert sorted(docs) == names
    return docs


@pytest.mark.parametrize("kind", PLUGINS)
def test_plugins_are_documented(kind: str) -> None:
    for name, page in documented(kind, PLUGINS[kind]).items():
        assert page["doc"]["short_description"], name
        assert page["examples"].strip(), name


def options(documentation: dict[str, Any]) -> dict[str, Any]:
    """Documented options as an argument specification, as far as both tell the same."""
    return {
        name: {
            **{
                key: option[key]
                for key in ("type", "elements", "choices", "default")
                if option.get(key) is not None
            },
            **({"required": True} if option.get("required") else {}),
            **({"options": options(option["suboptions"])} if "suboptions" in option else {}),
        }
        for name, option in documentation.items()
    }


def without_no_log(specification: dict[str, Any]) -> dict[str, Any]:
    return {
        name: {
            **{key: value for key, value in option.items() if key not in ("no_log", "options")},
            **({"options": without_no_log(option["options"])} if "options" in option else {}),
        }
        for name, option in specification.items()
    }


def test_modules_are_documented_as_they_are() -> None:
    for name, page in documented("module", MODULES).items():
        module = runpy.run_path(str(PROJECT / "library" / f"{name}.py"), run_name=name)
        assert options(page["doc"]["options"]) == without_no_log(module["argument_spec"]()), name
        assert set(page["doc"]["attributes"]) == {"check_mode", "diff_mode", "platform"}, name
        tasks = yaml.safe_load(page["examples"])
        assert all(name in task for task in tasks), name
        assert page["return"], name


def scripts() -> list[Path]:
    """Files of the checkout whose first line names a shell."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=PROJECT, capture_output=True, check=True
    )
    paths = [PROJECT / name for name in listed.stdout.decode().splitlines()]
    return [
        path
        for path in paths
        if path.is_file() and path.read_bytes()[:40].split(b"\n")[0].endswith((b"sh", b"bash"))
    ]


@pytest.mark.parametrize("path", scripts(), ids=lambda path: str(path.relative_to(PROJECT)))
def test_shell_syntax(path: Path) -> None:
    shell = "bash" if b"bash" in path.read_bytes().split(b"\n")[0] else "sh"
    subprocess.run([shell, "-n", path], check=True)


def _imports(path: Path, modules: Set[str]) -> set[str]:
    """The project's modules that a module imports when it is imported itself."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in modules else node.module for name in names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found & modules


def test_no_module_imports_itself_by_way_of_others() -> None:
    modules = {
        ".".join(path.relative_to(PROJECT).with_suffix("").parts).removesuffix(".__init__"): path
        for package in ("vclust_py", "vclust_hop")
        for path in (PROJECT / package).rglob("*.py")
    }
    below = {name: _imports(path, modules.keys()) for name, path in modules.items()}
    assert sum(map(len, below.values())) > 100
    try:
        graphlib.TopologicalSorter(below).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" → ".join(error.args[1]))


def test_no_file_is_longer_than_600_lines() -> None:
    lengths = {
        str(path.relative_to(PROJECT)): len(path.read_text(encoding="utf-8").splitlines())
        for folder in ("vclust_py", "vclust_hop", "library", "plugins")
        for path in (PROJECT / folder).rglob("*.py")
    }
    assert {path: length for path, length in lengths.items() if length > 600} == {}

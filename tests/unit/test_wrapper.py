"""The wrapper's set-up, with tools that only pretend: what it asks for, and in which order."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from vclust_py.site import PROJECT

# dpkg-query knows only zstd; apt-get and pip write down how they are called.
TOOLS = {
    "dpkg-query": 'case "$*" in *zstd*) echo -n installed ;; *) exit 1 ;; esac',
    "apt-get": 'echo "apt-get $*" >>"$LOG"',
    "id": "echo 1000",
    "sudo": 'echo sudo >>"$LOG"; exec "$@"',
    "flock": ":",
}
# In the place of Debian's Python: makes a .venv whose pip and vclust write down how they are called.
PYTHON = """
if [ "$1" = -V ]; then echo Python 3; exit; fi
for venv; do :; done
mkdir -p "$venv/bin"
for tool in pip vclust python; do
    printf '#!/bin/sh\\necho "%s $*" >>"$LOG"\\n' "$tool" >"$venv/bin/$tool"
    chmod +x "$venv/bin/$tool"
done
"""


class Checkout:
    def __init__(self, path: Path) -> None:
        self.path, self.log = path / "checkout", path / "log"
        self.tools = path / "tools"
        self.tools.mkdir()
        self.path.mkdir()
        for name, body in {**TOOLS, "python3": PYTHON}.items():
            self.tool(name, body)
        script = (PROJECT / "vclust").read_text().replace("/usr/bin/python3", str(self.tools / "python3"))
        (self.path / "vclust").write_text(script)
        (self.path / "vclust").chmod(0o755)
        shutil.copy(PROJECT / "pyproject.toml", self.path)
        shutil.copytree(PROJECT / "requirements", self.path / "requirements")

    def tool(self, name: str, body: str) -> None:
        (self.tools / name).write_text(f"#!/bin/sh\n{body}\n")
        (self.tools / name).chmod(0o755)

    def run(
        self, *words: str, script: Path | None = None, path: str = "/usr/bin:/bin"
    ) -> tuple[int, str, str]:
        """Exit status, what it said, and the calls of tools."""
        self.log.write_text("")
        done = subprocess.run(
            [script or self.path / "vclust", *words],
            env={"PATH": f"{self.tools}:{path}", "LOG": str(self.log)},
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stderr, self.log.read_text()


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_first_and_second_use(checkout: Checkout, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(checkout.path / "vclust")
    code, said, calls = checkout.run("list", script=link)
    assert code == 0, said
    assert "installing system packages: qemu-system" in said
    assert "zstd" not in said
    steps = [line for line in calls.splitlines() if line != "sudo"]
    assert [step.split()[0] for step in steps] == ["apt-get", "apt-get", "pip", "pip", "vclust"]
    assert calls.count("sudo") == 3
    assert steps[-1] == "vclust list"
    # Nothing comes in but by a digest: what is listed, and the project itself without anything else.
    assert f"install --require-hashes --requirement {checkout.path}/requirements/base.txt" in steps[2]
    assert f"install --no-deps --no-build-isolation --editable {checkout.path}" in steps[3]

    assert checkout.run("list") == (0, "", "vclust list\n")
    _, _, calls = checkout.run("test", "-k", "nothing")
    assert f"install --require-hashes --requirement {checkout.path}/requirements/test.txt" in calls
    assert calls.endswith("python -m pytest -k nothing\n")
    assert checkout.run("test")[2] == "python -m pytest\n"


def test_an_interrupted_set_up_is_done_again(checkout: Checkout) -> None:
    checkout.tool("python3", PYTHON + 'rm "$venv/bin/pip"')
    code, said, _ = checkout.run("list")
    assert code == 4
    assert "pip install failed" in said
    checkout.tool("python3", PYTHON)
    assert checkout.run("list")[0] == 0


@pytest.mark.parametrize("name", ["pyproject.toml", "requirements/base.txt"])
def test_changed_requirements_are_installed(checkout: Checkout, name: str) -> None:
    assert checkout.run("list")[0] == 0
    with (checkout.path / name).open("a") as file:
        file.write("# changed\n")
    assert "pip" in checkout.run("list")[2]


def test_apt_that_fails_is_shown(checkout: Checkout) -> None:
    checkout.tool("apt-get", "echo no route; exit 100")
    code, said, _ = checkout.run("list")
    assert code == 4
    assert "no route" in said
    assert "is this machine online?" in said


def test_who_may_not_use_sudo_is_told_so(checkout: Checkout) -> None:
    checkout.tool("sudo", "echo 'eve is not in the sudoers file' >&2; exit 1")
    code, said, calls = checkout.run("test")
    assert (code, calls) == (4, "")
    assert "eve is not in the sudoers file" in said
    assert "sudo was refused; as root: apt-get install --no-install-recommends qemu-system" in said
    assert "online" not in said


def test_neither_root_nor_sudo(checkout: Checkout, tmp_path: Path) -> None:
    (checkout.tools / "sudo").unlink()
    code, said, calls = checkout.run("list", path=str(tools_without(tmp_path, "sudo")))
    assert code == 4
    assert "neither root nor sudo" in said
    assert "apt-get install --no-install-recommends qemu-system" in said
    assert calls == ""


def test_not_debian(checkout: Checkout, tmp_path: Path) -> None:
    (checkout.tools / "apt-get").unlink()
    code, said, _ = checkout.run("list", path=str(tools_without(tmp_path, "apt-get")))
    assert code == 4
    assert "not a Debian-like system" in said


def tools_without(folder: Path, missing: str) -> Path:
    """A folder with the machine's basic tools, one left out."""
    tools = folder / "machine"
    tools.mkdir()
    for name in (
        "bash",
        "sh",
        "cat",
        "dirname",
        "readlink",
        "sha256sum",
        "uname",
        "apt-get",
        "mkdir",
        "chmod",
    ):
        found = shutil.which(name)
        if name != missing and found:
            (tools / name).symlink_to(os.path.realpath(found))
    return tools

"""What a shell completes, asked as the shells ask."""

import argparse
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from anode import NODE

from vclust_py import request
from vclust_py.cli import completion, sites
from vclust_py.errors import VclustError
from vclust_py.module import site_manager
from vclust_py.site import Site, clusters
from vclust_py.site.store import Store

VCLUST = Path(sys.executable).with_name("vclust")

PROGRAM = """
import sys
from dataclasses import replace
from pathlib import Path
from vclust_py import cli
from vclust_py.cli import sites
sites.MEMORY = Path(sys.argv.pop(1))
cli.main()
"""


class Shell:
    """Sites `north` and `south` on this machine, remembered as by an earlier command, and folders with files."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.memory = folder / "memory"
        monkeypatch.setattr(sites, "MEMORY", self.memory)
        self.inventory = folder / "hosts.yml"
        self.inventory.write_text("all:\n")
        answers = sites.Answers()
        for name in ("north", "south"):
            site = Site(root=folder / name)
            where = dict(site_manager(site)["site_manager"]) | {"site": name}
            answers.sites.append(sites.Answer(name, name, {"site_manager": where}))
        mark = sites._fingerprint(self.inventory)
        assert mark is not None
        sites._remember(self.inventory, mark, answers)

    def register(self, site: str, name: str) -> None:
        wanted = {"hardware": {"number_of_nodes": 1}, "software": {"name": name, "hostname": f"{name}-n%d"}}
        store = Store(Site(root=self.folder / site))
        clusters.register(store, request.from_mapping(wanted, "test"))
        clusters.place(
            store, clusters.get(store, name), [replace(NODE, name=f"{name}-n1", uuid=name, mac=name)]
        )
        store.close()

    def __call__(self, line: str) -> list[str]:
        answer = self.folder / "answer"
        typed = f"vclust -i hosts.yml {line}"
        environment = {
            "_ARGCOMPLETE": "1",
            "_ARGCOMPLETE_STDOUT_FILENAME": str(answer),
            "COMP_LINE": typed,
            "COMP_POINT": str(len(typed.encode())),
        }
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, self.memory],
            cwd=self.folder,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, done.stdout) == (0, ""), done
        return sorted(word.rstrip() for word in answer.read_text().split("\013") if word)


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    return Shell(tmp_path, monkeypatch)


def test_commands_and_options(shell: Shell) -> None:
    assert shell("de") == ["destroy"]
    assert shell("cache his") == ["history"]
    assert "--json" in shell("create --")
    assert shell("completion ") == sorted(completion.SHELLS)


@pytest.mark.skipif(os.geteuid() != 0, reason="the state is root's")
def test_clusters_and_nodes(shell: Shell) -> None:
    assert shell("show ") == []  # sites without a database
    for site, name in (("north", "alpha"), ("north", "both"), ("south", "both"), ("south", "beta")):
        shell.register(site, name)
    assert shell("show ") == ["alpha", "beta", "north/both", "south/both"]
    assert shell("destroy a") == ["alpha"]
    assert shell("ssh north/") == ["north/alpha", "north/both"]
    assert shell("ssh alpha ") == ["alpha-n1"]
    assert shell("ssh south/both ") == ["both-n1"]
    assert shell("ssh south/alpha ") == shell("ssh nobody ") == shell("ssh NO ") == []
    assert shell("ssh alpha -- ") == []
    assert shell("scp al") == ["alpha:"]
    assert shell("scp alpha:") == []
    # What changed since must be asked of Ansible: not at the press of a key.
    shell.inventory.write_text("all: {}\n")
    assert shell("show ") == []


def test_files(shell: Shell) -> None:
    for name in ("a.ini", "a.txt", "b.yml", ".hidden.ini", "it's.yaml", "sub/c.yaml"):
        path = shell.folder / "requests" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert shell("create req") == ["requests/"]
    assert shell("create requests/") == [
        "requests/a.ini",
        "requests/b.yml",
        "requests/it\\'s.yaml",
        "requests/sub/",
    ]
    assert shell("plan requests/.h") == ["requests/.hidden.ini"]
    assert shell("cache explain nowhere/") == []
    assert "requests/a.txt" in shell("create x.ini --locked requests/")
    assert shell("scp requests/a.") == ["requests/a.ini", "requests/a.txt"]


def test_names_of_files_reach_no_shell(shell: Shell) -> None:
    (shell.folder / "a'$(touch gone)`touch gone`'").mkdir()
    (shell.folder / "a'$(touch gone)`touch gone`'" / "b.ini").touch()
    for line in (
        "create a",
        "create \"a'\\$(touch gone)\\`touch gone\\`'/",
        "send a",
        "plan a'$(touch gone)",
    ):
        shell(line)
    assert not (shell.folder / "gone").exists()


BASH = r"""
eval "$(vclust completion bash)"
[[ $(complete -p vclust) =~ -F\ ([^ ]+) ]]
COMP_LINE=$1 COMP_POINT=${#1} COMP_TYPE=9 COMPREPLY=()
"${BASH_REMATCH[1]}" vclust
printf '%s\n' "${COMPREPLY[@]}"
"""
ZSH = r"""
autoload -Uz compinit && compinit -D
source <(vclust completion zsh)
BUFFER=$1 CURSOR=${#1} words=(${=1})
_describe() { print -rl -- ${(P)2} }
$_comps[vclust]
"""
FISH = "vclust completion fish | source; complete -C $argv[1]"


@pytest.mark.parametrize(
    "argv", [["bash", "-c", BASH, "bash"], ["zsh", "-f", "-c", ZSH, "zsh"], ["fish", "-N", "-c", FISH]]
)
def test_in_the_shells(argv: list[str], tmp_path: Path) -> None:
    """Each evaluates the code and is answered by the command that printed it."""
    if shutil.which(argv[0]) is None:
        pytest.skip(f"there is no {argv[0]}")
    done = subprocess.run(
        [*argv, "vclust cache s"],
        env={**os.environ, "PATH": f"{VCLUST.parent}:{os.environ['PATH']}", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert {"show", "simulate"} <= {
        word for line in done.stdout.splitlines() for word in line.split(":")[0].split()
    }
    assert "list" not in done.stdout.split()


@pytest.mark.parametrize("folder", ["a b", "a$(id)", 'a"b', "a;b"])
def test_a_folder_that_shell_code_cannot_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: str
) -> None:
    monkeypatch.setattr(sys, "argv", [str(tmp_path / folder / "vclust")])
    for name in completion.SHELLS:
        with pytest.raises(VclustError, match="a path that shells' code cannot have"):
            completion.completion(argparse.Namespace(**{"shell": name}))

"""`vclust ssh` and `vclust scp`: which words OpenSSH's programs get."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from vclust_py import cli
from vclust_py.cli import messages

PROGRAM = """
import json, sys
from vclust_py import cli
from vclust_py.cli import sites
cluster = json.loads(sys.argv.pop(1))
def found(arguments):
    assert (arguments.cluster["site"], arguments.cluster["name"]) in (("any", "demo"), ("north", "demo"))
    return "north", cluster
sites.cluster = found
cli.main(["-i", "unread", *sys.argv[1:]])
"""
RECORD = """#!/bin/sh
printf '%s\\n' "${0##*/}" "$@"
"""


class Login:
    """The command with stand-ins for ssh and scp, which print their words, and for the site's answer."""

    def __init__(self, folder: Path) -> None:
        for name in ("alice", "bob"):
            (folder / name).touch()
        for name in ("ssh", "scp"):
            (folder / name).write_text(RECORD)
            (folder / name).chmod(0o755)
        self.folder = folder
        # Names of networks are joined to a folder: this one is there.
        way_in = {
            "user": "alice",
            "netns": str(folder),
            "key": "/k/user",
            "user_keys": {"alice": str(folder / "alice"), "bob": str(folder / "bob"), "carol": "/k/gone"},
            "admin_key": "/k/admin",
            "known_hosts": "/k/h",
            "sockets": str(folder / "sockets"),
            "gateway": {},
        }
        names = {"n-01": "failed", "2": "ready", "n-03": "ready"}
        nodes = [
            {"name": name, "state": state, "address": f"10.0.0.{index}"}
            for index, (name, state) in enumerate(names.items(), 1)
        ]
        self.cluster: dict[str, Any] = {
            "name": "demo",
            "state": "ready",
            "nodes": nodes,
            "ssh": way_in,
            "owner": "root",
        }

    def __call__(self, *words: str, code: int = 0) -> list[str]:
        """What the program got, or the lines of the error."""
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, json.dumps(self.cluster), *words],
            env={**os.environ, "PATH": f"{self.folder}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == code, done
        return (done.stderr if code else done.stdout).splitlines()


@pytest.fixture
def login(tmp_path: Path) -> Login:
    return Login(tmp_path)


@pytest.mark.parametrize(
    ("words", "node", "address"),
    [
        ([], "2", "10.0.0.2"),  # the first has failed
        (["n-01"], "n-01", "10.0.0.1"),
        (["1"], "n-01", "10.0.0.1"),
        (["3"], "n-03", "10.0.0.3"),
        (["2"], "2", "10.0.0.2"),
    ],
)
def test_a_node_by_name_or_number(login: Login, words: list[str], node: str, address: str) -> None:
    argv = login("ssh", "demo", *words, "--", "ls", "-l")
    assert argv[:3] == ["ssh", "-F", "/dev/null"]
    assert argv[-4:] == ["--", f"{node}.demo", "ls", "-l"]  # no options of ssh
    assert f"ProxyCommand=ip netns exec {login.folder} nc {address} 22" in argv
    assert {f"HostKeyAlias={node}", "UserKnownHostsFile=/k/h", "User=alice", f"{login.folder}/alice"} <= set(
        argv
    )


def test_another_user_and_root(login: Login) -> None:
    messages.call(Path("unread"))  # as PROGRAM does
    for words in (["ssh", "demo"], ["scp", "a", "demo:"]):
        argv = login(*words, "--user", "bob")
        assert {"User=bob", f"{login.folder}/bob"} <= set(argv)
        for root in (["--root"], ["--user", "root"]):
            assert {"User=root", "/k/admin"} <= set(login(*words, *root))
        assert "carol: no such user" not in login(*words, "--user", "carol", code=4)[0]
    assert login("ssh", "demo", "--user", "carol", code=4) == [
        "vclust: demo: has no key of carol on the site manager, as it was made by an earlier version",
        f"  hint: {messages.as_called('vclust ssh demo --root -- su - carol')}",
    ]
    assert login("ssh", "demo", "--user", "dora", code=2) == [
        "vclust: dora: no such user of demo; there are: alice, bob, carol, root"
    ]
    assert "not allowed with argument" in "\n".join(login("ssh", "demo", "--root", "--user", "bob", code=2))


def test_a_configuration_for_this_machine(login: Login) -> None:
    said = "\n".join(login("ssh-config", "demo", code=4))
    assert "demo: nobody but root reaches it on this machine: its owner is root" in said
    (login.folder / "sockets").mkdir()
    (login.folder / "sockets/2").touch()
    known = login.folder / "known"
    known.write_text("@cert-authority * ssh-ed25519 AAAA\n")
    login.cluster["ssh"]["known_hosts"] = str(known)
    options = effective(login, login("ssh-config", "demo"), "2.demo")
    assert options["user"] == "alice"
    assert options["hostkeyalias"] == "2"
    assert options["proxycommand"] == f"nc -N -U {login.folder}/sockets/2"
    assert options["knownhostscommand"] == '/bin/echo "@cert-authority * ssh-ed25519 AAAA"'
    assert options["stricthostkeychecking"] == "true"
    options = effective(
        login, login("ssh-config", "demo", "--user", "bob", "--key", "~/.ssh/lab"), "n-03.demo"
    )
    assert (options["user"], options["identityfile"], options["identitiesonly"]) == (
        "bob",
        "~/.ssh/lab",
        "yes",
    )
    for key in ("a b", "-x", "$(id)", "a%h", "a'b", '"'):
        login("ssh-config", "demo", f"--key={key}", code=2)


def test_a_configuration_for_other_machines(login: Login) -> None:
    said = "\n".join(login("ssh-config", "demo", "--remote", code=2))
    assert "demo: its site has no gateway for other machines" in said
    known = login.folder / "known"
    known.write_text("@cert-authority * ssh-ed25519 AAAA\n")
    gateway = {"host": "hpc.example.org", "port": 2222, "key": "ssh-ed25519 BBBB"}
    login.cluster["ssh"] |= {"known_hosts": str(known), "gateway": gateway}
    options = effective(login, login("ssh-config", "demo", "--remote", "--key", "/k/own"), "n-03.demo")
    words = shlex.split(options["proxycommand"])
    assert words[:6] == ["ssh", "-F", "none", "-T", "-p", "2222"]
    assert words[-2:] == ["vclust-ssh@hpc.example.org", "n-03.demo"]
    assert {"IdentityFile=/k/own", "StrictHostKeyChecking=yes"} <= set(words)
    assert "KnownHostsCommand=/bin/echo vclust-gateway-2222 ssh-ed25519 BBBB" in words


def effective(login: Login, config: list[str], node: str) -> dict[str, str]:
    """What OpenSSH itself makes of a configuration."""
    assert config[0].startswith("# OpenSSH, on ")
    file = login.folder / "config"
    file.write_text("\n".join(config) + "\n")
    done = subprocess.run(["ssh", "-G", "-F", file, node], capture_output=True, text=True, check=True)
    return dict(line.split(" ", 1) for line in done.stdout.splitlines() if " " in line)


def test_without_users_it_is_root(login: Login) -> None:
    login.cluster["ssh"] |= {"user": "root", "user_keys": {}}
    assert {"User=root", "/k/admin"} <= set(login("ssh", "demo"))


def test_a_name_of_digits_goes_before_a_number(login: Login) -> None:
    nodes = login.cluster["nodes"]
    nodes[0]["name"], nodes[2]["name"] = "3", "1"
    assert login("ssh", "demo", "3")[-1] == "3.demo"
    assert "HostKeyAlias=3" in login("ssh", "demo", "3")


@pytest.mark.parametrize("node", ["4", "0", "00", "n-04", "9" * 60])
def test_no_such_node(login: Login, node: str) -> None:
    told = login("ssh", "demo", node, code=2)
    assert told == [
        f"vclust: {node}: no such node of demo; there are: n-01, 2, n-03",
        "  hint: a number from 1 to 3 does as well",
    ]


def test_clusters_that_cannot_be_reached(login: Login) -> None:
    login.cluster["ssh"]["netns"] = str(login.folder / "gone")
    assert "was this machine restarted?" in login("scp", "a", "demo:", code=4)[0]
    login.cluster["state"] = "stopped"
    assert login("ssh", "demo", code=4)[:2] == ["vclust: demo: is stopped", "  hint: vclust start demo"]
    login.cluster["state"] = "ready"
    login.cluster["nodes"][1]["state"] = "placed"
    assert "demo: 2 was not started yet" in login("ssh", "demo", "2", code=4)[0]
    login.cluster["nodes"] = []
    assert "no nodes yet, its state is ready" in login("ssh", "demo", code=4)[0]


@pytest.mark.parametrize(
    ("words", "got"),
    [
        (["a.tar", "demo:"], ["--", "./a.tar", "2.demo:"]),
        (["-r", "-p", "/srv/a", "b", "demo:in put"], ["-r", "-p", "--", "/srv/a", "./b", "2.demo:in put"]),
        (["n-03.demo:/etc/hosts", "."], ["--", "n-03.demo:/etc/hosts", "."]),
        (["north/1.demo:a", "north/1.demo:b c", "."], ["--", "n-01.demo:a", "n-01.demo:b c", "."]),
        (["./odd:name", "demo:$(id);`id`"], ["--", "./odd:name", "2.demo:$(id);`id`"]),
        (["--", "-oProxyCommand=id", "demo:-x"], ["--", "./-oProxyCommand=id", "2.demo:-x"]),
        (["dir/file", "demo:a:b"], ["--", "./dir/file", "2.demo:a:b"]),
    ],
)
def test_copies(login: Login, words: list[str], got: list[str]) -> None:
    argv = login("scp", *words)
    assert argv[:3] == ["scp", "-F", "/dev/null"]
    assert argv[-len(got) :] == got
    assert argv.count("--") == 1
    # All else is as with ssh.
    node = next(word for word in argv if word.startswith("HostKeyAlias=")).partition("=")[2]
    assert argv[1 : -len(got)] == login("ssh", "demo", node)[1:-2]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["demo:a"], "got one path"),
        (["a", "b"], "not all of one cluster on one side"),
        (["demo:a", "demo:b"], "not all of one cluster on one side"),
        (["demo:a", "b", "c"], "not all of one cluster on one side"),
        (["1.demo:a", "2.demo:b", "."], "got files of several nodes"),
        (["demo:a", "other:b", "."], "got files of several nodes"),
        (["Demo:a", "."], "[SITE/][NODE.]NAME:PATH: got 'Demo', expected NAME or SITE/NAME of a cluster"),
        (["-x.demo:a", "."], "unrecognized arguments"),
        (["--", "-x.demo:a", "."], "got '-x', expected the name of a node"),
        ([":a", "."], "got '', expected NAME"),
    ],
)
def test_copies_that_are_refused(login: Login, words: list[str], said: str) -> None:
    assert said in "\n".join(login("scp", *words, code=2))


def test_options_between_paths() -> None:
    asked = cli.parse(["scp", "a", "demo:", "-r"])
    assert (asked.paths, asked.recursive, asked.preserve) == (["a", "demo:"], True, False)
    assert cli.parse(["scp", "ssh", "--", "-a", "demo:"]).paths == ["ssh", "-a", "demo:"]
    assert cli.parse(["ssh", "scp", "--", "-a"]).remote == ["-a"]

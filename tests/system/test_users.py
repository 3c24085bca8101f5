"""The cluster's own users, without root: login, files, a port, root in the node; here, and by the site's gateway."""

import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from machine import Vclust, left_since, local, output, snapshot

from vclust_py.site import Site

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(
        shutil.which("sshd", path="/usr/sbin") is None or shutil.which("rsync") is None,
        reason="no openssh-server or rsync",
    ),
]

OWNER, STRANGER = "games", "news"
"""Accounts that each Debian has."""
PASSWORD_HASH = "$6$abcdefgh$" + "a" * 86
REQUEST = """\
[Hardware]
NumberOfNodes: 2
[Software]
User: alice:*
User: bob:{hash}
SSHKey: alice:{key}
Hostname: t-users%02d
Network: 192.168.82.0/24
Packages: rsync
"""


@dataclass
class Users:
    vclust: Vclust
    folder: Path
    """Of OWNER, with its key."""
    port: int

    def config(self, *words: str) -> Path:
        text = self.vclust("ssh-config", "users", "--key", str(self.folder / "key"), *words, SUDO_USER=OWNER)
        path = self.folder / f"config{len(words)}"
        path.write_text(text)
        return path

    def run(self, *argv: object, who: str = OWNER, text: str = "") -> "subprocess.CompletedProcess[str]":
        words = ["setpriv", "--reuid", who, "--regid", who, "--clear-groups", "--", *map(str, argv)]
        return subprocess.run(words, input=text, capture_output=True, text=True, timeout=300, check=False)

    def ssh(self, config: Path, *argv: str, text: str = "") -> str:
        done = self.run("ssh", "-F", config, "-o", "BatchMode=yes", *argv, text=text)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def users(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Users]:
    folder = tmp_path_factory.mktemp("users")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    gateway = {"port": port, "listen": "127.0.0.1", "host": "127.0.0.1"}
    vclust = local(folder, root=site.root, gateway=gateway)
    with tempfile.TemporaryDirectory(prefix="vclust-users-") as own:
        output("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", f"{own}/key")
        shutil.chown(own, OWNER)
        shutil.chown(f"{own}/key", OWNER)
        key = Path(own, "key.pub").read_text().strip()
        before = snapshot()
        vclust(
            "create", vclust.request("users", REQUEST.format(hash=PASSWORD_HASH, key=key)), SUDO_USER=OWNER
        )
        sockets = vclust.json("show", "users")["ssh"]["sockets"]
        yield Users(vclust, Path(own), port)
        vclust("destroy", "users")
        assert left_since(before) == {}
        lines = output("ps", "-ww", "-eo", "args").splitlines()
        assert not [line for line in lines if sockets in line or str(site.gateway_folder) in line]
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), 5)


WAYS = pytest.mark.parametrize("words", [(), ("--remote",)], ids=["here", "from afar"])


@WAYS
def test_login_and_root_without_a_password(users: Users, words: tuple[str, ...]) -> None:
    config = users.config(*words)
    assert users.ssh(config, "t-users02.users", "id -un; hostname; sudo -n id -u").split() == [
        "alice",
        "t-users02",
        "0",
    ]


@WAYS
def test_files(users: Users, words: tuple[str, ...]) -> None:
    config, data = users.config(*words), "x" * 100_000
    (users.folder / "in").write_text(data)
    shutil.chown(users.folder / "in", OWNER)
    for argv in (
        ["scp", "-F", config, users.folder / "in", "t-users01.users:copied"],
        ["rsync", "-e", f"ssh -F {config}", users.folder / "in", "t-users01.users:synced"],
    ):
        done = users.run(*argv)
        assert done.returncode == 0, done.stderr
    assert users.ssh(config, "t-users01.users", "cat copied synced") == 2 * data


@WAYS
def test_a_port(users: Users, words: tuple[str, ...]) -> None:
    assert users.ssh(users.config(*words), "-W", "127.0.0.1:22", "t-users01.users", text="x\n").startswith(
        "SSH-2.0-"
    )


def test_other_users_and_root_for_the_owner(users: Users) -> None:
    def said(*words: str) -> str:
        return users.vclust("ssh", *words, SUDO_USER=OWNER)

    assert said("users", "--user", "bob", "--", "id -un; sudo -n true 2>&1 || echo asked").split()[0] == "bob"
    assert "password is required" in said("users", "--user", "bob", "--", "sudo -n true || true")
    assert said("--root", "users", "2", "--", "id -un; hostname").split() == ["root", "t-users02"]
    assert "no such user of users; there are: alice, bob, root" in users.vclust(
        "ssh", "users", "--user", "eve", "--", "id", code=2, SUDO_USER=OWNER
    )


def test_others_get_no_further_than_the_socket(users: Users) -> None:
    sockets = users.vclust.json("show", "users")["ssh"]["sockets"]
    refused = users.run("nc", "-N", "-U", f"{sockets}/t-users01", who=STRANGER, text="x\n")
    assert refused.stdout == ""
    assert users.run("nc", "-N", "-U", f"{sockets}/t-users01", text="x\n").stdout.startswith("SSH-2.0-")
    said = users.vclust("ssh-config", "users", code=2, SUDO_USER=STRANGER)
    assert f"belongs to {OWNER}" in said
    number = pwd.getpwnam("vclust-ssh").pw_uid
    (relay,) = [
        line for line in output("ps", "-ww", "-eo", "uid=,args=").splitlines() if line.endswith(f" {sockets}")
    ]
    assert relay.split()[0] == str(number)


def test_a_node_knows_what_it_can_reach(users: Users) -> None:
    command = "cat /etc/resolv.conf; timeout 20 getent hosts example.org || echo $?"
    said = users.ssh(users.config(), "t-users01.users", command)
    assert "reach no name server" in said
    assert said.splitlines()[-1] == "2", "not found, and at once"

"""The proof's functions with OpenSSH itself: what is asked of it, and that one connection serves login and MPI."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sshd import PROGRAM, Sshd, sshd

from vclust_py.guest import proof

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or PROGRAM is None or shutil.which("ssh") is None, reason="needs root and OpenSSH"
)

MPIEXEC = """#!/bin/sh
rank=0
while read -r node; do
  [ $rank = 0 ] && name=$node || name=$(ssh $HYDRA_LAUNCHER_EXTRA_ARGS "$node" proxy < /dev/null)
  echo "rank $rank of $2 on $name"
  rank=$((rank + 1))
done < "$HYDRA_HOST_FILE"
"""


HYDRA = """#!/bin/sh
"$HYDRA_LAUNCHER_EXEC" $HYDRA_LAUNCHER_EXTRA_ARGS n2 proxy < /dev/null &
wait
exec sleep 600
"""
"""As Hydra: what comes of the logins is nothing to it, it waits for what they were to start."""

TRY = "try n2 1\nwait\n"


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Sshd]:
    """The node `n2`, which says its name whatever it is asked to run."""
    with sshd(tmp_path / "sshd") as server:
        public = server.folder / "key.pub"
        public.write_text(f'command="echo n2" {public.read_text()}')
        yield server


def run(tmp_path: Path, node: Sshd, text: str, *, known: bool = True, mpiexec: str = MPIEXEC) -> str:
    """What the first node `n1` says; to ssh its own files are those of this test."""
    (tmp_path / "known_hosts").write_text(f"n2 {(node.folder / 'host.pub').read_text()}" if known else "")
    (tmp_path / "config").write_text(
        f"Host n2\n  HostName 127.0.0.1\n  HostKeyAlias n2\n  Port {node.port}\n  User root\n"
        f"  IdentityFile {node.key}\n  UserKnownHostsFile {tmp_path}/known_hosts\n"
    )
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, body in (
        ("ssh", f'#!/bin/sh\nexec {shutil.which("ssh")} -F {tmp_path}/config "$@"\n'),
        ("mpiexec", mpiexec),
        ("hostname", "#!/bin/sh\necho n1\n"),
    ):
        (programs / name).write_text(body)
        (programs / name).chmod(0o755)
    return subprocess.run(
        ["sh", "-s"],
        input=f"{proof.greeting('n1')}{text}",
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env={"PATH": f"{programs}:/usr/bin:/bin", "TMPDIR": str(tmp_path)},
    ).stdout


def test_login_and_mpi_are_one_connection(tmp_path: Path, node: Sshd) -> None:
    output = run(tmp_path, node, TRY + proof.mpi_run(0, ["n1", "n2"]) + "leave n2\n")
    assert proof.judge("x", output, ["n1", "n2"], {0: ["n1", "n2"]}, ())["mpi"]
    assert (node.folder / "log").read_text().count("Accepted publickey") == 1
    deadline = time.monotonic() + 60
    while node.connections():
        assert time.monotonic() < deadline, "the connection stays"
        time.sleep(0.05)


def test_a_node_that_nobody_vouches_for_is_not_taken(tmp_path: Path, node: Sshd) -> None:
    output = run(tmp_path, node, TRY, known=False)
    assert "vclust: login n2 " in output
    assert "Host key verification failed." in output
    assert "Accepted" not in (node.folder / "log").read_text()


@pytest.mark.parametrize("known", [True, False])
def test_mpi_logs_in_as_strictly(tmp_path: Path, node: Sshd, known: bool) -> None:
    output = run(tmp_path, node, proof.mpi_run(0, ["n1", "n2"], 1), known=known)
    lines = [rest.removeprefix("0 ") for word, rest in proof.LINE.findall(output) if word == "mpi"]
    assert proof.mpi_reaches(lines, ["n1", "n2"]) is known
    assert ("Host key verification failed." in output) is not known
    assert (node.folder / "log").read_text().count("Accepted publickey") == known


def test_mpi_ends_where_a_login_of_its_own_fails(tmp_path: Path, node: Sshd) -> None:
    output = run(tmp_path, node, proof.mpi_run(0, ["n1", "n2"], 1), known=False, mpiexec=HYDRA)
    assert "vclust: mpi 0 Host key verification failed." in output
    assert output.endswith("vclust: done mpi 0\n")

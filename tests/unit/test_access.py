"""Waiting for a node's sshd to listen, as ssh's ProxyCommand does it; a real listener in the node's place."""

import shlex
import shutil
import socket
import subprocess
import time

import pytest

from vclust_py import access

pytestmark = pytest.mark.skipif(shutil.which("nc") is None, reason="nc is not there")


def proxy(port: int) -> str:
    """The part of the command that runs in the cluster's network, to a port that anybody may have."""
    cluster = {"name": "x", "ssh": {"netns": "vc1", "known_hosts": "/k"}}
    options = access.ssh_options(cluster, {"name": "n1", "address": "127.0.0.1"}, wait=True)
    (command,) = (word for word in options if word.startswith("ProxyCommand="))
    words = shlex.split(command.partition("=")[2])
    assert words[:4] == ["ip", "netns", "exec", "vc1"]
    assert "%" not in command, "ssh would read it"
    return shlex.join([word.replace(" 22 ", f" {port} ") for word in words[4:]])


def test_it_connects_when_somebody_listens_at_last() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
        # As ssh does it: a shell that becomes the command, with what ssh says first waiting in the pipe.
        command = subprocess.Popen(
            ["sh", "-c", f"exec {proxy(port)}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        with command:
            assert command.stdin is not None
            command.stdin.write(b"SSH-2.0-x\n")
            command.stdin.flush()
            with pytest.raises(subprocess.TimeoutExpired):
                command.wait(0.3)
            server.listen()
            connection, _ = server.accept()
            with connection:
                assert connection.recv(100) == b"SSH-2.0-x\n"
                connection.sendall(b"SSH-2.0-y\n")
                connection.shutdown(socket.SHUT_WR)
                command.stdin.close()
            assert command.stdout is not None
            assert command.stdout.read() == b"SSH-2.0-y\n"
        assert command.returncode == 0


def test_it_ends_with_the_ssh_that_it_works_for() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
        ssh = subprocess.Popen(
            ["sh", "-c", f"sh -c {shlex.quote(f'exec {proxy(port)}')} & echo $!; wait"],
            stdout=subprocess.PIPE,
        )
        assert ssh.stdout is not None
        waiting = int(ssh.stdout.readline())
        time.sleep(0.1)  # who looks for its parent too late finds init, and tries 500 times
        ssh.kill()
        ssh.wait()
        deadline = time.monotonic() + 60
        while _runs(waiting):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        ssh.stdout.close()


def _runs(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False

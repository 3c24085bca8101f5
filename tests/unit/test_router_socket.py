"""Sockets in a router namespace, seen from within and without."""

import os
import socket
import subprocess
from collections.abc import Iterator

import pytest

from vclust_py import router_socket
from vclust_py.errors import VclustError

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root makes network namespaces")


@pytest.fixture
def segment() -> Iterator[str]:
    name = f"vct-{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        subprocess.run(["ip", "-netns", name, "link", "set", "lo", "up"], check=True)
        subprocess.run(["ip", "-netns", name, "address", "add", "10.9.8.7/32", "dev", "lo"], check=True)
        yield name
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=True)


def test_it_is_reached_from_within_alone(segment: str) -> None:
    with router_socket.listening(segment, "10.9.8.7") as listening:
        address, port = listening.getsockname()
        assert (address, port > 1023) == ("10.9.8.7", True)
        with socket.socket() as outside:
            outside.settimeout(0.3)
            assert outside.connect_ex((address, port)) != 0
        words = ["ip", "netns", "exec", segment, "bash", "-c", f"exec 3<> /dev/tcp/{address}/{port}"]
        subprocess.run(words, check=True)
    # This thread has stayed where it was.
    with router_socket.bound("127.0.0.1", 0) as own:
        socket.create_connection(own.getsockname(), 10).close()


def test_without_a_namespace_or_its_address(segment: str) -> None:
    with pytest.raises(VclustError, match=r"10\.9\.8\.7:0: No such file or directory"):
        router_socket.listening("vct-none", "10.9.8.7")
    with pytest.raises(VclustError, match=r"10\.9\.8\.6:0: Cannot assign requested address"):
        router_socket.listening(segment, "10.9.8.6")

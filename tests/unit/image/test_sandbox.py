"""What the builder is told of the place it runs in."""

import os
import subprocess
import sys

import pytest

from vclust_py.errors import VclustError
from vclust_py.image import sandbox
from vclust_py.site import PROJECT

ASK = "from vclust_py.image import sandbox; print(sandbox.is_without_network())"
ADD = "ip link set lo up; ip link add d0 type bridge; ip addr add 10.79.1.1/24 dev d0; ip link set d0 up"


def test_a_network_is_there_unless_the_caller_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(sandbox.NO_NETWORK, raising=False)
    assert not sandbox.is_without_network()


@pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces are root's")
@pytest.mark.parametrize("made", ["true", "ip link set lo up", ADD])
def test_that_there_is_none_is_not_taken_on_trust(made: str) -> None:
    done = subprocess.run(
        ["unshare", "--net", "sh", "-c", f'{made}; exec {sys.executable} -c "{ASK}"'],
        cwd=PROJECT,
        env={**os.environ, sandbox.NO_NETWORK: "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if made == ADD:
        error = f"{VclustError.__name__}: environment variable {sandbox.NO_NETWORK}: got a network by d0,"
        assert (done.returncode, error in done.stderr) == (1, True), done.stderr
    else:
        assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr

"""Fixtures of the chain's tests."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hops import Hosts, Trust, made


@pytest.fixture(scope="session")
def trust(tmp_path_factory: pytest.TempPathFactory) -> Trust:
    if os.geteuid() != 0:
        pytest.skip("the site is root's")
    return made(tmp_path_factory.mktemp("trust"))


@pytest.fixture
def hosts(tmp_path: Path, trust: Trust) -> Iterator[Hosts]:
    hosts = Hosts(tmp_path, trust)
    yield hosts
    for host in hosts.running:
        host.signal(signal.SIGCONT)
        host.end()

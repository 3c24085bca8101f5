"""Hosts' oldest Python, 3.9: the package compiles as that, and hops run under it where one can be had."""

import ast
import hashlib
import os
import pwd
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hops import Hosts, Trust, wait_for
from python39 import fetched

import vclust_hop
from vclust_py.chain import File, Options, send

PACKAGE = Path(vclust_hop.__file__).parent
MB = 1 << 20


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("*.py")), ids=lambda path: path.name)
def test_it_is_python39s_language(path: Path) -> None:
    """Mypy checks for 3.10, the oldest that it knows, and ruff for 3.9; what is not there the hops below show."""
    ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 9))


@pytest.fixture(scope="session")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        return fetched(tmp_path_factory.mktemp("python39"))
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"no Python 3.9 to be had: {error}")


@pytest.fixture
def old(tmp_path: Path, trust: Trust, python: Path) -> Iterator[Hosts]:
    hosts = Hosts(tmp_path, trust, python=python)
    yield hosts
    for host in hosts.running:
        host.end()


def written(path: Path, data: bytes) -> File:
    path.write_bytes(data)
    return File(path, digest=hashlib.sha256(data).hexdigest())


@pytest.mark.parametrize("options", [{}, {"encrypt": True}, {"compress": "on"}], ids=str)
@pytest.mark.parametrize("user", [[], ["--user", pwd.getpwuid(65534).pw_name]], ids=["one", "two"])
def test_hops_of_python39_pass_files_on(
    old: Hosts, tmp_path: Path, options: dict[str, object], user: list[str]
) -> None:
    """As one process and as two: small files, zeros, what can be packed; something damaged, and nothing new."""
    noise = os.urandom(MB)
    files = [
        written(tmp_path / "image", noise + bytes(MB) + b"words, " * (MB // 7) + noise),
        *(written(tmp_path / f"small{number}", noise[:number]) for number in range(30)),
    ]
    running = old.start(3, options=user)
    hops = [host.hop for host in running]
    how = Options(block=1 << 16, **options)  # type: ignore[arg-type]
    for outcome in send(files, hops, old.trust.head, how):
        assert (outcome.failed, len(outcome.arrived)) == ("", len(files))
    (running[0].folder / "image").chmod(0o600)
    with (running[0].folder / "image").open("r+b") as image:
        image.write(b"damaged")
    first, *others = send(files, hops, old.trust.head, how)
    assert first.arrived == ("image",)
    assert [outcome.received for outcome in others] == [0, 0]
    for host in running:
        for file in files:
            assert (host.folder / file.path.name).read_bytes() == file.path.read_bytes()


def test_a_hop_of_python39_goes_on_at_another_source(old: Hosts, tmp_path: Path) -> None:
    file = written(tmp_path / "image", os.urandom(16 * MB) * 8)
    running = old.start(3)
    child = os.fork()
    if child == 0:
        outcomes = send([file], [host.hop for host in running], old.trust.head, Options(stall=1.5))
        os._exit(sum(2**number for number, outcome in enumerate(outcomes) if outcome.failed))
    wait_for(lambda: any(path.stat().st_size > MB for path in running[2].folder.iterdir()))
    running[1].signal(signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0b010
    assert (running[2].folder / "image").read_bytes() == file.path.read_bytes()

"""What is on a host already and is not what it should be; hosts and names that are mad."""

import hashlib
import json
import os
from pathlib import Path

import pytest
from hops import Hosts

from vclust_py.chain import File, Hop, Options, lacking, send

BLOCK = 1 << 16


def known(path: Path, content: bytes) -> File:
    path.write_bytes(content)
    return File(path, digest=hashlib.sha256(content).hexdigest())


def part_of(file: File) -> str:
    """The name of what an interrupted transfer of this one file leaves."""
    same = json.dumps([[file.path.name, file.path.stat().st_size, file.digest]])
    return f".{hashlib.sha256(same.encode()).hexdigest()[:32]}.part"


def test_a_damaged_file_of_a_known_digest_is_repaired(hosts: Hosts, tmp_path: Path) -> None:
    content = os.urandom(8 * BLOCK)
    file = known(tmp_path / "image", content)
    (host,) = hosts.start(1)
    damaged = bytearray(content)
    damaged[4 * BLOCK + 5] ^= 1
    (host.folder / "image").write_bytes(damaged)
    (outcome,) = send([file], [host.hop], hosts.trust.head, Options(block=BLOCK))
    assert (outcome.failed, outcome.arrived) == ("", ("image",))
    assert (host.folder / "image").read_bytes() == content
    assert outcome.received == 4 * BLOCK


def test_a_part_of_a_block_does_not_pass_for_a_hole(hosts: Hosts, tmp_path: Path) -> None:
    content = os.urandom(2 * BLOCK) + bytes(2 * BLOCK) + os.urandom(BLOCK)
    file = known(tmp_path / "image", content)
    (host,) = hosts.start(1)
    (host.folder / part_of(file)).write_bytes(content[: 2 * BLOCK] + b"left of another block")
    (outcome,) = send([file], [host.hop], hosts.trust.head, Options(block=BLOCK))
    assert (outcome.failed, outcome.received) == ("", BLOCK)
    assert (host.folder / "image").read_bytes() == content


@pytest.mark.parametrize("what", ["text", "huge", "deep", "arrived", "other"])
def test_a_hop_that_talks_nonsense_costs_itself_only(
    hosts: Hosts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    path = tmp_path / "image"
    path.write_bytes(os.urandom(200 * BLOCK))
    (good,) = hosts.start(1)
    monkeypatch.setenv("WHAT", what)
    (mad,) = hosts.start(1, program=str(Path(__file__).with_name("nonsense.py")))
    outcomes = send([File(path)], [good.hop, mad.hop], hosts.trust.head, Options(block=BLOCK))
    assert outcomes[0].failed == ""
    assert outcomes[1].failed
    assert (good.folder / "image").read_bytes() == path.read_bytes()


def test_looking_changes_nothing(hosts: Hosts, tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(os.urandom(BLOCK))
    (host,) = hosts.start(1)
    forgotten = host.folder / f".{'a' * 32}.part"
    forgotten.write_bytes(b"x")
    os.utime(forgotten, (0, 0))
    assert lacking([File(path)], [host.hop], hosts.trust.head) == ({host.hop.name: ("image",)}, {})
    assert list(host.folder.iterdir()) == [forgotten]


def test_a_name_that_is_none_costs_that_host_only(hosts: Hosts, tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(b"x")
    (host,) = hosts.start(1)
    good, odd = send([File(path)], [host.hop, Hop("odd", "a..b", 1)], hosts.trust.head)
    assert good.failed == ""
    assert odd.failed.startswith("not reached: ")

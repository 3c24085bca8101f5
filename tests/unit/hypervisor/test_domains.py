"""What the drivers do alike with a domain, by libvirt's test driver."""

from collections.abc import Iterator

import pytest

from vclust_py.errors import VclustError
from vclust_py.hypervisor import Host
from vclust_py.hypervisor.connection import Connection
from vclust_py.hypervisor.domains import Domains

XML = """
<domain type='test'><name>n1</name><uuid>{uuid}</uuid><memory unit='KiB'>524288</memory>
<currentMemory unit='KiB'>262144</currentMemory><vcpu>2</vcpu><os><type>hvm</type></os></domain>
"""
UUID = "11111111-2222-4333-8444-555555555555"


class Pretended(Domains):
    def __init__(self, uri: str) -> None:
        self._host = Host("h1", uri)
        self._connection = Connection(self._host)


@pytest.fixture
def domains(pretended: str) -> Iterator[Pretended]:
    found = Pretended(pretended)
    yield found
    found.close()


def test_what_a_domain_was_started_with(domains: Pretended) -> None:
    assert domains.machine(UUID) is None
    define = XML.format(uuid=UUID)
    domains._connection.call("define", lambda connection: connection.defineXML(define))
    assert domains.machine(UUID) is None  # which does not run
    domains._connection.call("start", lambda connection: connection.lookupByUUIDString(UUID).create())
    assert domains.machine(UUID) == (2, 512 * 2**20)
    assert domains.remove(UUID)
    assert domains.machine(UUID) is None


@pytest.mark.parametrize("word", ["", "many", "9" * 40])
def test_a_host_that_writes_nonsense(domains: Pretended, monkeypatch: pytest.MonkeyPatch, word: str) -> None:
    define = XML.format(uuid=UUID)
    domains._connection.call("start", lambda connection: connection.createXML(define))
    text = f"<domain><vcpu>{word}</vcpu><memory>1</memory></domain>"
    monkeypatch.setattr("libvirt.virDomain.XMLDesc", lambda *_: text)
    with pytest.raises(VclustError, match=f"h1: domain {UUID}: got no numbers of CPUs and memory"):
        domains.machine(UUID)

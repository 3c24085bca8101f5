"""Segments as networks of libvirt's test driver, which runs no hook, and as the hook reads them."""

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address
from typing import Any

import libvirt
import pytest

from vclust_py import network_hook
from vclust_py.errors import VclustError
from vclust_py.hypervisor import Host, Segment, segments
from vclust_py.hypervisor.connection import Connection
from vclust_py.hypervisor.domains import as_text
from vclust_py.hypervisor.segments import segment_xml

HOST = Host("h1")
SEGMENT = Segment(
    "vc0123456789",
    7,
    IPv4Address("10.77.0.11"),
    {
        IPv4Address("10.77.0.12"): ("52:54:0a:00:00:02", "52:54:0a:00:00:03"),
        IPv4Address("10.77.0.1"): ("52:54:0a:00:00:fe",),
    },
)
EARLIER = """<network><name>vc0123456789</name>
<metadata><segment xmlns='https://vclust.invalid/segment' vni='7' local='10.77.0.11' peers='10.77.0.1 10.77.0.12'/>
</metadata><bridge name='vc0123456789' stp='off' delay='0'/><mtu size='1450'/></network>"""
DOMAIN = """<domain type='test'><name>c.n1</name><memory>1024</memory><os><type>hvm</type></os><devices>
<interface type='bridge'><source bridge='vc0123456789'/></interface></devices></domain>"""


@pytest.fixture
def connection(pretended: str) -> Iterator[Connection]:
    connection = Connection(Host("h1", pretended))
    yield connection
    connection.close()


def network(connection: Connection) -> Any:
    return connection.call("network", lambda opened: opened.networkLookupByName(SEGMENT.name))


def test_segment(connection: Connection) -> None:
    segments.ensure(connection, HOST, SEGMENT)
    made = network(connection)
    xml = made.XMLDesc()
    assert not made.isPersistent()
    assert "<ip" not in xml
    uuid = made.UUIDString()
    segments.ensure(connection, HOST, replace(SEGMENT, peers=dict(reversed(SEGMENT.peers.items()))))
    assert network(connection).UUIDString() == uuid
    segments.ensure(connection, HOST, replace(SEGMENT, peers=dict.fromkeys(SEGMENT.peers, ())))
    assert network(connection).UUIDString() != uuid
    segments.remove(connection, SEGMENT.name)
    segments.remove(connection, SEGMENT.name)
    with pytest.raises(VclustError, match=SEGMENT.name):
        network(connection)


def test_a_segment_in_use_is_not_cut(connection: Connection) -> None:
    segments.ensure(connection, HOST, SEGMENT)
    connection.call("start", lambda opened: opened.createXML(DOMAIN))
    segments.ensure(connection, HOST, SEGMENT)
    with pytest.raises(
        VclustError, match=r"segment vc0123456789: its number, address or MTU has changed, and c.n1 would"
    ):
        segments.ensure(connection, HOST, replace(SEGMENT, vni=8))


def test_members_change_while_nodes_run(connection: Connection) -> None:
    """A port group says so to the hook; where none answers, as here, all is left as it was."""
    segments.ensure(connection, HOST, SEGMENT)
    connection.call("start", lambda opened: opened.createXML(DOMAIN))
    before = network(connection).XMLDesc()
    with pytest.raises(
        VclustError, match=r"h1: segment vc0123456789: its new members: the hook said nothing"
    ):
        segments.ensure(connection, HOST, replace(SEGMENT, peers=dict.fromkeys(SEGMENT.peers, ())))
    assert network(connection).XMLDesc() == before


def test_what_an_interrupted_change_left_goes(connection: Connection) -> None:
    segments.ensure(connection, HOST, SEGMENT)
    connection.call("start", lambda opened: opened.createXML(DOMAIN))
    members = " ".join(f"{peer}={','.join(macs)}" for peer, macs in SEGMENT.peers.items())
    for name in ("vclust 3 10.77.0.1=", f"vclust 4 {members}", "another"):
        connection.call("add", lambda _, name=name: segments._update(network(connection), 3, name))
    segments.ensure(connection, HOST, SEGMENT)
    text = network(connection).XMLDesc()
    assert "vclust 4 " in text
    assert "another" in text
    assert "vclust 3 " not in text


def test_a_segment_of_an_earlier_version(connection: Connection) -> None:
    """It stays as it is while nodes are on it, and is made anew otherwise."""
    connection.call("network", lambda opened: opened.networkCreateXML(EARLIER))

    def metadata() -> str:
        return str(network(connection).XMLDesc())

    connection.call("start", lambda opened: opened.createXML(DOMAIN))
    segments.ensure(connection, HOST, SEGMENT)
    assert 'vni="7"' in metadata()
    with pytest.raises(VclustError, match=r"its number, address or MTU has changed, and c.n1 would lose it"):
        segments.ensure(connection, HOST, replace(SEGMENT, peers={IPv4Address("10.77.0.1"): ()}))
    connection.call("end", lambda opened: opened.lookupByName("c.n1").destroy())
    segments.ensure(connection, HOST, SEGMENT)
    assert 'vni="7"' not in metadata()


def test_a_hook_of_another_version() -> None:
    """It gives up, as it finds nothing that it knows; the driver says what to do."""

    class Refusing:
        def networkLookupByName(self, name: str) -> None:
            raise refusal(libvirt.VIR_ERR_NO_NETWORK)

        def networkCreateXML(self, text: str) -> None:
            raise refusal(libvirt.VIR_ERR_HOOK_SCRIPT_FAILED)

    class Direct:
        def call(self, what: str, function: Any) -> Any:
            return function(Refusing())

    with pytest.raises(
        VclustError, match=r"^h1: segment vc0123456789: libvirt: .*\n  hint: .*another version"
    ):
        segments.ensure(Direct(), HOST, SEGMENT)  # type: ignore[arg-type]


def refusal(code: int) -> libvirt.libvirtError:
    error = libvirt.libvirtError("")
    error.err = (code, 0, "Hook script execution failed", 0, "", None, None, 0, 0)
    return error


def test_segment_as_the_hook_reads_it() -> None:
    xml = segment_xml(SEGMENT)
    assert network_hook.segment(f"<hookData>{as_text(xml)}</hookData>") == network_hook.End(
        "vc0123456789",
        7,
        "10.77.0.11",
        {"10.77.0.1": ["52:54:0a:00:00:fe"], "10.77.0.12": ["52:54:0a:00:00:02", "52:54:0a:00:00:03"]},
    )
    bridge, mtu = xml.find("bridge"), xml.find("mtu")
    assert bridge is not None
    assert mtu is not None
    assert (bridge.attrib, mtu.attrib) == (
        {"name": SEGMENT.name, "stp": "off", "delay": "0"},
        {"size": "1450"},
    )

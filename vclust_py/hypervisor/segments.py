"""A cluster's segment on a host that is another machine: a libvirt network, whose tunnel the host's hook makes.

The hook (`vclust_py.network_hook`) is called by libvirt's network driver, which is the same on hosts of every driver.
"""

from typing import Any
from xml.etree import ElementTree

import libvirt

from vclust_py.errors import VclustError
from vclust_py.hypervisor import Host, Segment
from vclust_py.hypervisor.certificates import ROLL_OUT
from vclust_py.hypervisor.connection import Connection
from vclust_py.hypervisor.domains import Element, absent, add, as_text, parsed
from vclust_py.network_hook import MTU, SEGMENT

_PEER = SEGMENT.replace("}segment", "}peer")


def ensure(connection: Connection, host: Host, segment: Segment) -> None:
    """Make the host a member of the segment; no change when it is one already.

    Raises VclustError when its other members have changed while domains are on it, and when the hook refuses it.
    """
    xml = segment_xml(segment)

    def work(connection: Any) -> None:
        found = _network(connection, segment.name)
        if found is not None:
            there = parsed(found.XMLDesc())
            if _same(there, xml):
                return
            if members := _members(connection, segment.name):
                if _earlier(there, segment):
                    return
                raise VclustError(
                    f"{host.name}: segment {segment.name}: its other hosts have changed, and"
                    f" {', '.join(members)} would lose it"
                )
            _stop(found)
        try:
            connection.networkCreateXML(as_text(xml))
        except libvirt.libvirtError as error:
            # Another thread or process may have made it at the same moment.
            found = _network(connection, segment.name)
            if found is not None and _same(parsed(found.XMLDesc()), xml):
                return
            if error.get_error_code() != libvirt.VIR_ERR_HOOK_SCRIPT_FAILED:
                raise
            raise VclustError(
                f"{host.name}: segment {segment.name}: libvirt: {error}",
                f"is the host's hook of another version of vclust?  {ROLL_OUT}",
            ) from error

    connection.call(f"segment {segment.name}", work)


def remove(connection: Connection, name: str) -> None:
    """Take the segment away from the host, if it is there."""
    connection.call(f"remove segment {name}", lambda connection: _stop(_network(connection, name)))


def segment_xml(segment: Segment) -> Element:
    """The segment as a libvirt network without addresses; the host's network hook adds the VXLAN device."""
    xml = ElementTree.Element("network")
    add(xml, "name", segment.name)
    end = add(add(xml, "metadata"), SEGMENT, number=str(segment.vni), address=str(segment.local))
    for peer, macs in sorted(segment.peers.items()):
        add(end, _PEER, address=str(peer), macs=" ".join(macs))
    add(xml, "bridge", name=segment.name, stp="off", delay="0")
    add(xml, "mtu", size=str(MTU))
    return xml


def _same(there: Element, wanted: Element) -> bool:
    return _end(there) == _end(wanted)


def _end(network: Element) -> list[dict[str, str]] | None:
    found = network.find(f"metadata/{SEGMENT}")
    return None if found is None else [found.attrib, *(peer.attrib for peer in found)]


def _earlier(there: Element, segment: Segment) -> bool:
    """Whether it is this segment as earlier versions of vclust made it; nodes on it run on with what it has."""
    peers = " ".join(map(str, sorted(segment.peers)))
    return _end(there) == [{"vni": str(segment.vni), "local": str(segment.local), "peers": peers}]


def _network(connection: Any, name: str) -> Any | None:
    with absent(libvirt.VIR_ERR_NO_NETWORK):
        return connection.networkLookupByName(name)
    return None


def _stop(network: Any | None) -> None:
    if network is not None:
        with absent(libvirt.VIR_ERR_NO_NETWORK, libvirt.VIR_ERR_OPERATION_INVALID):
            network.destroy()


def _members(connection: Any, bridge: str) -> list[str]:
    """Names of the running domains with an interface on `bridge`."""
    found = []
    for domain in connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE):
        sources = parsed(domain.XMLDesc()).iterfind("devices/interface/source")
        if bridge in [source.get("bridge") for source in sources]:
            found.append(domain.name())
    return found

"""A cluster's segment on a host that is another machine: a libvirt network, whose tunnel the host's hook makes.

The hook (`vclust_py.network_hook`) is called by libvirt's network driver, which is the same on hosts of every driver.
A network's first members are in its metadata; those that it gets while it runs are the name of a port group, which
libvirt lets be changed then (networkUpdate), and the hook leaves a file that says what came of it.
"""

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import libvirt

from vclust_py.errors import VclustError
from vclust_py.hypervisor import Host, Segment
from vclust_py.hypervisor.certificates import ROLL_OUT
from vclust_py.hypervisor.connection import Connection
from vclust_py.hypervisor.domains import Element, absent, add, as_text, parsed
from vclust_py.hypervisor.storage import Pool
from vclust_py.network_hook import GROUP, MTU, OUTCOMES, SEGMENT, Failed
from vclust_py.network_hook import segment as end_of
from vclust_py.text import plain

_PEER = SEGMENT.replace("}segment", "}peer")


def ensure(connection: Connection, host: Host, segment: Segment) -> None:
    """Make the host a member of the segment; no change when it is one already.

    Other members come into force while domains run on it.  Raises VclustError when its number, address or MTU have
    changed and domains are on it, and when the hook refuses it.
    """
    xml = segment_xml(segment)
    outcomes = Pool(connection, host, "vclust-host", Path(OUTCOMES))

    def work(connection: Any) -> Any | None:
        found = _network(connection, segment.name)
        if found is not None:
            there = parsed(found.XMLDesc())
            if _same(there, xml):
                return found
            if members := _members(connection, segment.name):
                if _earlier(there, segment):
                    return None
                raise VclustError(
                    f"{host.name}: segment {segment.name}: its number, address or MTU has changed, and"
                    f" {', '.join(members)} would lose it"
                )
            _stop(found)
        try:
            return connection.networkCreateXML(as_text(xml))
        except libvirt.libvirtError as error:
            # Another thread or process may have made it at the same moment.
            found = _network(connection, segment.name)
            if found is not None and _same(parsed(found.XMLDesc()), xml):
                return found
            if error.get_error_code() != libvirt.VIR_ERR_HOOK_SCRIPT_FAILED:
                raise
            raise VclustError(
                f"{host.name}: segment {segment.name}: libvirt: {error}",
                f"is the host's hook of another version of vclust?  {ROLL_OUT}",
            ) from error

    def change(connection: Any) -> None:
        network = work(connection)
        if network is not None:
            _bring_up_to_date(network, segment, host, outcomes)

    connection.call(f"segment {segment.name}", change)


def _bring_up_to_date(network: Any, segment: Segment, host: Host, outcomes: Pool) -> None:
    """Bring the network's members to those of the segment, and take older sets of them away."""
    text = network.XMLDesc()
    wanted = {str(peer): sorted(macs) for peer, macs in segment.peers.items()}
    try:
        end = end_of(f"<hookData>{text}</hookData>")
    except (Failed, ValueError) as error:
        raise VclustError(f"{host.name}: segment {segment.name}: {error}") from error
    generation = 0 if end is None else end.generation
    groups = [
        group.get("name", "")
        for group in parsed(text).iterfind("portgroup")
        if group.get("name", "").startswith(GROUP.split("{")[0])
    ]
    current = GROUP.format(generation)
    if end is None or {peer: sorted(macs) for peer, macs in end.peers.items()} != wanted:
        current = GROUP.format(generation + 1)
        name = current + " ".join(f"{peer}={','.join(macs)}" for peer, macs in sorted(wanted.items()))
        _update(network, libvirt.VIR_NETWORK_UPDATE_COMMAND_ADD_LAST, name)
        said = outcomes.read(f"{segment.name}.peers", 0).decode(errors="replace").strip()
        if said != str(generation + 1):
            _update(network, libvirt.VIR_NETWORK_UPDATE_COMMAND_DELETE, name)  # back to what was
            raise VclustError(
                f"{host.name}: segment {segment.name}: its new members: {plain(said, 1000) or 'the hook said nothing'}",
                f"is the host's hook of another version of vclust?  {ROLL_OUT}",
            )
    for name in groups:
        if not name.startswith(current):
            _update(network, libvirt.VIR_NETWORK_UPDATE_COMMAND_DELETE, name)


def _update(network: Any, command: int, group: str) -> None:
    xml = as_text(ElementTree.Element("portgroup", name=group))
    network.update(
        command, libvirt.VIR_NETWORK_SECTION_PORTGROUP, -1, xml, libvirt.VIR_NETWORK_UPDATE_AFFECT_LIVE
    )


def remove(connection: Connection, name: str) -> None:
    """Take the segment away from the host, if it is there."""
    connection.call(f"remove segment {name}", lambda connection: _stop(_network(connection, name)))


def segment_xml(segment: Segment) -> Element:
    """The segment as a libvirt network without addresses; the host's network hook adds the VXLAN device."""
    xml = ElementTree.Element("network")
    add(xml, "name", segment.name)
    end = add(add(xml, "metadata"), SEGMENT, number=str(segment.vni), address=str(segment.local))
    if segment.mtu != MTU:
        end.set("mtu", str(segment.mtu))
    for peer, macs in sorted(segment.peers.items()):
        add(end, _PEER, address=str(peer), macs=" ".join(macs))
    add(xml, "bridge", name=segment.name, stp="off", delay="0")
    add(xml, "mtu", size=str(segment.mtu))
    return xml


def _same(there: Element, wanted: Element) -> bool:
    return _end(there) == _end(wanted)


def _end(network: Element) -> dict[str, str] | None:
    found = network.find(f"metadata/{SEGMENT}")
    return None if found is None else found.attrib


def _earlier(there: Element, segment: Segment) -> bool:
    """Whether it is this segment as earlier versions of vclust made it; nodes on it run on with what it has."""
    peers = " ".join(map(str, sorted(segment.peers)))
    return _end(there) == {"vni": str(segment.vni), "local": str(segment.local), "peers": peers}


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

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
from vclust_py.hypervisor import ROLL_OUT, Host, Segment
from vclust_py.hypervisor.connection import Connection
from vclust_py.hypervisor.domains import Element, absent, add, as_text, parsed
from vclust_py.hypervisor.storage import Pool
from vclust_py.network_hook import GROUP, MTU, OUTCOMES, SEGMENT, Failed
from vclust_py.network_hook import segment as end_of
from vclust_py.text import plain

_PEER = SEGMENT.replace("}segment", "}peer")


def ensure(connection: Connection, host: Host, segment: Segment) -> None:
    """Make the host a member of the segment.  Where it is one already the hook sets its rules and entries again:
    somebody may have taken them away.

    Other members come into force while domains run on it.  Raises VclustError when its number, address or MTU have
    changed and domains are on it, and when the hook refuses it.
    """
    xml = segment_xml(segment)
    again = False

    def work(connection: Any) -> str:
        """The name of the port group with its members, of which the hook is to say how it went; else nothing."""
        nonlocal again
        found = _network(connection, segment.name)
        if found is not None:
            there = parsed(found.XMLDesc())
            if again := _same(there, xml) and _in_force(there)[1] == _in_force(xml)[1]:
                return _change(found, there, segment)
            if domains := _members(connection, segment.name):
                if _same(there, xml):
                    return _change(found, there, segment)
                if _earlier(there, segment):
                    return ""
                raise VclustError(
                    f"{host.name}: segment {segment.name}: its number, address or MTU has changed, and"
                    f" {', '.join(domains)} would lose it"
                )
            _stop(found)
        try:
            connection.networkCreateXML(as_text(xml))
            return ""
        except libvirt.libvirtError as error:
            # Another thread or process may have made it at the same moment.
            found = _network(connection, segment.name)
            if found is not None and _same(parsed(found.XMLDesc()), xml):
                return ""
            if error.get_error_code() != libvirt.VIR_ERR_HOOK_SCRIPT_FAILED:
                raise
            raise VclustError(
                f"{host.name}: segment {segment.name}: libvirt: {error}",
                f"is the host's hook of another version of vclust?  {ROLL_OUT}",
            ) from error

    what = f"segment {segment.name}"
    group = connection.call(what, work)
    if not group:
        return
    said = Pool(connection, host, "vclust-host", Path(OUTCOMES)).read(f"{segment.name}.peers", 0)
    done = said.decode(errors="replace").strip() == group.split()[1]

    def finish(connection: Any) -> None:
        network = connection.networkLookupByName(segment.name)
        if not done:
            _update(network, libvirt.VIR_NETWORK_UPDATE_COMMAND_DELETE, group)
        if done or again:
            _forget_earlier(network, parsed(network.XMLDesc()))

    connection.call(what, finish)
    # A hook that says nothing is of an earlier version, or libvirt's test driver's: the members are what they were.
    if not done and (said or not again):
        words = plain(said.decode(errors="replace").strip(), 1000) or "the hook said nothing"
        raise VclustError(
            f"{host.name}: {what}: its new members: {words}",
            f"is the host's hook of another version of vclust?  {ROLL_OUT}",
        )


def _in_force(network: Element) -> tuple[int, dict[str, list[str]]]:
    """The number of the network's newest members, and who they are, sorted; raises VclustError."""
    try:
        end = end_of(f"<hookData>{as_text(network)}</hookData>")
    except (Failed, ValueError) as error:
        raise VclustError(f"segment {network.findtext('name')}: {error}") from error
    return (0, {}) if end is None else (end.generation, {peer: sorted(end.peers[peer]) for peer in end.peers})


def _change(network: Any, there: Element, segment: Segment) -> str:
    """Give a network that is in use the members of the segment; the name of the port group that says so."""
    members = [f"{peer}={','.join(macs)}" for peer, macs in sorted(segment.peers.items())]
    name = GROUP.format(_in_force(there)[0] + 1) + " ".join(members)
    _update(network, libvirt.VIR_NETWORK_UPDATE_COMMAND_ADD_LAST, name)
    return name


def _forget_earlier(network: Any, there: Element) -> None:
    """Take all members but the newest away."""
    newest = GROUP.format(_in_force(there)[0])
    for name in [group.get("name", "") for group in there.iterfind("portgroup")]:
        if name.startswith(GROUP.split("{")[0]) and not name.startswith(newest):
            _update(network, libvirt.VIR_NETWORK_UPDATE_COMMAND_DELETE, name)


def _update(network: Any, command: int, group: str) -> None:
    xml = as_text(ElementTree.Element("portgroup", name=group))
    section, flags = libvirt.VIR_NETWORK_SECTION_PORTGROUP, libvirt.VIR_NETWORK_UPDATE_AFFECT_LIVE
    # Versions of libvirt differ in whether they tell; either way the file says what came of it.
    with absent(libvirt.VIR_ERR_HOOK_SCRIPT_FAILED):
        network.update(command, section, -1, xml, flags)


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

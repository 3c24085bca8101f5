"""The hosts' network: a bridge for each rack, a shaped uplink from each to the bridge in the middle, which this machine
is at too.  All bridges are in a namespace of their own; this machine's network has one more interface and no bridge.
"""

import itertools
import json
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Network
from pathlib import Path

from shared import network
from shared.features import BRIDGE, Feature, missing
from shared.places import MARK

from vclust_py.errors import VclustError
from vclust_py.run import run

_SHAPED = "ip link add probe type bridge && tc qdisc add dev probe root"
SHAPING = Feature("tc's tbf", f"{_SHAPED} tbf rate 1mbit burst 32kb limit 64kb", "uplinks have no rate")
FEATURES = (
    BRIDGE,
    Feature("veth", "ip link add probe type veth"),
    SHAPING,
    Feature("tc's netem", f"{_SHAPED} netem delay 1ms", "links have a rate, but neither delay nor loss"),
    Feature("vxlan", "ip link add probe type vxlan id 1 dstport 4789", "no cluster spans two hosts"),
)


class Fabric:
    """`name` begins the names of all namespaces and of this machine's interface: at most nine letters."""

    def __init__(self, name: str, addresses: IPv4Network) -> None:
        self._name, self._addresses = name, addresses
        self.namespace = f"{name}-fabric"
        self._interface = f"{name}0"

    def exists(self) -> bool:
        return self.namespace in network.namespaces()

    def make(self, racks: int, rate: str) -> None:
        """Raises VclustError when this machine has an interface of that name that is not ours, or other use for the
        addresses.
        """
        self._remove_interface()
        self._refuse_addresses_in_use()
        network.ip([f"netns add {self.namespace}"])
        bridge = "type bridge mcast_snooping 0 forward_delay 0"
        lines = ["link set lo up", f"link add core {bridge}", "link set core up"]
        for rack in range(1, racks + 1):
            lines += [
                f"link add rack{rack} {bridge}",
                f"link set rack{rack} up",
                f"link add up{rack} type veth peer name core{rack}",
                f"link set up{rack} master rack{rack} up",
                f"link set core{rack} master core up",
            ]
        network.ip(lines, self.namespace)
        if not missing((SHAPING,)):
            for rack in range(1, racks + 1):
                self.shape(rack, rate)
        address = f"{self._addresses[1]}/{self.prefix}"
        network.ip(
            [
                f"link add {self._interface} type veth peer name machine netns {self.namespace}",
                f"link set {self._interface} alias {MARK}",
                f"link set {self._interface} up",
                f"address add {address} broadcast + dev {self._interface}",
            ]
        )
        network.ip(["link set machine master core up"], self.namespace)

    def shape(self, rack: int, rate: str) -> None:
        """The rack's uplink, both ways: a rate as tc writes it, or `none`."""
        for device in (f"up{rack}", f"core{rack}"):
            queue = ["tc", "-n", self.namespace, "qdisc"]
            if rate != "none":
                run([*queue, "replace", "dev", device, "root", "tbf", "rate", rate, *network.QUEUE])
            elif "tbf" in run([*queue, "show", "dev", device, "root"]):
                run([*queue, "delete", "dev", device, "root"])

    def plug(self, hosts: Mapping[int, int]) -> None:
        """A namespace for each of these hosts, made anew, with a cable to its rack: host to rack.

        The address that goes with it is the host's to set.
        """
        self.unplug(hosts)
        spaces = {number: self.space(number) for number in hosts}
        cable = f"netns {self.namespace} type veth peer name eth0 address"
        network.ip(f"netns add {space}" for space in spaces.values())
        # As a network card has it, the same after every start: others remember it.
        addresses = {number: f"52:54:00:80:{number >> 8:02x}:{number & 255:02x}" for number in hosts}
        network.ip(
            f"link add h{number} {cable} {addresses[number]} netns {space}"
            for number, space in spaces.items()
        )
        ports = (f"link set h{number} master rack{rack} up" for number, rack in hosts.items())
        network.ip(ports, self.namespace)

    def unplug(self, hosts: Iterable[int]) -> None:
        """Remove their namespaces with all interfaces in them."""
        there = network.namespaces()
        network.ip(f"netns delete {self.space(number)}" for number in hosts if self.space(number) in there)

    def link(self, number: int, up: bool) -> None:
        """Pull the host's cable out of the rack's switch, or put it back."""
        run(["ip", "-n", self.namespace, "link", "set", f"h{number}", "up" if up else "down"])

    def address(self, number: int) -> str:
        return str(self._addresses[10 + number])

    @property
    def prefix(self) -> int:
        return self._addresses.prefixlen

    def remove(self) -> None:
        """With whatever namespaces of hosts are left."""
        ours = [name for name in network.namespaces() if name.startswith(f"{self._name}-")]
        network.ip(f"netns delete {name}" for name in ours)
        self._remove_interface()

    def _refuse_addresses_in_use(self) -> None:
        tables = ("main", "local")
        routes = [json.loads(run(["ip", "-4", "-json", "route", "show", "table", table])) for table in tables]
        for route in itertools.chain(*routes):
            # All that is sent anywhere is no use for these.
            if route["dst"] != "default" and IPv4Network(route["dst"]).overlaps(self._addresses):
                raise VclustError(
                    f"{self._addresses}: this machine reaches {route['dst']} by {route.get('dev', 'no interface')}",
                    "the hosts of this testbed cannot be told from others",
                )

    def _remove_interface(self) -> None:
        path = Path("/sys/class/net", self._interface)
        if path.exists():
            if (path / "ifalias").read_text(encoding="utf-8").strip() != MARK:
                raise VclustError(f"{self._interface}: an interface of that name is not the testbed's")
            run(["ip", "link", "delete", self._interface])

    def space(self, number: int) -> str:
        return f"{self._name}-{number}"

    def uplinks(self) -> dict[str, str]:
        """Rack to the rate of its uplink."""
        queues = json.loads(run(["tc", "-n", self.namespace, "-json", "qdisc", "show"]))
        return {
            queue["dev"].removeprefix("up"): f"{queue['options']['rate'] * 8 // 1_000_000} Mbit/s"
            for queue in queues
            if queue["kind"] == "tbf" and queue["dev"].startswith("up")
        }

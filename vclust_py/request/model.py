"""What a request is: every key, defined once, beside the field that holds its value.

The parsers, the hints for unknown keys, the canonical and the stored form, the JSON schema, Ansible's argument
specification and the table of docs/request.md all come from the `Key` of each field; a new key is a new field here.

These are plain dataclasses and not pydantic's models: pydantic knows neither the lines of a file nor an INI form, so
each of our messages would need a type and a translator of its own.  And it is one more compiled package to follow.
"""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from ipaddress import IPv4Address, IPv4Network
from typing import Annotated, Any

from vclust_py.request import accounts, values, volumes
from vclust_py.request.accounts import SSHKey, User
from vclust_py.request.keys import Key, keys_of
from vclust_py.request.volumes import Volume

_COUNT = values.whole(1, values.MAX_NODES)
SITE_HOMES = "home-site"
"""The meta package that `Home: site` stands for."""


@dataclass(frozen=True)
class Hardware:
    """Of each node; `ram` and `disk` in bytes, `cpu_speed` (the least a host may have) in Hz."""

    number_of_nodes: Annotated[
        int,
        Key("NumberOfNodes", _COUNT, f"how many nodes, 1 to {values.MAX_NODES}", default=1, required=True),
    ]
    architecture: Annotated[
        str,
        Key(
            "CPUArch",
            values.architecture,
            "`x86` or `arm64`; a host must have it",
            default="amd64",
            yaml="cpu_arch",
        ),
    ]
    cpu_speed: Annotated[
        int | None,
        Key("CPUSpeed", values.speed, "the least clock speed of a host, such as `3GHz`", unset="any"),
    ]
    cpus: Annotated[int, Key("CPUs", values.whole(1, values.MAX_CPUS), "virtual CPUs of a node", default=1)]
    ram: Annotated[
        int,
        Key(
            "RAM",
            values.size(values.MIN_RAM, values.MAX_RAM, "2GB or 512MB"),
            f"memory of a node, such as `2GB`; {values.size_text(values.MIN_RAM)} at least",
            default=512 * 10**6,
        ),
    ]
    disk: Annotated[
        int,
        Key(
            "Disk",
            values.size(values.MIN_DISK, values.MAX_DISK, "8GB"),
            f"disk of a node, such as `8GB`; {values.size_text(values.MIN_DISK)} at least, and more where its packages "
            "need it (`vclust plan` shows it); all of it is reserved",
            default=4 * 10**9,
        ),
    ]
    spread: Annotated[
        str,
        Key(
            "Spread",
            values.choice("any", "hosts", "racks", "pack"),
            "`any`: hosts with the images, in few racks, the least loaded first; `hosts`: at most one node a host; "
            "`racks`: as evenly over the racks as they have space; `pack`: few hosts",
            default="any",
        ),
    ]
    min_nodes: Annotated[
        int,
        Key(
            "MinNodes",
            _COUNT,
            "with this many good nodes the cluster counts as ready, the failed ones are named",
            derived=lambda before: before["number_of_nodes"],
            unset="all",
        ),
    ]
    volume: Annotated[
        Volume | None,
        Key(
            "Volume",
            volumes.volume,
            "a data disk of the cluster, `NAME SIZE`, at `/srv/NAME` of its first node; `data 20GB keep`: it outlives "
            "the cluster, and comes back with the owner's next one that names it",
            unset="none",
        ),
    ]


@dataclass(frozen=True)
class Software:
    """`hostname` is a pattern with one %d; `lease` in seconds; None stands for the site's default."""

    name: Annotated[
        str,
        Key(
            "Name",
            values.cluster_name,
            "name of the cluster",
            required=True,
            unset="from the file's name",
        ),
    ]
    users: Annotated[
        tuple[User, ...],
        Key(
            "User",
            accounts.user,
            "`name:hash`, a hash of `openssl passwd -6`, or `*` for login by key only",
            unset="root only",
            unique="name",
        ),
    ]
    ssh_keys: Annotated[
        tuple[SSHKey, ...],
        Key(
            "SSHKey",
            accounts.ssh_key,
            "a user's public key, `name:ssh-ed25519 AAAA…`",
            unset="none",
        ),
    ]
    hostname: Annotated[
        str,
        Key(
            "Hostname",
            values.host_name,
            "pattern of the nodes' names: one `%d` or `%02d`, counted from 1",
            derived=lambda before: f"{before['name']}-%02d",
            unset="`NAME-%02d`",
        ),
    ]
    network: Annotated[
        IPv4Network,
        Key(
            "Network",
            values.network,
            "nodes get its first addresses, the cluster's router the last; clusters may share a range",
            default=IPv4Network("192.168.77.0/24"),
        ),
    ]
    packages: Annotated[
        tuple[str, ...],
        Key(
            "Packages",
            values.package,
            "names of Debian packages, without version",
            unset="none",
            words=True,
        ),
    ]
    meta_packages: Annotated[
        tuple[str, ...],
        Key(
            "MetaPackages",
            values.meta_package,
            "named bundles of packages and configuration",
            unset="none",
            words=True,
        ),
    ]
    home: Annotated[
        str | None,
        Key(
            "Home",
            values.choice("local", "shared", "site"),
            "where users' homes are: each node has its own (`local`), or all have those on the first node's disk "
            "(`shared`, the same as the meta package `home`), or those that the site keeps for the owner's clusters "
            "(`site`, the same as `home-site`)",
            unset="`local`",
        ),
    ]
    suite: Annotated[
        str | None,
        Key("Suite", values.suite, "Debian suite, such as `bookworm` or `trixie`", unset="the site's"),
    ]
    kernel: Annotated[
        str | None,
        Key("Kernel", values.kernel, "package of the nodes' kernel", unset="`linux-image-cloud-amd64`"),
    ]
    lease: Annotated[
        int | None,
        Key(
            "Lease",
            values.lease,
            "how long the cluster lives from when it is ready, such as `8h`; `vclust renew` prolongs it",
            unset="none",
        ),
    ]
    idle: Annotated[
        int | None,
        Key(
            "Idle",
            values.lease,
            "a cluster that nobody has used for so long ends as its lease does, such as `2h`",
            unset="never",
        ),
    ]
    heal: Annotated[
        str | None,
        Key(
            "Heal",
            values.choice("restart", "replace", "off"),
            "what the site does by itself: `restart` a node that has ended, on its disk; `replace` also one whose host "
            "is dead, on a new disk elsewhere; or nothing (`off`)",
            unset="`restart`",
        ),
    ]
    site: Annotated[
        str,
        Key(
            "Site",
            values.site,
            "which site of the inventory; `any`: the one that can be ready first",
            default="any",
        ),
    ]
    start: Annotated[
        str,
        Key(
            "Start",
            values.choice("auto", "boot", "resume", "fork"),
            "`boot`: every node boots; `fork`: nodes start as clones of a frozen one, `resume`: from a suspended"
            " installer, where their host can; `auto`: the sooner way",
            default="auto",
            later=True,
        ),
    ]
    install: Annotated[
        str,
        Key(
            "Install",
            values.choice("auto", "each", "once"),
            "`once`: one disk layer for all nodes; `each`: every node installs; `auto`: the faster one, by estimate",
            default="auto",
        ),
    ]


@dataclass(frozen=True)
class Request:
    hardware: Hardware
    software: Software

    @property
    def name(self) -> str:
        return self.software.name

    @cached_property
    def hostnames(self) -> tuple[str, ...]:
        """Of the nodes, counted from 1."""
        return tuple(
            self.software.hostname % number for number in range(1, self.hardware.number_of_nodes + 1)
        )

    @cached_property
    def addresses(self) -> tuple[IPv4Address, ...]:
        """Of the nodes: the network's first ones.

        One at least between them and the router is spare, for a node that replaces a failed one.
        """
        first = self.software.network.network_address + 1
        return tuple(first + index for index in range(self.hardware.number_of_nodes))

    @property
    def router(self) -> IPv4Address:
        """The cluster's router: the network's last usable address."""
        return self.software.network.broadcast_address - 1

    @property
    def has_site_homes(self) -> bool:
        """Whether users' homes are those that the site keeps (`vclust_py.homes`)."""
        return self.software.home == "site" or SITE_HOMES in self.software.meta_packages

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of the canonical mapping: equal for requests that mean the same."""
        text = json.dumps(to_mapping(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode("ascii")).hexdigest()


SECTIONS = {"hardware": keys_of(Hardware, "hardware"), "software": keys_of(Software, "software")}
"""The keys of each section, in their order."""
KEYS = tuple(key for keys in SECTIONS.values() for key in keys)
BY_YAML = {key.yaml: key for key in KEYS}


def to_mapping(request: Request) -> dict[str, Any]:
    """The canonical YAML form: every key that has a value, also where it is the default (but see `Key.later`)."""
    mapping: dict[str, Any] = {}
    for section, keys in SECTIONS.items():
        part = getattr(request, section)
        values = {key: getattr(part, key.field) for key in keys}
        forms = {
            key.yaml: key.write(value)
            for key, value in values.items()
            if not (key.later and value == key.absent({}))
        }
        mapping[section] = {name: form for name, form in forms.items() if form is not None}
    return mapping

"""The site manager's places and settings.  Every path under the site's root has its one name here."""

import contextlib
import fcntl
import math
import os
import platform
import re
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from ipaddress import IPv4Network, ip_address
from pathlib import Path
from typing import IO, Any

from vclust_py.errors import BusyError, VclustError
from vclust_py.quotas import ROOT, UNLIMITED, Project, Quota, projects_from, projects_to, users_from
from vclust_py.request import values as requested
from vclust_py.request.values import Wrong

_CHECKOUT = Path(__file__).resolve().parent.parent.parent
PROJECT = _CHECKOUT if (_CHECKOUT / "playbooks").is_dir() else Path(sys.prefix) / "share/vclust"
"""What Ansible reads, playbooks and all: the checkout, or where pip has put it (setup.py)."""

_LOCK_POLL = 0.05  # seconds between two tries for a lock


_PARSED: Mapping[str, requested.Kind[Any]] = {
    "cache_policy": requested.choice("nested", "paper", "greedy", "common", "none"),
    "cache_space": requested.size(0, 10**15, "5GB"),
    "cache_every": requested.whole(0, 10**9),
    "cache_state": requested.choice("unpacked", "configured"),
    "layer_space": requested.size(0, 10**15, "5GB"),
    "templates": requested.choice("use", "refuse"),
    "template_space": requested.size(0, 10**15, "5GB"),
    "egress": requested.choice("proxy", "none", "nat"),
    "lease_grace": requested.lease,
    "fence_after": requested.lease,
    "base_renewal": requested.or_zero(requested.lease),
    "package_space": requested.size(0, 10**15, "20GB"),
    "index_space": requested.size(0, 10**15, "2GB"),
    "snapshots": requested.whole(0, 100),
}
"""Settings that are checked as those of a request are."""


def _codename() -> str:
    """The machine's own Debian suite: VERSION_CODENAME of os-release(5)."""
    return platform.freedesktop_os_release().get("VERSION_CODENAME", "")


def _times(place: str, value: object) -> tuple[int, ...]:
    """A list of times such as 1h, in seconds, the longest first.  Raises VclustError naming `place`."""
    if not isinstance(value, list):
        raise VclustError(f"{place}: got {requested.shown(str(value))}, expected a list such as [1h, 10m]")
    try:
        return tuple(sorted({requested.lease(str(one)) for one in value}, reverse=True))
    except Wrong as wrong:
        shown = requested.shown(str(value))
        raise VclustError(f"{place}: got {shown}, expected a list, each {wrong.expected}") from None


@dataclass(frozen=True)
class Gateway:
    """The port by which users of clusters come in from other machines (`vclust_py.gateway`)."""

    port: int
    listen: tuple[str, ...] = ()
    """Addresses of the site manager; empty: all of them."""
    host: str = ""
    """The site manager's name for users; empty: its own."""

    @classmethod
    def from_mapping(cls, value: Any) -> "Gateway":
        """Raises VclustError."""
        where = "vclust_site: gateway"
        if not isinstance(value, Mapping) or not {"port"} <= set(value) <= {"port", "listen", "host"}:
            raise VclustError(f"{where}: expected port, and listen and host where wanted, as {{port: 2222}}")
        try:
            port = requested.whole(1, 65535).parse(str(value["port"]))
        except Wrong as wrong:
            raise VclustError(
                f"{where}: port: got {requested.shown(str(value['port']))}, expected {wrong.expected}"
            ) from None
        listen = value.get("listen") or ()
        words = [listen] if isinstance(listen, str) else list(listen)
        try:
            addresses = tuple(str(ip_address(word)) for word in words)
        except ValueError as error:
            raise VclustError(f"{where}: listen: {error}, expected addresses of the site manager") from None
        host = str(value.get("host") or "")
        if host and not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.:-]{0,251}[A-Za-z0-9])?", host):
            raise VclustError(f"{where}: host: got {requested.shown(host)}, expected a name or an address")
        return cls(port, addresses, host)

    def to_mapping(self) -> dict[str, Any]:
        return {"port": self.port, "listen": list(self.listen), "host": self.host}


@dataclass(frozen=True)
class HomesSetting:
    """Where the site keeps homes that outlive clusters (`vclust_py.homes`)."""

    path: Path
    """A folder of the site manager, for this site alone."""
    size: int = 20 * 10**9
    """Bytes that are reserved for the homes of each owner."""

    @classmethod
    def from_mapping(cls, value: Any) -> "HomesSetting":
        """Raises VclustError."""
        where = "vclust_site: homes"
        if not isinstance(value, Mapping) or not {"path"} <= set(value) <= {"path", "size"}:
            raise VclustError(
                f"{where}: expected path, and size where wanted, as {{path: /srv/homes, size: 20GB}}"
            )
        path = Path(str(value["path"]))
        if not path.is_absolute() or ".." in path.parts:
            raise VclustError(f"{where}: path: got {requested.shown(str(path))}, expected an absolute path")
        try:
            size = _HOMES_SIZE(str(value["size"])) if "size" in value else cls.size
        except Wrong as wrong:
            shown = requested.shown(str(value["size"]))
            raise VclustError(f"{where}: size: got {shown}, expected {wrong.expected}") from None
        return cls(path, size)

    def to_mapping(self) -> dict[str, Any]:
        return {"path": str(self.path), "size": f"{self.size}B"}


_HOMES_SIZE = requested.size(64 * 10**6, 10**15, "20GB")


@dataclass(frozen=True)
class Site:
    """Settings of one site, as given by the inventory variable `vclust_site`; sizes in bytes, times in seconds."""

    root: Path = Path("/var/lib/vclust")
    suite: str = ""
    """Suite of requests that name none; default: the site manager's own."""
    sources: str = ""
    """An apt sources file (sources.list(5)) to take packages from; default: the machine's own apt sources."""
    apt_proxy: str = ""
    """HTTP proxy for apt, as in apt.conf(5) Acquire::http::Proxy."""
    base_packages: tuple[str, ...] = ()
    """Debian packages that each node has without being asked for, such as an editor and rsync."""
    index_max_age: int = 6 * 3600
    """The package index is fetched again when older than this."""
    base_renewal: int = 86400
    """How often to look for security updates of base images, which are made anew then; 0: never."""
    package_space: int = 20 * 10**9
    """Bytes that .debs which no cluster needs may take in the package store, both copies."""
    index_space: int = 2 * 10**9
    """Bytes that package indices may take which no cluster needs."""
    cache_policy: str = "nested"
    """Which VD caches to keep: a policy of `vclust_py.cache.policies`."""
    cache_space: int = 5 * 10**9
    """Bytes that the chosen VD caches may take."""
    cache_every: int = 50
    """Requests from one choice to the next, made in the background; 0: only when asked for."""
    cache_state: str = "unpacked"
    """`unpacked`, as in the paper, or `configured`."""
    layer_space: int = 5 * 10**9
    """Bytes that images no cluster stands on may take beside the chosen caches: layers and bundles of past requests."""
    templates: str = "use"
    """`use`: nodes may start as clones of a frozen one; `refuse`: every node boots."""
    template_space: int = 5 * 10**9
    """Bytes that templates no cluster stands on may take, their memory included."""
    metapackages: tuple[Path, ...] = ()
    """Directories with the site's own meta packages, looked at before the ones that come with vclust."""
    cpu_overcommit: int = 4
    """Virtual CPUs a host may run for each of its own."""
    kernel_options: str = ""
    """More words for the command line of the nodes' kernel, such as mitigations=off."""
    egress: str = "proxy"
    """The way out of clusters: `proxy`, packages of the site's archives by its caching proxy; `nat`, the internet
    too; or `none`."""
    egress_blocked: tuple[IPv4Network, ...] = ()
    """Networks that nodes do not reach by `nat`, beside private ones and those of the site's machines."""
    gateway: Gateway | None = None
    """The way in from other machines; None: there is none."""
    homes: HomesSetting | None = None
    """Homes that outlive clusters (`Home: site`); None: there are none."""
    ready_timeout: int = 900
    """How long a node may take from its start to its report."""
    lease_grace: int = 86400
    """From the end of a lease, when nodes are shut down, to the removal of their disks."""
    lease_warnings: tuple[int, ...] = (3600, 600)
    """How long before the end of a lease users are warned."""
    fence: Path | None = None
    """A program that switches a host off, whose name is its argument: 0 when the host is surely off."""
    fence_after: int = 300
    """How long a host does not answer before it is switched off, for clusters with `Heal: replace`."""
    hook: Path | None = None
    """A program of the site's own that is told, by JSON on standard input, what happens to clusters by itself."""
    snapshots: int = 4
    """Snapshots that a cluster may have."""
    administrators: tuple[str, ...] = ()
    """Users who may do with each cluster what its owner may, and act for others; root without sudo always may."""
    projects: tuple[Project, ...] = ()
    """Groups of users, by their names in `vclust_site`; a user is in one at most."""
    user_quota: Quota = UNLIMITED
    """What each user may have who is no administrator."""

    @classmethod
    def from_mapping(cls, settings: Mapping[str, Any]) -> "Site":
        """Raises VclustError on an unknown setting or a relative root."""
        known = {field.name for field in fields(cls)}
        for name in settings:
            if name not in known:
                raise VclustError(
                    f"vclust_site: {name}: unknown setting, expected one of {', '.join(sorted(known))}"
                )
        values = {name: value for name, value in settings.items() if value is not None}
        if "root" in values:
            values["root"] = Path(values["root"])
            if not values["root"].is_absolute():
                raise VclustError(f"vclust_site: root: got '{values['root']}', expected an absolute path")
        for name, parse in _PARSED.items():
            if name in values:
                try:
                    values[name] = parse(str(values[name]))
                except Wrong as wrong:
                    shown = requested.shown(str(values[name]))
                    raise VclustError(
                        f"vclust_site: {name}: got {shown}, expected {wrong.expected}"
                    ) from None
        if "egress_blocked" in values:
            try:
                values["egress_blocked"] = tuple(map(IPv4Network, values["egress_blocked"]))
            except ValueError as error:
                raise VclustError(
                    f"vclust_site: egress_blocked: {error}, expected a list of networks such as 192.0.2.0/24"
                ) from None
        if "gateway" in values:
            values["gateway"] = Gateway.from_mapping(values["gateway"])
        if "homes" in values:
            values["homes"] = HomesSetting.from_mapping(values["homes"])
        if "base_packages" in values:
            values["base_packages"] = _packages(values["base_packages"])
        if "lease_warnings" in values:
            values["lease_warnings"] = _times("vclust_site: lease_warnings", values["lease_warnings"])
        for name in ("hook", "fence"):
            if name in values:
                values[name] = Path(values[name])
                if not values[name].is_absolute():
                    raise VclustError(f"vclust_site: {name}: got '{values[name]}', expected an absolute path")
        if "administrators" in values:
            values["administrators"] = users_from("vclust_site: administrators", values["administrators"])
        if "projects" in values:
            values["projects"] = projects_from("vclust_site: projects", values["projects"])
        if "user_quota" in values:
            values["user_quota"] = Quota.from_mapping("vclust_site: user_quota", values["user_quota"])
        if "metapackages" in values:
            values["metapackages"] = tuple(Path(path) for path in values["metapackages"])
        return cls(**values)

    def to_mapping(self) -> dict[str, Any]:
        """The reverse of `from_mapping`, plain data."""
        mapping: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        mapping["root"], mapping["metapackages"] = str(self.root), [str(path) for path in self.metapackages]
        mapping["egress_blocked"] = [str(network) for network in self.egress_blocked]
        for name in ("cache_space", "layer_space", "template_space", "package_space", "index_space"):
            mapping[name] = f"{mapping[name]}B"
        mapping["gateway"] = self.gateway.to_mapping() if self.gateway else None
        mapping["homes"] = self.homes.to_mapping() if self.homes else None
        mapping["base_packages"] = list(self.base_packages)
        mapping["lease_grace"] = requested.lease.write(self.lease_grace)
        mapping["lease_warnings"] = [requested.lease.write(one) for one in self.lease_warnings]
        for name in ("hook", "fence"):
            mapping[name] = None if mapping[name] is None else str(mapping[name])
        mapping["base_renewal"] = requested.or_zero(requested.lease).write(self.base_renewal)
        mapping["fence_after"] = requested.lease.write(self.fence_after)
        mapping["administrators"] = list(self.administrators)
        mapping["projects"], mapping["user_quota"] = projects_to(self.projects), self.user_quota.to_mapping()
        return mapping

    def project(self, name: str) -> Project | None:
        """The project of that name."""
        return next((one for one in self.projects if one.name == name), None)

    def project_of(self, user: str) -> str:
        """The name of the project that the user is in; empty: none."""
        return next((one.name for one in self.projects if user in one.users), "")

    def has_quota(self, owner: str) -> bool:
        """Whether quotas hold for the clusters of that owner."""
        return owner != ROOT and owner not in self.administrators

    @property
    def default_suite(self) -> str:
        return self.suite or _codename()

    @property
    def database(self) -> Path:
        return self.root / "state.db"

    @property
    def images(self) -> Path:
        """Images and their manifests (`vclust_py.image`)."""
        return self.root / "images"

    @property
    def packages(self) -> Path:
        """The package store."""
        return self.root / "packages"

    @property
    def apt(self) -> Path:
        """Private apt roots, one for each suite and architecture."""
        return self.root / "apt"

    @property
    def locks(self) -> Path:
        """Package closures by digest (`vclust_py.resolve.Lock`), JSON."""
        return self.root / "locks"

    @property
    def clusters(self) -> Path:
        """A folder for each cluster: overlays, seeds, console logs, keys."""
        return self.root / "clusters"

    @property
    def gateway_folder(self) -> Path:
        """Host key, settings and admitted keys of the gateway (`vclust_py.gateway`)."""
        return self.root / "gateway"

    @property
    def pki(self) -> Path:
        """Keys and certificates of the site (`vclust_py.pki`); libvirt's `pkipath`."""
        return self.root / "pki"

    def make_directories(self) -> None:
        """The site's folders; others than root may only walk to images and disks.

        Raises VclustError when they cannot be made.
        """
        # Hypervisor processes run as a user of their own and must be able to walk to the images.
        try:
            if not self.root.exists():
                self.root.mkdir(parents=True, exist_ok=True)
                self.root.chmod(0o711)  # whatever the umask
            for path, mode in (
                (self.images, 0o711),
                (self.clusters, 0o711),
                (self.packages, 0o700),
                (self.apt, 0o700),
                (self.locks, 0o700),
                (self._held, 0o700),
            ):
                path.mkdir(mode=mode, exist_ok=True)
                os.chmod(path, mode)
        except OSError as error:
            raise VclustError(
                f"{error.filename}: got {error.strerror}, expected a folder that can be written",
                f"the site's root is {self.root}: free some space there, or set vclust_site.root to another",
            ) from error

    @property
    def _held(self) -> Path:
        return self.root / "held"

    @contextlib.contextmanager
    def file_lock(self, what: str, *, timeout: float = math.inf) -> Iterator[None]:
        """Hold the site-wide file lock `what`, a name of ours and never a user's; the kernel frees it on death.

        Raises BusyError when somebody else still holds it after `timeout` seconds.
        """
        self.make_directories()
        path, deadline = self._held / what, time.monotonic() + timeout
        while not (file := _locked(path)):
            if time.monotonic() > deadline:
                raise BusyError(
                    f"{what}: another vclust process is at work on it", "wait for it to end, or end it"
                )
            time.sleep(_LOCK_POLL)
        with file:
            yield

    def remove_file_lock(self, what: str) -> None:
        """Take the file lock `what`, held by the caller, away for good: there is nothing left that it guards."""
        (self._held / what).unlink(missing_ok=True)


def _packages(value: Any) -> tuple[str, ...]:
    """Names of Debian packages: a list, or words with blanks between them, as in a request."""
    names = value.split() if isinstance(value, str) else value
    if not isinstance(names, list | tuple):
        raise VclustError(
            f"vclust_site: base_packages: got {requested.shown(str(value))}, expected a list of packages"
        )
    try:
        return tuple(dict.fromkeys(requested.package.parse(str(name)) for name in names))
    except Wrong as wrong:
        raise VclustError(f"vclust_site: base_packages: expected {wrong.expected}") from None


def _locked(path: Path) -> IO[str] | None:
    """The lock file `path`, open and locked; None while somebody else has it."""
    file = open(path, "w", encoding="ascii")  # noqa: SIM115 - the caller closes it, which frees the lock
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
            return file
    except (BlockingIOError, FileNotFoundError):
        pass
    # Somebody has it, or it was dropped between the opening and the locking.
    file.close()
    return None

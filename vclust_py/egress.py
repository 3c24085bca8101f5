"""The way out of a cluster, as the site's setting `egress` has it: none, or packages by the site's caching proxy; with
`nat` also the internet (`vclust_py.nat`).

The proxy is apt-cacher-ng, run by the site for itself.  Nodes reach it through one listening socket in their router
namespace and `vclust_py.egress_relay`, which lets them fetch files of the site's archives and nothing else.  There is
no route and no forwarding to it.  Where no proxy may run the cluster is made all the same, and the site says so.

Both processes are a user's without rights; they start with a site's first cluster, and end with its last.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

from vclust_py import apt, egress_relay, nat
from vclust_py.egress_relay import MESSAGE, PORT, Archive
from vclust_py.errors import VclustError
from vclust_py.guest.tar import File, text
from vclust_py.request import Request
from vclust_py.router_socket import NAMESPACES, listening
from vclust_py.run import CommandError, run
from vclust_py.site.settings import Site

USER = PROGRAM = "apt-cacher-ng"
"""The package makes a user of its own."""
RUN = Path("/run/vclust/egress")
"""A file for each segment with a way out, and for each site's relay the socket that root tells it things by."""
SOURCES = "etc/apt/sources.list.d/vclust.sources"
"""In a node; the base has one of that name, whose URIs may need more than http."""
_TIMEOUT = 20.0
_URI = re.compile(r"https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?(/[A-Za-z0-9._~+/-]*)?")


@dataclass(frozen=True)
class Way:
    """The way out of one cluster: the site's archives that its nodes may fetch from, or nothing."""

    site: Site
    suite: str
    architecture: str
    router: IPv4Address
    archives: tuple[Archive, ...] = ()
    files: tuple[File, ...] = ()
    """For the nodes."""
    left_out: tuple[str, ...] = ()
    """URIs of the site's sources that the proxy cannot fetch."""
    network: IPv4Network | None = None
    """Of the nodes, where they may reach the internet."""
    machines: tuple[str, ...] = ()
    """The cluster's hosts, which are not for its nodes."""


def missing(site: Site) -> tuple[str, ...]:
    """Warnings: what keeps the site from giving its clusters the way out that it should."""
    refusals = [f"egress: nat: {nat.refusal()}"] if site.egress == "nat" and nat.refusal() else []
    if site.egress == "none" or shutil.which(PROGRAM, path=_path()) is not None:
        return tuple(refusals)
    return (
        *refusals,
        f"egress: proxy: {PROGRAM} is not installed on the site manager, so nodes cannot install packages; install it"
        f" (apt-get install {PROGRAM}), or set vclust_site.egress to none",
    )


def way(site: Site, request: Request, machines: Iterable[str]) -> Way:
    """The way out for a cluster of that request, whose hosts on other machines are `machines`.

    Its sources are those of the site's last look at its index.
    """
    suite, architecture = request.software.suite or site.default_suite, request.hardware.architecture
    plain = Way(site, suite, architecture, request.router)
    if site.egress == "none":
        return replace(plain, files=(_no_sources("vclust_site.egress is none"), _resolver([])))
    archives, stanzas, left_out = dict[str, Archive](), list[str](), list[str]()
    for stanza in apt.AptRoot(site, suite, architecture).sources():
        uris = []
        for uri in stanza["URIs"].split():
            if not _URI.fullmatch(uri):
                left_out.append(uri)
                continue
            found = archive(uri)
            uris.append(found.public)
            archives.setdefault(found.public, found)
        if uris:
            fields = {**stanza, "URIs": " ".join(uris)}
            stanzas.append("".join(f"{name}: {value}\n" for name, value in fields.items()))
    settings = (
        "// The site's package proxy; it fetches from the site's archives only.\n"
        f'Acquire::http::Proxy "http://{request.router}:{PORT}";\n'
        'Acquire::http::Pipeline-Depth "0";\n'
    )
    files = [text("etc/apt/apt.conf.d/90vclust", settings)]
    files.append(
        text(SOURCES, "\n".join(stanzas)) if stanzas else _no_sources("none of them is on http or https")
    )
    network = request.software.network if site.egress == "nat" else None
    files.append(_resolver(nat.resolvers() if network else []))
    return replace(
        plain,
        archives=tuple(archives.values()),
        files=tuple(files),
        left_out=tuple(left_out),
        network=network,
        machines=tuple(machines),
    )


def _no_sources(why: str) -> File:
    """In place of the base's: apt would wait for archives that the node does not reach."""
    return text(SOURCES, f"# Nodes of this site do not reach its package archives: {why}.\n")


def _resolver(servers: Iterable[object]) -> File:
    lines = "".join(f"nameserver {server}\n" for server in servers)
    return text(
        "etc/resolv.conf",
        lines or "# Nodes of this site reach no name server; those of the cluster are in /etc/hosts.\n",
    )


def archive(uri: str) -> Archive:
    """What nodes call it is plain http in any case, so that the proxy sees what they ask for."""
    key = hashlib.sha256(uri.encode()).hexdigest()[:12]
    return Archive("http://" + uri.split("://", 1)[1], f"a{key}", uri)


def ensure(segment: str, way: Way) -> tuple[str, ...]:
    """Open the way out of the segment, which is there, or close it where the site's setting says none.

    Warnings say why there is none or not all of it; a cluster is one without it too.
    """
    if way.site.egress == "none":
        close(segment)
        return ()
    return (*_nat(segment, way), *_proxy(segment, way))


def _nat(segment: str, way: Way) -> tuple[str, ...]:
    if way.network is None:
        if Path("/sys/class/net", nat.device(segment)).exists():
            nat.remove(segment)
        return ()
    try:
        with _alone():
            nat.ensure(segment, way.network, [*nat.addresses(way.machines), *way.site.egress_blocked])
    except VclustError as error:
        return (f"egress: nat: nodes do not reach the internet: {' '.join(str(error).split())}",)
    return ()


def _proxy(segment: str, way: Way) -> tuple[str, ...]:
    if warnings := [said for said in missing(way.site) if PROGRAM in said]:
        return tuple(warnings)
    if not way.archives:
        return (
            "egress: proxy: none of the site's package sources is on http or https: nodes cannot install packages",
        )
    try:
        _open(segment, way)
    except (VclustError, OSError) as error:
        return (f"egress: proxy: nodes cannot install packages: {' '.join(str(error).split())}",)
    return tuple(f"egress: proxy: {uri}: got no http or https, nodes do without" for uri in way.left_out)


def close(segment: str) -> bool:
    """Close the segment's way out; False when it had none."""
    record, found = RUN / segment, nat.remove(segment)
    if not record.exists():
        return found
    with _alone(), contextlib.suppress(FileNotFoundError):
        _leave(segment, _read(record)["relay"])
    return True


def _leave(segment: str, digest: str) -> None:
    """Have the relay serve the segment no longer; what is the site's goes with its last one."""
    (RUN / segment).unlink(missing_ok=True)
    try:
        with _control(digest) as relay:
            left = _ask(relay, {"leave": segment})["left"]
            if left == 0:
                relay.recv(1)  # it is over when its process is
    except OSError:  # somebody has killed it
        left = sum(_read(record)["relay"] == digest for record in RUN.glob("vc*"))
    if left == 0:
        (RUN / f"{digest}.sock").unlink(missing_ok=True)
        with contextlib.suppress(CommandError):  # somebody has emptied the packet filter
            run(["nft", "delete", "table", "inet", f"vclust_proxy_{digest}"])


def _read(record: Path) -> dict[str, Any]:
    return dict(json.loads(record.read_text(encoding="utf-8")))


def _open(segment: str, way: Way) -> None:
    folder = way.site.root / "proxy"
    digest = hashlib.sha256(str(folder).encode()).hexdigest()[:12]
    inode = os.stat(NAMESPACES / segment).st_ino
    described = [list(archive) for archive in way.archives]
    record: dict[str, Any] = {
        "relay": digest,
        "router": str(way.router),
        "archives": described,
        "key": hashlib.sha256(json.dumps([inode, str(way.router), described]).encode()).hexdigest(),
        **_upstream(way),
    }
    with _alone():
        # Before the relay knows of it: what has a record is closed by `close`, whatever became of this process.
        draft = RUN / f".{segment}"
        draft.write_text(json.dumps(record), encoding="utf-8")
        draft.replace(RUN / segment)
        try:
            try:
                relay = _control(digest)
            except OSError:
                relay = _start(folder, digest)
            with relay:
                if not _serve(relay, segment, record):
                    raise VclustError("the site's relay does not take the segment")
        except BaseException:
            _leave(segment, digest)
            raise


def _serve(relay: socket.socket, segment: str, record: dict[str, Any]) -> bool:
    question = {"serve": segment, "key": record["key"]}
    if _ask(relay, question)["served"]:
        return True
    words = {name: record[name] for name in ("archives", "proxy", "ca")}
    with listening(segment, record["router"], PORT) as own:
        return bool(_ask(relay, {**question, **words}, own)["served"])


def _upstream(way: Way) -> dict[str, str]:
    """How the site itself reaches its archives: apt's proxy, and the authorities it believes."""
    found = apt.AptRoot(way.site, way.suite, way.architecture).settings(
        "Acquire::http::Proxy", "Acquire::https::CAInfo"
    )
    proxy, ca = found["Acquire::http::Proxy"], found["Acquire::https::CAInfo"]
    if proxy == "DIRECT":
        proxy = ""
    if re.search(r"\s", proxy + ca):
        raise VclustError("apt's proxy or CAInfo: got a blank in it, expected a URL and a path")
    return {"proxy": proxy, "ca": ca}


def _start(folder: Path, digest: str) -> socket.socket:
    """The site's relay, anew, with what it served before; a connection to it."""
    user = shutil.which("setpriv") and _user()
    if not user:
        raise VclustError(f"user {USER} or setpriv: not found", f"apt-get install {PROGRAM} util-linux")
    folder.mkdir(mode=0o700, exist_ok=True)
    os.chown(folder, *user)
    path = RUN / f"{digest}.sock"
    path.unlink(missing_ok=True)
    address = f"127.118.{int(digest[:2], 16)}.{int(digest[2:4], 16) or 1}"
    _guard(digest, address, user[0])
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as control:
        control.bind(str(path))
        path.chmod(0o600)
        control.listen(16)
        settings = {
            "folder": str(folder),
            "user": USER,
            "address": address,
            "control": control.fileno(),
        }
        with open(os.memfd_create("settings"), "wb+", buffering=0) as given:
            given.write(json.dumps(settings).encode())
            given.seek(0)
            # A session of its own: it outlives the command that needed it.  The folder is named for whoever looks.
            subprocess.run(
                ["setsid", "--fork", sys.executable, "-IS", egress_relay.__file__, folder],
                stdin=given,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[control.fileno()],
                env={"PATH": _path(), "LC_ALL": "C.UTF-8"},
                cwd="/",
                check=True,
            )
    relay = _control(digest)
    for other in RUN.glob("vc*"):
        record = _read(other)
        if record["relay"] == digest:
            with contextlib.suppress(VclustError):  # it has gone, and is cleared by its own destroy
                _serve(relay, other.name, record)
    return relay


def _path() -> str:
    """With the folders of daemons, which a user's PATH may lack."""
    return f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"


def _user() -> tuple[int, int] | None:
    import pwd

    with contextlib.suppress(KeyError):
        found = pwd.getpwnam(USER)
        return found.pw_uid, found.pw_gid
    return None


def _guard(digest: str, address: str, uid: int) -> None:
    """The proxy has a loopback address of its own, which no other user of the machine reaches."""
    table = f"inet vclust_proxy_{digest}"
    run(["nft", "-f", "-"], stdin=f"""
        table {table} {{
            chain output {{ type filter hook output priority filter; policy accept; }}
        }}
        flush chain {table} output
        add rule {table} output ip daddr {address} meta skuid != {uid} reject
    """)  # fmt: skip


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Of all sites of this machine, as clusters of several may come and go at once."""
    RUN.mkdir(mode=0o700, parents=True, exist_ok=True)
    with open(RUN / "lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _control(digest: str) -> socket.socket:
    """A connection to the site's relay; raises OSError when there is none."""
    relay = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        relay.settimeout(_TIMEOUT)
        relay.connect(str(RUN / f"{digest}.sock"))
    except OSError:
        relay.close()
        raise
    return relay


def _ask(relay: socket.socket, message: dict[str, Any], *passed: socket.socket) -> dict[str, Any]:
    socket.send_fds(relay, [json.dumps(message).encode()], [one.fileno() for one in passed])
    answer = relay.recv(MESSAGE)
    if not answer:
        raise ConnectionResetError("the site's relay has ended")
    return dict(json.loads(answer))

"""The cluster's disk: what all nodes of a cluster share.  One small FAT file system, once on each host.

It has a generation number, which grows with every change of it; a node copies what it needs when it is installed, and
a later generation is brought to a running node in the same form.  Our installer reads it; a cloud image's cloud-init is
told by the seed to extract `files.tar.gz`.

files.tar.gz  extracted at / with numeric owners: names, trust, keys, secrets, and what the node checks itself against
passwd, shadow, group   lines to append;  `groups`: lines "GROUP USER", a user joins a group that is there
environment   KEY='value' lines for the steps (see `metapackages`), to be read by sh
step-NN-NAME, step-NN-NAME.first   sh scripts for all nodes, and for the first node only, in this order

What the node checks itself against is /var/lib/vclust/expected, lines of `package NAME VERSION`, `host NAME ADDRESS`,
`user NAME UID`, `key USER SHA256` (of its authorized_keys file, hex) and `disk BYTES` (the least size of the root
disk).
"""

import hashlib
import secrets
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address

from vclust_py.guest import agent, fat, volume
from vclust_py.guest.tar import File, folder, packed, text
from vclust_py.guest.trust import Authority, KeyPair
from vclust_py.metapackages import MetaPackage
from vclust_py.request import Request, User
from vclust_py.request.accounts import NO_PASSWORD

FILE_NAME = "_cluster.img"
"""No host name has an underscore: no node's seed is called so."""
LABEL = "vclust"
FIRST_UID = 1000
SECRETS = "var/lib/vclust/secrets"
HOST_FILE = "etc/vclust/hostfile"
SUDOERS = "etc/sudoers.d/vclust"
OPENMPI_HOST_FILE = "etc/vclust/hostfile.openmpi"
AUTHORITY = "etc/ssh/vclust_authority.pub"
USER_KEYS = "etc/ssh/vclust_users"
"""A folder for each user with their keys, where homes are the site's: other clusters have them too."""
GROUPS = ("sudo", "adm")
"""A user administers the cluster (sudo) and may read its logs."""


@dataclass(frozen=True)
class ClusterIdentity:
    """What all nodes of a cluster share.

    `nodes`: address by name, in the order of the names, the first one leads.  Of `authority` nodes get the public key
    only; `user_keys` are the certified keys with which each account of `logins` reaches every node; `admin_key` is the
    public half of the site manager's own way in, as root; `packages` are `name=version` of everything a node must have;
    `secrets` are the meta packages', by name; `files` are what the site adds; `uids` the numbers of the users, by name.
    """

    generation: int
    request: Request
    nodes: Mapping[str, IPv4Address]
    authority: Authority
    user_keys: Mapping[str, KeyPair]
    admin_key: str
    packages: tuple[str, ...]
    meta_packages: tuple[MetaPackage, ...]
    secrets: Mapping[str, bytes]
    uids: Mapping[str, int]
    files: tuple[File, ...] = ()

    @property
    def first(self) -> str:
        return next(iter(self.nodes))


def logins(request: Request) -> list[str]:
    """The accounts that go from node to node: the request's users, or root where there is none."""
    return [user.name for user in request.software.users] or ["root"]


def new_uids(request: Request, known: Mapping[str, int] | None = None) -> dict[str, int]:
    """The numbers of the request's users, and of those `known` before; no number is given a second time."""
    numbers = dict(known or {})
    for user in request.software.users:
        numbers.setdefault(user.name, max(numbers.values(), default=FIRST_UID - 1) + 1)
    return numbers


def _users(cluster: ClusterIdentity) -> list[tuple[User, int]]:
    return [(user, cluster.uids[user.name]) for user in cluster.request.software.users]


def new_secrets(meta_packages: Iterable[MetaPackage]) -> dict[str, bytes]:
    return {
        secret.name: secrets.token_bytes(secret.bytes) for meta in meta_packages for secret in meta.secrets
    }


def build(cluster: ClusterIdentity) -> bytes:
    """The disk's image."""
    return fat.image(LABEL, parts(cluster))


def parts(cluster: ClusterIdentity) -> dict[str, bytes]:
    """The files of the disk, by name."""
    texts = {**lines(cluster), **_steps(cluster)}
    return {"files.tar.gz": packed(files(cluster))} | {name: text.encode() for name, text in texts.items()}


def lines(cluster: ClusterIdentity) -> dict[str, str]:
    """Accounts, groups and environment: those files of the disk, by name."""
    users = _users(cluster)
    return {
        "passwd": "".join(f"{user.name}:x:{uid}:{uid}::/home/{user.name}:/bin/bash\n" for user, uid in users),
        # No day of the last change: passwords of a cluster do not age.
        "shadow": "".join(f"{user.name}:{user.password_hash}::0:99999:7:::\n" for user, _ in users),
        "group": "".join(f"{user.name}:x:{uid}:\n" for user, uid in users),
        "groups": "".join(f"{group} {user.name}\n" for user, _ in users for group in GROUPS),
        "environment": _environment(cluster),
    }


def _environment(cluster: ClusterIdentity) -> str:
    values = {
        "VCLUST_NODES": str(len(cluster.nodes)),
        "VCLUST_NODE_NAMES": " ".join(cluster.nodes),
        "VCLUST_FIRST": cluster.first,
        "VCLUST_ROUTER": str(cluster.request.router),
        "VCLUST_CPUS": str(cluster.request.hardware.cpus),
        "VCLUST_RAM_MB": str(cluster.request.hardware.ram // 2**20),
        "VCLUST_SECRETS": f"/{SECRETS}",
    }
    return "".join(f"{name}={shlex.quote(value)}\n" for name, value in values.items())


def changes(cluster: ClusterIdentity) -> dict[str, str]:
    """Scripts that a node which runs is to run, in this order, when its cluster has other nodes: by name the text.

    The steps of meta packages that have a `change`, and then that.
    """
    again = {meta.name for meta in cluster.meta_packages if meta.change is not None}
    found = {name: text for name, text in _steps(cluster).items() if _owner(name) in again}
    return found | {
        f"change-{meta.name}": f"set -eu\n{meta.change}"
        for meta in cluster.meta_packages
        if meta.change is not None
    }


def resized(cluster: ClusterIdentity) -> dict[str, str]:
    """Scripts that a node is to run when it has got other CPUs or memory: `changes`, then each `resume`."""
    return changes(cluster) | {
        f"resume-{meta.name}": f"set -eu\n{meta.resume}"
        for meta in cluster.meta_packages
        if meta.resume is not None
    }


def steps_of(cluster: ClusterIdentity, meta_packages: Iterable[str]) -> dict[str, str]:
    """The steps of these meta packages, by name the text: for a node that has not been told of them."""
    names = set(meta_packages)
    return {name: text for name, text in _steps(cluster).items() if _owner(name) in names}


def _owner(step: str) -> str:
    """The meta package of a step by the name of its file."""
    return step.split("-", 2)[2].removesuffix(".first")


def _steps(cluster: ClusterIdentity) -> dict[str, str]:
    steps = [(meta.name, step) for meta in cluster.meta_packages for step in meta.steps]
    asked = cluster.request.hardware.volume
    # Before the others: they may want to have something on it.
    first = {} if asked is None else {"step-00-volume.first": volume.script(asked.name)}
    return first | {
        f"step-{number:02d}-{name}{'' if step.nodes == 'all' else '.first'}": f"#!/bin/sh\nset -eu\n{step.run}"
        for number, (name, step) in enumerate(steps, start=1)
    }


def files(cluster: ClusterIdentity) -> list[File]:
    """What `files.tar.gz` has: the files, and the folders that need an owner or mode of their own."""
    hosts = "".join(f"{address}\t{name}\n" for name, address in cluster.nodes.items())
    loopback = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
    slots = cluster.request.hardware.cpus
    of_site = cluster.request.has_site_homes
    found = [
        folder("root/.ssh", 0o700),
        folder("etc/vclust", 0o755),
        folder("var/lib/vclust", 0o755),
        folder(SECRETS, 0o700),
        text("etc/vclust/generation", f"{cluster.generation}\n"),
        text("etc/vclust/nodes", hosts),
        text("etc/hosts", loopback + hosts),
        # MPICH spreads ranks over names by itself, Open MPI wants the slots told.
        text(HOST_FILE, "".join(f"{name}\n" for name in cluster.nodes)),
        text(OPENMPI_HOST_FILE, "".join(f"{name} slots={slots}\n" for name in cluster.nodes)),
        # So that a plain mpiexec uses all nodes: MPICH, Open MPI 4, Open MPI 5.
        text(
            "etc/environment",
            f"HYDRA_HOST_FILE=/{HOST_FILE}\n"
            f"OMPI_MCA_orte_default_hostfile=/{OPENMPI_HOST_FILE}\n"
            f"PRTE_MCA_prte_default_hostfile=/{OPENMPI_HOST_FILE}\n",
        ),
        text("etc/ssh/ssh_known_hosts", cluster.authority.known_hosts),
        text(AUTHORITY, f"{cluster.authority.key.public} {cluster.request.name}\n"),
        text(
            "etc/ssh/sshd_config.d/vclust.conf",
            "# The cluster's authority vouches for its nodes and its users.\n"
            f"HostCertificate /{host_key_file(cluster.authority.key.kind)}-cert.pub\n"
            f"TrustedUserCAKeys /{AUTHORITY}\n"
            + (
                f"AuthorizedKeysFile .ssh/authorized_keys /{USER_KEYS}/%u/authorized_keys\n"
                if of_site
                else ""
            ),
        ),
        # The site manager's way in.
        text(
            "root/.ssh/authorized_keys",
            f'from="{cluster.request.router}" {cluster.admin_key} vclust\n',
            0o600,
        ),
        *agent.files(),
        text("var/lib/vclust/expected", _expected(cluster)),
    ]
    by_key_only = [user.name for user in cluster.request.software.users if user.password_hash == NO_PASSWORD]
    if by_key_only:
        # They are in group sudo, and have no password that it could ask for.
        rules = "".join(f"{name} ALL=(ALL:ALL) NOPASSWD: ALL\n" for name in by_key_only)
        found.append(text(SUDOERS, f"# Who logs in by key only has no password to type.\n{rules}", 0o440))
    found += cluster.files
    found += [File(f"{SECRETS}/{name}", data, 0o600) for name, data in cluster.secrets.items()]
    if of_site:
        found += [
            folder(USER_KEYS, 0o755),
            text("etc/ssh/ssh_config.d/vclust.conf", _ssh_config(cluster.authority.key.kind)),
        ]
    for user, uid in _users(cluster):
        found.append(folder(f"home/{user.name}", 0o700, uid))
        keys = _keys_folder(user.name, of_site=of_site)
        # sshd believes what is root's or the user's.
        found.append(folder(keys, 0o755 if of_site else 0o700, 0 if of_site else uid))
        own = (0o644, 0) if of_site else (0o600, uid)
        found.append(text(f"{keys}/authorized_keys", _authorized_keys(user, cluster), *own))
    numbers = {user.name: uid for user, uid in _users(cluster)}
    for login, key in cluster.user_keys.items():
        stem = f"{_keys_folder(login, of_site=of_site)}/id_{key.kind}"
        owner = numbers.get(login, 0)
        found += [
            text(stem, key.private, 0o600, owner),
            text(f"{stem}.pub", f"{key.public} {login}\n", 0o644, owner),
            text(f"{stem}-cert.pub", f"{key.certificate} {login}\n", 0o644, owner),
        ]
    return found


def host_key_file(kind: str) -> str:
    """Where a node's host key of that kind (`KeyPair.kind`) is."""
    return f"etc/ssh/ssh_host_{kind}_key"


def _ssh_config(kind: str) -> str:
    # The cluster's own key comes first; a list in the configuration takes the place of the usual one.
    usual = (f"~/.ssh/id_{one}" for one in ("rsa", "ecdsa", "ecdsa_sk", "ed25519", "ed25519_sk"))
    return "".join(f"IdentityFile {path}\n" for path in (f"/{USER_KEYS}/%u/id_{kind}", *usual))


def _keys_folder(login: str, *, of_site: bool) -> str:
    """Where an account's keys are; root's home is each node's own."""
    if login == "root":
        return "root/.ssh"
    return f"{USER_KEYS}/{login}" if of_site else f"home/{login}/.ssh"


def _authorized_keys(user: User, cluster: ClusterIdentity) -> str:
    """The request's own keys; between nodes the user has a certificate."""
    return "".join(f"{key.key}\n" for key in cluster.request.software.ssh_keys if key.user == user.name)


def _expected(cluster: ClusterIdentity) -> str:
    lines = ["package {} {}".format(*package.split("=", 1)) for package in cluster.packages]
    lines += [f"host {name} {address}" for name, address in cluster.nodes.items()]
    for user, uid in _users(cluster):
        digest = hashlib.sha256(_authorized_keys(user, cluster).encode()).hexdigest()
        lines.append(f"user {user.name} {uid}")
        if not cluster.request.has_site_homes:  # there the keys in homes are the user's own
            lines.append(f"key {user.name} {digest}")
    lines.append(f"disk {cluster.request.hardware.disk}")
    return "".join(f"{line}\n" for line in lines)

"""The seed: a small ISO 9660 disk that gives a node its identity.

Nothing of it is in a shared layer (names, addresses, users, keys, machine-id, random seed, secrets).  Two readers:
cloud images find the NoCloud files (`meta-data`, `user-data`, `network-config`), our installer the folder `vclust/`:

files.tar     extracted at / with numeric owners
passwd, shadow, group   lines to append;  `groups`: lines "GROUP USER", a user joins a group that is there
network       one line: MAC ADDRESS/PREFIX ROUTER MTU
instance      the instance id; an identity is applied once for each
environment   KEY='value' lines for the steps (`metapackages.STEP_VARIABLES`), to be read by sh
steps/        NN-NAME: sh scripts for this node, in this order

and, in files.tar, what the node checks itself against: /var/lib/vclust/expected, lines of
`package NAME VERSION`, `host NAME ADDRESS`, `user NAME UID`, `key USER SHA256` (of its authorized_keys file, hex) and
`disk BYTES` (the least size of the root disk).
"""

import base64
import hashlib
import io
import json
import os
import secrets
import shlex
import tarfile
import tempfile
import uuid
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from vclust_py.metapackages import MetaPackage
from vclust_py.request import Request, User
from vclust_py.run import run

FIRST_UID = 1000
SECRETS = "var/lib/vclust/secrets"
HOST_FILE = "etc/vclust/hostfile"
OPENMPI_HOST_FILE = "etc/vclust/hostfile.openmpi"
# A user administers the cluster (sudo, where the request brings it) and may read its logs.
_GROUPS = ("sudo", "adm")
_RANDOM_SEED = 512
_AT_ONCE = 16


@dataclass(frozen=True)
class KeyPair:
    """An ed25519 key: OpenSSH's private file, and type and data of the public line (no comment)."""

    private: str
    public: str


@dataclass(frozen=True)
class NodeIdentity:
    """What is one node's own.  `instance_id` changes when the node is made anew, so that its identity applies."""

    name: str
    address: IPv4Address
    mac: str
    instance_id: str
    machine_id: str
    host_key: KeyPair


@dataclass(frozen=True)
class ClusterIdentity:
    """What all nodes of a cluster share.

    `nodes` are in the order of their names, the first one leads; `user_key` lets every user reach every node;
    `admin_key` is the public half of the site manager's own way in, as root; `packages` are `name=version` of
    everything a node must have; `secrets` are the meta packages', by name.
    """

    request: Request
    nodes: tuple[NodeIdentity, ...]
    user_key: KeyPair
    admin_key: str
    packages: tuple[str, ...]
    meta_packages: tuple[MetaPackage, ...]
    secrets: Mapping[str, bytes]
    mtu: int = 1500
    """Bytes; less where the segment goes through a tunnel."""


def new_key() -> KeyPair:
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    return KeyPair(private.decode("ascii"), public.decode("ascii"))


def cluster_keys() -> tuple[KeyPair, KeyPair]:
    """A new cluster's two keys: the one its users have on every node, and the site manager's."""
    return new_key(), new_key()


def new_node(name: str, address: IPv4Address) -> NodeIdentity:
    return NodeIdentity(
        name=name,
        address=address,
        mac=mac_of(address),
        instance_id=str(uuid.uuid4()),
        machine_id=uuid.uuid4().hex,
        host_key=new_key(),
    )


def mac_of(address: IPv4Address) -> str:
    """A locally administered MAC that holds the address, so it is unique in the cluster's segment."""
    return "52:54:" + ":".join(f"{byte:02x}" for byte in address.packed)


def new_secrets(meta_packages: Iterable[MetaPackage]) -> dict[str, bytes]:
    return {
        secret.name: secrets.token_bytes(secret.bytes) for meta in meta_packages for secret in meta.secrets
    }


def known_hosts(nodes: Iterable[NodeIdentity]) -> str:
    """The nodes' host keys as ssh_known_hosts lines."""
    return "".join(f"{node.name},{node.address} {node.host_key.public}\n" for node in nodes)


def build(node: NodeIdentity, cluster: ClusterIdentity, path: Path) -> None:
    """Write the seed of `node` to `path`, atomically, readable by its owner only.

    Raises CommandError when the image cannot be written, for one when the disk is full.
    """
    content = {f"vclust/{name}": data for name, data in _for_installer(node, cluster).items()}
    content |= _for_cloud_init(node, cluster)
    with tempfile.TemporaryDirectory(prefix=".seed-", dir=path.parent) as folder:  # mode 0700
        root = Path(folder) / "root"
        for name, data in content.items():
            file = root / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
        image = Path(folder) / "image"
        # -no_rc: no start-up files of the machine or of root change what is written.
        form = ["-as", "mkisofs", "-quiet", "-R", "-J", "-V", "cidata", "-uid", "0", "-gid", "0"]
        run(["xorriso", "-no_rc", *form, "-o", image, root])
        os.chmod(image, 0o600)
        with open(image, "rb") as file_object:
            os.fsync(file_object.fileno())
        os.replace(image, path)


def build_all(cluster: ClusterIdentity, folder: Path) -> None:
    """A seed for every node: `folder/NAME.iso`.  Raises as `build` does."""
    # xorriso takes 6 ms of CPU and then sleeps for 100 ms, whatever the size.
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(lambda node: build(node, cluster, folder / f"{node.name}.iso"), cluster.nodes))


# For our installer ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _File:
    """A file of the node, its path relative to /; `owner` None is root."""

    path: str
    data: bytes
    mode: int = 0o644
    owner: str | None = None


def _for_installer(node: NodeIdentity, cluster: ClusterIdentity) -> dict[str, bytes]:
    users = _uids(cluster)
    content = {
        "instance": f"{node.instance_id}\n",
        "network": f"{node.mac} {node.address}/{cluster.request.software.network.prefixlen} "
        f"{cluster.request.router} {cluster.mtu}\n",
        "passwd": "".join(f"{user.name}:x:{uid}:{uid}::/home/{user.name}:/bin/bash\n" for user, uid in users),
        # No day of the last change: passwords of a cluster do not age.
        "shadow": "".join(f"{user.name}:{user.password_hash}::0:99999:7:::\n" for user, _ in users),
        "group": "".join(f"{user.name}:x:{uid}:\n" for user, uid in users),
        "groups": "".join(f"{group} {user.name}\n" for user, _ in users for group in _GROUPS),
        "environment": _environment(node, cluster),
        **_steps(node, cluster),
    }
    return {"files.tar": _tar(node, cluster)} | {name: text.encode() for name, text in content.items()}


def _uids(cluster: ClusterIdentity) -> list[tuple[User, int]]:
    return [(user, FIRST_UID + index) for index, user in enumerate(cluster.request.software.users)]


def _environment(node: NodeIdentity, cluster: ClusterIdentity) -> str:
    values = {
        "VCLUST_NODES": str(len(cluster.nodes)),
        "VCLUST_NODE_NAMES": " ".join(other.name for other in cluster.nodes),
        "VCLUST_FIRST": cluster.nodes[0].name,
        "VCLUST_NODE": node.name,
        "VCLUST_CPUS": str(cluster.request.hardware.cpus),
        "VCLUST_RAM_MB": str(cluster.request.hardware.ram // 2**20),
        "VCLUST_SECRETS": f"/{SECRETS}",
    }
    return "".join(f"{name}={shlex.quote(value)}\n" for name, value in values.items())


def _steps(node: NodeIdentity, cluster: ClusterIdentity) -> dict[str, str]:
    first = node == cluster.nodes[0]
    chosen = [
        (meta.name, step.run)
        for meta in cluster.meta_packages
        for step in meta.steps
        if step.nodes == "all" or first
    ]
    return {
        f"steps/{number:02d}-{name}": f"#!/bin/sh\nset -eu\n{script}"
        for number, (name, script) in enumerate(chosen, start=1)
    }


def _files(node: NodeIdentity, cluster: ClusterIdentity) -> list[_File]:
    hosts = "".join(f"{other.address}\t{other.name}\n" for other in cluster.nodes)
    loopback = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
    slots = cluster.request.hardware.cpus
    files = [
        _text("etc/hostname", f"{node.name}\n"),
        _text("etc/hosts", loopback + hosts),
        _text("etc/machine-id", f"{node.machine_id}\n", 0o444),
        _text("etc/ssh/ssh_host_ed25519_key", node.host_key.private, 0o600),
        _text("etc/ssh/ssh_host_ed25519_key.pub", f"{node.host_key.public} root@{node.name}\n"),
        _text("etc/ssh/ssh_known_hosts", known_hosts(cluster.nodes)),
        # MPICH spreads ranks over names by itself, Open MPI wants the slots told.
        _text(HOST_FILE, "".join(f"{other.name}\n" for other in cluster.nodes)),
        _text(OPENMPI_HOST_FILE, "".join(f"{other.name} slots={slots}\n" for other in cluster.nodes)),
        _text("etc/vclust/nodes", hosts),
        # So that a plain mpiexec uses all nodes: MPICH, Open MPI 4, Open MPI 5.
        _text(
            "etc/environment",
            f"HYDRA_HOST_FILE=/{HOST_FILE}\n"
            f"OMPI_MCA_orte_default_hostfile=/{OPENMPI_HOST_FILE}\n"
            f"PRTE_MCA_prte_default_hostfile=/{OPENMPI_HOST_FILE}\n",
        ),
        _text("root/.ssh/authorized_keys", _root_keys(cluster), 0o600),
        _File("var/lib/systemd/random-seed", secrets.token_bytes(_RANDOM_SEED), 0o600),
        _text("var/lib/vclust/expected", _expected(cluster)),
    ]
    files += [_File(f"{SECRETS}/{name}", data, 0o600) for name, data in cluster.secrets.items()]
    users = cluster.request.software.users
    for user in users:
        files.append(
            _text(f"home/{user.name}/.ssh/authorized_keys", _authorized_keys(user, cluster), 0o600, user.name)
        )
    homes: list[tuple[str, str | None]] = [(f"home/{user.name}", user.name) for user in users]
    for home, owner in homes or [("root", None)]:
        files += [
            _text(f"{home}/.ssh/id_ed25519", cluster.user_key.private, 0o600, owner),
            _text(
                f"{home}/.ssh/id_ed25519.pub", f"{cluster.user_key.public} {owner or 'root'}\n", 0o644, owner
            ),
        ]
    return files


def _text(path: str, text: str, mode: int = 0o644, owner: str | None = None) -> _File:
    return _File(path, text.encode(), mode, owner)


def _root_keys(cluster: ClusterIdentity) -> str:
    """The site manager's way in; where there is no other user, root also goes from node to node."""
    lines = [f'from="{cluster.request.router}" {cluster.admin_key} vclust']
    if not cluster.request.software.users:
        lines.append(f"{cluster.user_key.public} {cluster.request.name}")
    return "".join(f"{line}\n" for line in lines)


def _authorized_keys(user: User, cluster: ClusterIdentity) -> str:
    own = [key.key for key in cluster.request.software.ssh_keys if key.user == user.name]
    return "".join(f"{line}\n" for line in [*own, f"{cluster.user_key.public} {cluster.request.name}"])


def _expected(cluster: ClusterIdentity) -> str:
    lines = ["package {} {}".format(*package.split("=", 1)) for package in cluster.packages]
    lines += [f"host {node.name} {node.address}" for node in cluster.nodes]
    for user, uid in _uids(cluster):
        digest = hashlib.sha256(_authorized_keys(user, cluster).encode()).hexdigest()
        lines += [f"user {user.name} {uid}", f"key {user.name} {digest}"]
    lines.append(f"disk {cluster.request.hardware.disk}")
    return "".join(f"{line}\n" for line in lines)


def _tar(node: NodeIdentity, cluster: ClusterIdentity) -> bytes:
    """Files and the folders that need an owner or mode of their own; ustar, for busybox."""
    uids = {user.name: uid for user, uid in _uids(cluster)}
    folders: list[tuple[str, int, str | None]] = [
        ("root/.ssh", 0o700, None),
        ("etc/vclust", 0o755, None),
        ("var/lib/vclust", 0o755, None),
        (SECRETS, 0o700, None),
    ]
    for name in uids:
        folders += [(f"home/{name}", 0o700, name), (f"home/{name}/.ssh", 0o700, name)]
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for path, mode, owner in folders:
            archive.addfile(_member(path, mode, uids.get(owner or "", 0), tarfile.DIRTYPE))
        for file in _files(node, cluster):
            member = _member(file.path, file.mode, uids.get(file.owner or "", 0), tarfile.REGTYPE)
            member.size = len(file.data)
            archive.addfile(member, io.BytesIO(file.data))
    return out.getvalue()


def _member(path: str, mode: int, owner: int, kind: bytes) -> tarfile.TarInfo:
    member = tarfile.TarInfo(path)
    member.type, member.mode, member.uid, member.gid = kind, mode, owner, owner
    return member


# For cloud images -----------------------------------------------------------------------------------------------


def _for_cloud_init(node: NodeIdentity, cluster: ClusterIdentity) -> dict[str, bytes]:
    """NoCloud; JSON is YAML too, and is never mistaken about what is text."""
    users: list[dict[str, Any]] = [
        {
            "name": user.name,
            "uid": uid,
            "groups": list(_GROUPS),
            "shell": "/bin/bash",
            "lock_passwd": False,
            "hashed_passwd": user.password_hash,
        }
        for user, uid in _uids(cluster)
    ]
    user_data = {
        "hostname": node.name,
        "manage_etc_hosts": False,
        "disable_root": False,
        "ssh_deletekeys": True,
        "ssh_keys": {"ed25519_private": node.host_key.private, "ed25519_public": node.host_key.public},
        "users": users,
        # Deferred: the files' owners must be there first.
        "write_files": [
            {
                "path": f"/{file.path}",
                "content": base64.b64encode(file.data).decode("ascii"),
                "encoding": "b64",
                "permissions": f"{file.mode:04o}",
                "owner": f"{file.owner}:{file.owner}" if file.owner else "root:root",
                "defer": True,
            }
            for file in _files(node, cluster)
            if not file.path.startswith(("etc/ssh/ssh_host_", "etc/machine-id"))
        ],
    }
    interface = {
        "match": {"macaddress": node.mac},
        "addresses": [f"{node.address}/{cluster.request.software.network.prefixlen}"],
        "mtu": cluster.mtu,
        "routes": [{"to": "0.0.0.0/0", "via": str(cluster.request.router)}],
    }
    meta_data = {"instance-id": node.instance_id, "local-hostname": node.name}
    return {
        "meta-data": json.dumps(meta_data).encode(),
        "user-data": b"#cloud-config\n" + json.dumps(user_data).encode(),
        "network-config": json.dumps({"version": 2, "ethernets": {"cluster": interface}}).encode(),
    }

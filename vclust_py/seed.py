"""The seed: a FAT disk of a few KB that says which node of its cluster a node is.

It holds what is the node's own and nothing else, whatever the size of the cluster; what nodes share is on the cluster's
disk (`vclust_py.guest.cluster_disk`).  Two readers: cloud images find the NoCloud files (`meta-data`, `user-data`,
`network-config`), our installer

node          KEY='value' lines, to be read by sh: instance (an identity is applied once for each), name, mac,
              address (with the prefix's length), router, mtu
files.tar.gz  extracted at / with numeric owners: host name, machine-id, host key and certificate, random seed
"""

import json
import secrets
import shlex
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Any

from vclust_py.addresses import mac_of
from vclust_py.guest import cluster_disk, fat
from vclust_py.guest.cluster_disk import host_key_file
from vclust_py.guest.tar import File, packed, text
from vclust_py.guest.trust import Authority, KeyPair
from vclust_py.request import Request

LABEL = "cidata"
"""By which cloud-init finds it."""
_RANDOM_SEED = 512  # bytes, as systemd-random-seed(8) writes


@dataclass(frozen=True)
class NodeIdentity:
    """What is one node's own.  `instance_id` changes when the node is made anew, so that its identity applies."""

    name: str
    address: IPv4Address
    mac: str
    instance_id: str
    machine_id: str
    host_key: KeyPair
    random_seed: bytes


def new_node(name: str, address: IPv4Address, authority: Authority) -> NodeIdentity:
    return NodeIdentity(
        name=name,
        address=address,
        mac=mac_of(address),
        instance_id=str(uuid.uuid4()),
        machine_id=uuid.uuid4().hex,
        host_key=authority.new_host_key(name, address),
        random_seed=secrets.token_bytes(_RANDOM_SEED),
    )


def build(node: NodeIdentity, request: Request, uids: Mapping[str, int], mtu: int = 1500) -> bytes:
    """The disk's image; `uids` are the users' numbers, `mtu` is in bytes, less where the segment goes by a tunnel."""
    content = _for_cloud_init(node, request, uids, mtu) | _for_installer(node, request, mtu)
    return fat.image(LABEL, content)


def _for_installer(node: NodeIdentity, request: Request, mtu: int) -> dict[str, bytes]:
    values = {
        "instance": node.instance_id,
        "name": node.name,
        "mac": node.mac,
        "address": f"{node.address}/{request.software.network.prefixlen}",
        "router": str(request.router),
        "mtu": str(mtu),
    }
    lines = "".join(f"{name}={shlex.quote(value)}\n" for name, value in values.items())
    host_key = host_key_file(node.host_key.kind)
    files = [
        text("etc/hostname", f"{node.name}\n"),
        text("etc/machine-id", f"{node.machine_id}\n", 0o444),
        text(host_key, node.host_key.private, 0o600),
        text(f"{host_key}.pub", f"{node.host_key.public} root@{node.name}\n"),
        text(f"{host_key}-cert.pub", f"{node.host_key.certificate}\n"),
        File("var/lib/systemd/random-seed", node.random_seed, 0o600),
    ]
    return {"node": lines.encode(), "files.tar.gz": packed(files)}


def _for_cloud_init(
    node: NodeIdentity, request: Request, uids: Mapping[str, int], mtu: int
) -> dict[str, bytes]:
    """NoCloud; JSON is YAML too, and is never mistaken about what is text."""
    users: list[dict[str, Any]] = [
        {
            "name": user.name,
            "uid": uids[user.name],
            "groups": list(cluster_disk.GROUPS),
            "shell": "/bin/bash",
            "lock_passwd": False,
            "hashed_passwd": user.password_hash,
        }
        for user in request.software.users
    ]
    # Before sshd starts, once for each instance.
    shared = (
        f"mkdir -p /run/vclust && mount -o ro LABEL={cluster_disk.LABEL} /run/vclust &&"
        " tar -x -z -f /run/vclust/files.tar.gz -C / --numeric-owner; umount /run/vclust"
    )
    kind = node.host_key.kind
    user_data = {
        "hostname": node.name,
        "manage_etc_hosts": False,
        "disable_root": False,
        "ssh_deletekeys": True,
        "ssh_keys": {
            f"{kind}_private": node.host_key.private,
            f"{kind}_public": node.host_key.public,
            f"{kind}_certificate": node.host_key.certificate,
        },
        "users": users,
        "bootcmd": [["cloud-init-per", "instance", "vclust", "sh", "-c", shared]],
    }
    interface = {
        "match": {"macaddress": node.mac},
        "addresses": [f"{node.address}/{request.software.network.prefixlen}"],
        "mtu": mtu,
        "routes": [{"to": "0.0.0.0/0", "via": str(request.router)}],
    }
    meta_data = {"instance-id": node.instance_id, "local-hostname": node.name}
    return {
        "meta-data": json.dumps(meta_data).encode(),
        "user-data": b"#cloud-config\n" + json.dumps(user_data).encode(),
        "network-config": json.dumps({"version": 2, "ethernets": {"cluster": interface}}).encode(),
    }

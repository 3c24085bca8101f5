"""A cluster's keys on the site manager, and what is made of them: a seed for each node, the disk that all share.

They are made before the first node starts.  With each later generation of the cluster's spec come seeds for the nodes
that have none, keys for users that are new, and the shared disk anew; what is there stays.

The folder `keys`, for root only, has the files that ssh(1) needs and `identity.json`: `users` (private key and
certificate by account), `uids` (by user, also of those who are gone) and `secrets` (base64, by name).
"""

import base64
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

from vclust_py import homes, metapackages, seed
from vclust_py.access import user_key
from vclust_py.errors import VclustError
from vclust_py.guest import cluster_disk, fat, trust
from vclust_py.guest.cluster_disk import ClusterIdentity
from vclust_py.guest.tar import File
from vclust_py.guest.trust import Authority, KeyPair
from vclust_py.image.space import naming_full_disk
from vclust_py.lock import Lock
from vclust_py.nodes import identity_disks, seed_disk
from vclust_py.site import clusters
from vclust_py.site.clusters import Cluster
from vclust_py.site.session import Session
from vclust_py.site.settings import Site

_IDENTITY = "identity.json"
_GENERATION = "generation"
"""File with the generation of the spec that the shared disk is of."""


@dataclass(frozen=True)
class _Keys:
    """What is kept of a cluster's identity."""

    authority: Authority
    admin: KeyPair
    users: Mapping[str, KeyPair]
    uids: Mapping[str, int]
    secrets: Mapping[str, bytes]


def ensure(session: Session, cluster: Cluster, mtu: int, files: tuple[File, ...]) -> None:
    """Keys, seeds and the shared disk as the cluster's spec wants them; `files` are what the site adds to the disk.

    `keys/known_hosts`, written last, says that they are whole.  Raises VclustError when a cluster of an earlier version
    has changed, and what is needed for that was not kept.
    """
    folder = clusters.folder(session.store, cluster)
    known_hosts = folder / "keys" / "known_hosts"
    if not known_hosts.exists():
        shutil.rmtree(folder, ignore_errors=True)  # nothing can have started without whole seeds
        folder.mkdir()
        folder.chmod(0o711)  # whatever the umask: hypervisor processes walk through it as a user of their own
        known_hosts.parent.mkdir(mode=0o700)
        keys = _Keys(trust.Authority(), trust.new_key(), {}, {}, {})
    elif _generation(folder) == cluster.generation and all(
        any((folder / name).exists() for name in identity_disks(folder, node.name)[:1])
        for node in cluster.nodes
    ):
        return
    else:
        keys = _kept(folder, cluster)
    keys, identity = _identity(session, cluster, keys, files)
    disks = {cluster_disk.FILE_NAME: cluster_disk.build(identity)}
    for name, address in identity.nodes.items():
        if not (folder / seed_disk(name)).exists():
            node = seed.new_node(name, address, keys.authority)
            disks[seed_disk(name)] = seed.build(node, cluster.request, identity.uids, mtu)
    written = {folder / name: data for name, data in disks.items()}
    written |= {known_hosts.with_name(name): text.encode() for name, text in _files(cluster, keys).items()}
    with naming_full_disk(folder):
        fat.write_all(written)
        fat.write_all(
            {
                known_hosts: keys.authority.known_hosts.encode(),
                known_hosts.with_name(_GENERATION): f"{cluster.generation}\n".encode(),
            }
        )


def shared(session: Session, cluster: Cluster, files: tuple[File, ...]) -> ClusterIdentity:
    """What all nodes of the cluster share, as `ensure` has made it."""
    return _identity(session, cluster, _kept(clusters.folder(session.store, cluster), cluster), files)[1]


def _identity(
    session: Session, cluster: Cluster, keys: _Keys, files: tuple[File, ...]
) -> tuple[_Keys, ClusterIdentity]:
    """The keys with those of new users, and what all nodes share."""
    request, site = cluster.request, session.site
    bundles, lock = metapackages.expand(request, site), Lock.load(site, cluster.lock)
    logins = cluster_disk.logins(request)
    keys = _Keys(
        keys.authority,
        keys.admin,
        {name: keys.users.get(name) or keys.authority.new_user_key(name) for name in logins},
        _numbers(site, cluster, keys.uids),
        {**cluster_disk.new_secrets(bundles), **keys.secrets},
    )
    return keys, ClusterIdentity(
        generation=cluster.generation,
        request=request,
        nodes={node.name: IPv4Address(node.address) for node in cluster.nodes},
        authority=keys.authority,
        user_keys=keys.users,
        admin_key=keys.admin.public,
        # A package of the base that the closure upgrades is there in its newer version only.
        packages=tuple(f"{name}={version}" for name, version in lock.installed().items()),
        meta_packages=bundles,
        secrets=keys.secrets,
        uids=keys.uids,
        files=files,
    )


def _numbers(site: Site, cluster: Cluster, known: Mapping[str, int]) -> dict[str, int]:
    """The users' numbers: those that they have in all clusters of the owner, where their homes are the site's."""
    if not cluster.request.has_site_homes:
        return cluster_disk.new_uids(cluster.request, known)
    users = [user.name for user in cluster.request.software.users]
    owned = homes.prepare(site, cluster.owner, users).users
    return {**known, **{user: owned[user] for user in users}}


def _files(cluster: Cluster, keys: _Keys) -> dict[str, str]:
    """The files of the folder `keys`, but for those that say that it is whole."""
    kept = {
        "users": {name: [key.private, key.certificate] for name, key in keys.users.items()},
        "uids": dict(keys.uids),
        "secrets": {name: base64.b64encode(data).decode() for name, data in keys.secrets.items()},
    }
    # The authority signs for nodes and users that come later.
    files = {"authority": keys.authority.key.private, "admin": keys.admin.private}
    for user, key in keys.users.items():
        name = user_key(cluster.request, user)
        files |= {name: key.private, f"{name}-cert.pub": f"{key.certificate}\n"}
    return {**files, _IDENTITY: json.dumps(kept)}


def _kept(folder: Path, cluster: Cluster) -> _Keys:
    keys = folder / "keys"
    try:
        kept = json.loads((keys / _IDENTITY).read_bytes())
        return _Keys(
            trust.Authority((keys / "authority").read_text(encoding="ascii")),
            trust.kept_key((keys / "admin").read_text(encoding="ascii")),
            {name: trust.kept_key(*key) for name, key in kept["users"].items()},
            kept["uids"],
            {name: base64.b64decode(data) for name, data in kept["secrets"].items()},
        )
    except FileNotFoundError as error:
        raise VclustError(
            f"{cluster.name}: was made by an earlier version, which has not kept what a change needs",
            f"its nodes run on as they are; for another one: vclust destroy {cluster.name}, then create",
        ) from error


def _generation(folder: Path) -> int:
    """Of the shared disk; earlier versions have only made the first."""
    try:
        return int((folder / "keys" / _GENERATION).read_text(encoding="ascii"))
    except FileNotFoundError:
        return 1

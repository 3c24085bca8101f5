"""The way in to a cluster's nodes: ssh through the cluster's router namespace on the site manager."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vclust_py.errors import RequestError, VclustError
from vclust_py.request import Request

SOCKETS = Path("/run/vclust/ssh")
"""A folder for each segment, with a socket for each node, by its name (`vclust_py.ingress`)."""
ACCOUNT = "vclust-ssh"
"""Of the site manager, without rights, and nobody's: what lets people in runs as it."""
KEY_EXCHANGE = "KexAlgorithms=curve25519-sha256"
"""OpenSSH's default, with a post-quantum half, takes emulated nodes half a second more; nothing secret travels."""


def full_name(cluster: str, node: str, site: str = "") -> str:
    """What a node is called wherever its cluster has to be told too: NODE.CLUSTER, at one of several sites
    NODE.CLUSTER.SITE.
    """
    return ".".join([node, cluster, *([site] if site else [])])


def user_key(request: Request, user: str) -> str:
    """The name of the file with that user's key among the cluster's keys."""
    users = request.software.users
    return f"user.{user}" if users and user != users[0].name else "user"


def login_of(cluster: Mapping[str, Any], user: str | None, *, root: bool = False) -> tuple[str, str]:
    """The account and the file of its key; by default those of the request's first user, or root's.

    Raises RequestError where the request has no such user, VclustError where the cluster has no key for them.
    """
    access = keys_of(cluster)
    if root or user == "root" or (user is None and access["user"] == "root"):
        return "root", access["admin_key"]
    user = user or access["user"]
    keys: Mapping[str, str] = access["user_keys"]
    if user not in keys:
        known = ", ".join([*keys, "root"])
        raise RequestError([f"{user}: no such user of {cluster['name']}; there are: {known}"])
    if not Path(keys[user]).exists():  # an earlier version kept the first one's only
        raise VclustError(
            f"{cluster['name']}: has no key of {user} on the site manager, as it was made by an earlier version",
            f"vclust ssh {cluster['name']} --root -- su - {user}",
        )
    return user, keys[user]


def keys_of(cluster: Mapping[str, Any]) -> Mapping[str, Any]:
    """User, network namespace and files of keys, as `vclust_py.site.describe` gives them.

    Raises RequestError where they are not for whom it was asked for.
    """
    access: Mapping[str, Any] = cluster["ssh"]
    if not access:
        raise RequestError(
            [
                f"{cluster['name']}: belongs to {cluster['owner']}: its keys are for its owner, members of its project"
                " and administrators"
            ]
        )
    return access


def local_config(cluster: Mapping[str, Any], user: str, key: str) -> str:
    """An OpenSSH configuration for the site manager's own users: by the sockets of `vclust_py.ingress`."""
    folder = keys_of(cluster)["sockets"]
    return _config(cluster, user, key, lambda node: ["nc", "-N", "-U", f"{folder}/{node['name']}"])


def remote_config(cluster: Mapping[str, Any], user: str, key: str) -> str:
    """An OpenSSH configuration for other machines: by the site's gateway (`vclust_py.gateway`).

    Raises RequestError where the site has none.
    """
    gateway = keys_of(cluster)["gateway"]
    if not gateway:
        raise RequestError(
            [
                f"{cluster['name']}: its site has no gateway for other machines, or no cluster with an SSHKey yet"
            ],
            "vclust_site.gateway opens one (docs/users.md)",
        )
    alias = f"vclust-gateway-{gateway['port']}"
    options = {
        "HostKeyAlias": alias,
        "KnownHostsCommand": f"/bin/echo {alias} {gateway['key']}",
        **_TRUST,
        **({"IdentityFile": key, "IdentitiesOnly": "yes"} if key else {}),
    }
    words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    jump = ["ssh", "-F", "none", "-T", "-p", str(gateway["port"]), *words, f"{ACCOUNT}@{gateway['host']}"]
    return _config(cluster, user, key, lambda node: [*jump, full_name(cluster["name"], node["name"])])


_TRUST = {
    "UserKnownHostsFile": "/dev/null",
    "GlobalKnownHostsFile": "/dev/null",
    "StrictHostKeyChecking": "yes",
}


def _config(
    cluster: Mapping[str, Any], user: str, key: str, way: Callable[[Mapping[str, Any]], Sequence[str]]
) -> str:
    """Nodes are NODE.CLUSTER; `way` gives the words of a node's proxy command."""
    name = cluster["name"]
    (authority,) = Path(keys_of(cluster)["known_hosts"]).read_text(encoding="ascii").splitlines()
    lines = []
    for node in cluster["nodes"]:
        # ssh reads % and quotes in what it hands to the user's shell; none of the words has either.
        proxy = shlex.join(way(node))
        lines += [
            f"Host {full_name(name, node['name'])}",
            f"    HostKeyAlias {node['name']}",
            f"    ProxyCommand {proxy}",
        ]
    lines += [
        f"Host *.{name}",
        f"    User {user}",
        f'    KnownHostsCommand /bin/echo "{authority}"',
        *(f"    {option} {value}" for option, value in _TRUST.items()),
        *([f"    IdentityFile {key}", "    IdentitiesOnly yes"] if key else []),
        "    ServerAliveInterval 30",
    ]
    return "".join(f"{line}\n" for line in lines)


_WAIT = (
    "tries=0; "
    'until nc "$1" 22 2> /dev/null; do '
    "tries=$((tries + 1)); kill -0 $PPID && [ $tries -lt 500 ] || exit 1; sleep 0.2; done"
)
"""Of a shell's text: connects as soon as sshd listens.  It ends with the ssh that it does so for, or soon after."""


def ssh_options(cluster: Mapping[str, Any], node: Mapping[str, Any], *, wait: bool = False) -> list[str]:
    """Options of ssh(1) that reach `node`, without user and key; the arguments are parts of what
    `vclust_py.site.describe` gives.

    With `wait` its sshd may not listen yet; ssh's ConnectTimeout says for how long.  The name given to ssh is free: the
    address is in the proxy command, as networks of clusters may overlap.
    """
    access, address = keys_of(cluster), node["address"]
    connect = ["sh", "-c", _WAIT, "sh", address] if wait else ["nc", address, "22"]
    options = {
        "HostKeyAlias": node["name"],
        "UserKnownHostsFile": access["known_hosts"],
        "GlobalKnownHostsFile": "/dev/null",
        "StrictHostKeyChecking": "yes",
        "IdentitiesOnly": "yes",
        # A session to a node that has gone ends after a minute and a half, instead of never.
        "ServerAliveInterval": "30",
        "ProxyCommand": shlex.join(["ip", "netns", "exec", access["netns"], *connect]),
    }
    return [word for name, value in options.items() for word in ("-o", f"{name}={value}")]


def program_login(
    access: Mapping[str, Any],
    name: str,
    address: str,
    *command: str,
    user: str = "root",
    patience: int = 30,
    wait: bool = False,
) -> list[str]:
    """The argv of ssh(1) by which vclust itself runs a command in the node of that name and address, asking nobody.

    `access` is that of `vclust_py.site.describe.way_in`; `patience`: seconds to connect; `wait`: its
    sshd may not listen yet.
    """
    options = ["BatchMode=yes", f"ConnectTimeout={patience}", KEY_EXCHANGE]
    return [
        *(
            "ssh",
            "-F",
            "/dev/null",
            *ssh_options({"ssh": access}, {"name": name, "address": address}, wait=wait),
        ),
        *(word for option in options for word in ("-o", option)),
        *("-i", access["admin_key" if user == "root" else "key"], f"{user}@{name}", *command),
    ]

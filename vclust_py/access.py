"""The way in to a cluster's nodes: ssh through the cluster's router namespace on the site manager."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vclust_py.errors import RequestError, VclustError
from vclust_py.request import Request


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


def ssh_options(cluster: Mapping[str, Any], node: Mapping[str, Any]) -> list[str]:
    """Options of ssh(1) that reach `node`, without user and key; the arguments are parts of what
    `vclust_py.site.describe` gives.

    The name given to ssh is free: the address is in the proxy command, as networks of clusters may overlap.
    """
    access = keys_of(cluster)
    options = {
        "HostKeyAlias": node["name"],
        "UserKnownHostsFile": access["known_hosts"],
        "GlobalKnownHostsFile": "/dev/null",
        "StrictHostKeyChecking": "yes",
        "IdentitiesOnly": "yes",
        # A session to a node that has gone ends after a minute and a half, instead of never.
        "ServerAliveInterval": "30",
        "ProxyCommand": shlex.join(["ip", "netns", "exec", access["netns"], "nc", node["address"], "22"]),
    }
    return [word for name, value in options.items() for word in ("-o", f"{name}={value}")]

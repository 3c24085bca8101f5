"""The way in to a cluster's nodes: ssh through the cluster's router namespace on the site manager."""

import shlex
from collections.abc import Mapping
from typing import Any

from vclust_py.errors import RequestError


def keys_of(cluster: Mapping[str, Any]) -> Mapping[str, str]:
    """User, network namespace and files of keys, as `vclust_py.site.describe` gives them.

    Raises RequestError where they are not for whom it was asked for.
    """
    access: Mapping[str, str] = cluster["ssh"]
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

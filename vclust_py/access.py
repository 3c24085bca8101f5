"""The way in to a cluster's nodes: ssh through the cluster's router namespace on the site manager."""

import shlex
from collections.abc import Mapping
from typing import Any


def ssh_options(cluster: Mapping[str, Any], node: Mapping[str, Any]) -> list[str]:
    """Options of ssh(1) that reach `node`, without user and key; the arguments are parts of what
    `vclust_py.site.describe` gives.

    The name given to ssh is free: the address is in the proxy command, as networks of clusters may overlap.
    """
    access = cluster["ssh"]
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

"""`vclust ssh` and `vclust scp`: into a cluster's nodes, by OpenSSH with the same keys and known hosts."""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from vclust_py.arguments import Reference, checked
from vclust_py.cli import sites
from vclust_py.cli.liveness import require_running
from vclust_py.errors import RequestError, VclustError

_REMOTE = "[SITE/][NODE.]NAME:PATH"


def ssh(arguments: argparse.Namespace) -> int:
    host, options = _way_in(arguments, arguments.node)
    # ssh would look for options of its own in words after the host, too.
    _become(["ssh", *options, "--", host, *arguments.remote])


def ssh_config(arguments: argparse.Namespace) -> int:
    """Print a configuration for those who are not root: here, or on other machines."""
    from vclust_py.access import keys_of, local_config, login_of, remote_config

    _, cluster = sites.cluster(arguments)
    name, first = cluster["name"], node_of(cluster, None)["name"]
    access = keys_of(cluster)
    user, _ = login_of(cluster, arguments.user)
    key = arguments.key or ""
    if arguments.elsewhere:
        text = remote_config(cluster, user, key)
    elif Path(access["sockets"], first).exists():
        text = local_config(cluster, user, key)
    else:
        raise VclustError(
            f"{name}: nobody but root reaches it on this machine: its owner is {cluster['owner']}",
            f"vclust ssh {name}, as root; clusters of other accounts, of projects, and those that administrators may"
            " reach are open to these without root",
        )
    where = "another machine" if arguments.elsewhere else "this machine"
    print(f"# OpenSSH, on {where}: save this as FILE, then ssh -F FILE {first}.{name}")
    print(text, end="")
    return 0


def scp(arguments: argparse.Namespace) -> int:
    """Paths go to scp as they are: it speaks SFTP with the node, and no shell on either side sees them."""
    *sources, target = [_Place.of(word) for word in arguments.paths]
    if not sources:
        raise RequestError([f"scp: got one path, expected SOURCE… TARGET, one side of them {_REMOTE}"])
    if len({source.remote for source in sources}) > 1 or sources[0].remote == target.remote:
        raise RequestError(
            [f"scp: got paths that are not all of one cluster on one side, expected {_REMOTE} there"],
            "a local file whose name has a colon: ./NAME; from node to node: vclust ssh NAME -- scp …",
        )
    remotes = {(str(place.cluster), place.node): place for place in (*sources, target) if place.remote}
    if len(remotes) > 1:
        raise RequestError(["scp: got files of several nodes, expected those of one"])
    (place,) = remotes.values()
    arguments.cluster = place.cluster
    host, options = _way_in(arguments, place.node)
    flags = [*(["-r"] if arguments.recursive else []), *(["-p"] if arguments.preserve else [])]
    words = [f"{host}:{one.path}" if one.remote else one.path for one in (*sources, target)]
    _become(["scp", *options, *flags, "--", *words])


@dataclass(frozen=True)
class _Place:
    """A file or folder: of a node where there is a `cluster`, else of this machine."""

    path: str
    cluster: Reference | None = None
    node: str | None = None
    """Its name or number; None for the first node that has not failed."""

    @property
    def remote(self) -> bool:
        return self.cluster is not None

    @classmethod
    def of(cls, word: str) -> "_Place":
        """Raises RequestError for a colon without a cluster's name before it."""
        where, colon, path = word.partition(":")
        if not colon or where.startswith((".", "/")):
            # scp takes what begins with a dash for an option, and what has a colon for another machine's.
            return cls(word if word.startswith((".", "/")) else f"./{word}")
        site, slash, name = where.rpartition("/")
        node, dot, name = name.rpartition(".")
        cluster = checked(_REMOTE, "reference", f"{site}{slash}{name}")
        return cls(path, cluster, checked(_REMOTE, "node", node) if dot else None)


def _way_in(arguments: argparse.Namespace, wanted: str | None) -> tuple[str, list[str]]:
    """The name of the node for OpenSSH, and the options that reach it as the user that was asked for.

    Raises RequestError for no such node or a cluster of others, VclustError where the cluster cannot be reached.
    """
    from vclust_py.access import keys_of, login_of, ssh_options

    site, cluster = sites.cluster(arguments)
    node = node_of(cluster, wanted)
    access = keys_of(cluster)
    if node["state"] == "placed":
        raise VclustError(
            f"{cluster['name']}: {node['name']} was not started yet",
            "`vclust create` with its request goes on",
        )
    if cluster["state"] == "stopped":
        raise VclustError(f"{cluster['name']}: is stopped", f"vclust start {cluster['name']}")
    if not Path("/run/netns", access["netns"]).exists():
        raise VclustError(
            f"{cluster['name']}: its network is not there; was this machine restarted?",
            "`vclust create` with its request starts its nodes again",
        )
    require_running(arguments, site, cluster, node)
    user, key = login_of(cluster, arguments.user, root=arguments.as_root)
    # It runs: what is left is a node that starts, or is very busy.
    options = ["-F", "/dev/null", "-o", "ConnectTimeout=60", *ssh_options(cluster, node)]
    options += ["-i", key, "-o", f"User={user}"]
    return f"{node['name']}.{cluster['name']}", options


def node_of(cluster: Mapping[str, Any], wanted: str | None) -> Mapping[str, Any]:
    """The node of that name, else of that number from 1 on; where none is wanted the first that has not failed.

    Raises RequestError where there is no such node, VclustError where there are none yet.
    """
    nodes: Sequence[Mapping[str, Any]] = cluster["nodes"]
    if not nodes:
        raise VclustError(f"{cluster['name']}: no nodes yet, its state is {cluster['state']}")
    if wanted is None:
        return next((node for node in nodes if node["state"] != "failed"), nodes[0])
    by_name = {node["name"]: node for node in nodes}
    if wanted in by_name:
        return by_name[wanted]
    if wanted.isdecimal() and 1 <= int(wanted) <= len(nodes):
        return nodes[int(wanted) - 1]
    raise RequestError(
        [f"{wanted}: no such node of {cluster['name']}; there are: {', '.join(by_name)}"],
        f"a number from 1 to {len(nodes)} does as well",
    )


def _become(argv: list[str]) -> NoReturn:
    sys.stdout.flush()
    try:
        os.execvp(argv[0], argv)  # noqa: S606 - an argument list, no shell
    except FileNotFoundError:
        raise VclustError(f"{argv[0]} is not installed", "apt-get install openssh-client") from None

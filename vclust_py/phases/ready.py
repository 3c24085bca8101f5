"""Phase `ready`: every node checks itself, then the cluster is proved from outside.

Logging in to every node from outside would cost an emulated node seconds of CPU; so every node checks itself, and one
login to the first node tries the way to all others.
"""

import re
import shlex
import time
from collections.abc import Sequence

from vclust_py import metapackages, network, timing
from vclust_py.access import ssh_options
from vclust_py.cache import background
from vclust_py.errors import VclustError
from vclust_py.guest import console
from vclust_py.nodes import drivers_of, facts, require_min_nodes
from vclust_py.phases import Inputs, Result
from vclust_py.site import clusters
from vclust_py.site.clusters import Cluster, Node
from vclust_py.site.describe import way_in
from vclust_py.site.session import Session
from vclust_py.site.states import ClusterState, NodeState

_LOGIN_TIMEOUT = 300.0
_LOGIN_OUTPUT = 1 << 20
"""Bytes that the proof may print: a few lines for each of 4096 nodes."""

_KEY_EXCHANGE = "KexAlgorithms=curve25519-sha256"
"""OpenSSH's default, with a post-quantum half, takes emulated nodes half a second more; nothing secret travels."""

# The names are checked host names, so they stand for themselves.  All logins at once, and one login to each node:
# MPI's own ssh goes through the connections that are open already.
_LOGIN = """
set -u
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
for node in {others}; do
  ssh -o BatchMode=yes -o ConnectTimeout=60 -o {exchange} -o ControlMaster=yes -o ControlPersist=20 \
    -o ControlPath="$work/%n.master" "$node" hostname > "$work/$node" 2>&1 &
done
wait
echo "vclust: login {first} $(hostname)"
for node in {others}; do echo "vclust: login $node $(tr '\\n' ' ' < "$work/$node")"; done
"""

# The hosts are those that work: with MinNodes the node's own list may name others.
_MPI = """
if command -v mpiexec > /dev/null; then
  program=/usr/libexec/vclust/mpi-hello
  [ -x $program ] || program=hostname
  printf '%s\\n' {names} > "$work/hosts"
  export HYDRA_HOST_FILE="$work/hosts" OMPI_MCA_orte_default_hostfile="$work/hosts"
  export PRTE_MCA_prte_default_hostfile="$work/hosts"
  export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
  export HYDRA_LAUNCHER_EXTRA_ARGS="-o ControlPath=$work/%n.master"
  export OMPI_MCA_plm_rsh_args=$HYDRA_LAUNCHER_EXTRA_ARGS
  mpiexec -n {count} $program 2>&1 | sed 's/^/vclust: mpi /'
else
  echo "vclust: mpi none"
fi
"""

_CHECK = """
if output=$(VCLUST_NODES={count} sh -c {command} 2>&1); then echo "vclust: check {name} passed"
else echo "vclust: check {name} failed: $(echo "$output" | tail -n 3 | tr '\\n' ' ')"; fi
"""


def run(session: Session, inputs: Inputs) -> Result:
    """Wait for every node's own check, then log in as a user would, and run MPI across the nodes if there is one.

    Raises VclustError with what did not work.
    """
    store = session.store
    with clusters.locked(store, inputs.name) as cluster:
        change = console.expected(cluster, NodeState.READY)
        if inputs.check or (not change.changed and cluster.state is ClusterState.READY):
            return Result(change, {"lost": _lost(cluster)})
        with timing.phase(store, cluster, "ready") as record:
            drivers, errors = drivers_of(session, cluster)
            require_min_nodes(cluster, errors)
            record.facts = facts(cluster, drivers)
            console.follow(session, cluster, NodeState.READY, drivers, errors, record)
            cluster = clusters.get(store, inputs.name)
            nodes = [node for node in cluster.nodes if node.state is NodeState.READY]
            record.report("log in, try the way to every node")
            begun = time.time()
            record.facts |= _prove(session, cluster, nodes) | {"proof_seconds": time.time() - begun}
        lost = _lost(cluster)
        detail = f"without {', '.join(lost)}, which failed (MinNodes allows it)" if lost else ""
        clusters.update(store, cluster, state=ClusterState.READY, ready=time.time(), detail=detail)
    background.start_if_due(session)
    return Result(console.reached(change, cluster), {"lost": lost})


def _lost(cluster: Cluster) -> list[str]:
    return [node.name for node in cluster.nodes if node.state is NodeState.FAILED]


def _prove(session: Session, cluster: Cluster, nodes: Sequence[Node]) -> dict[str, object]:
    """One login to the first node that tries everything; what it says must hold for every node."""
    names = [node.name for node in nodes]
    script = _LOGIN.format(first=names[0], others=" ".join(names[1:]), exchange=_KEY_EXCHANGE)
    script += _MPI.format(count=len(names), names=" ".join(names))
    checks = [bundle for bundle in metapackages.expand(cluster.request, session.site) if bundle.check]
    for bundle in checks:
        command = shlex.quote(bundle.check or "")
        script += _CHECK.format(count=len(names), command=command, name=bundle.name)
    output = _login(session, cluster, nodes[0], script)
    said: dict[str, list[str]] = {"login": [], "mpi": [], "check": []}
    for word, rest in re.findall(r"^vclust: (login|mpi|check) (.*)$", output, re.MULTILINE):
        said[word].append(rest.strip())
    expected = {f"{node} {node}" for node in names}
    if missing := expected - set(said["login"]):
        found = (
            "; ".join(line for line in said["login"] if line not in expected) or output.strip() or "nothing"
        )
        raise VclustError(
            f"{cluster.name}: no login to {', '.join(sorted(m.split()[0] for m in missing))}: {found}",
            "this machine filters what passes bridges (net.bridge.bridge-nf-call-iptables = 1)"
            if network.filtered()
            else None,
        )
    if said["mpi"] != ["none"] and not mpi_reaches(said["mpi"], names):
        raise VclustError(f"{cluster.name}: MPI does not reach every node:\n  " + "\n  ".join(said["mpi"]))
    for bundle in checks:
        if f"{bundle.name} passed" not in said["check"]:
            raise VclustError(f"{cluster.name}: meta package: " + "; ".join(said["check"] or ["no answer"]))
    return {"mpi": said["mpi"] != ["none"], "checks": [bundle.name for bundle in checks]}


_RANK = re.compile(r"rank ([0-9]{1,9}) of ([0-9]{1,9}) on (\S+)")


def mpi_reaches(lines: Sequence[str], names: Sequence[str]) -> bool:
    """Whether `lines` show one MPI program with a rank on each node; other lines are warnings of the MPI.

    Without a program to run (no compiler, no Python in the node) mpiexec has run hostname on every node.
    """
    found = [match for line in lines if (match := _RANK.fullmatch(line))]
    if not found:
        return set(names) <= set(lines)
    return (
        {int(match[1]) for match in found} == set(range(len(names)))
        and {int(match[2]) for match in found} == {len(names)}
        and {match[3] for match in found} == set(names)
    )


def _login(session: Session, cluster: Cluster, node: Node, script: str) -> str:
    access = way_in(session.store, cluster)
    user = access["user"]
    key = access["admin_key" if user == "root" else "key"]
    reached = ssh_options({"ssh": access}, {"name": node.name, "address": node.address})
    argv = ["ssh", "-F", "/dev/null", *reached]
    argv += [
        "-o",
        "BatchMode=yes",
        "-o",
        "ConnectTimeout=60",
        "-o",
        _KEY_EXCHANGE,
        "-i",
        key,
        f"{user}@{node.name}",
        "sh",
        "-s",
    ]
    return session.run(argv, stdin=script, timeout=_LOGIN_TIMEOUT, limit=_LOGIN_OUTPUT)

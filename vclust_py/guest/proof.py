"""The proof that a cluster works: one login to its first node tries the way to all others, MPI and the checks.

The first node may have 512 MB, of which a connection takes 2 MB while it lasts: nodes are tried in groups, one after
the other, so that the number of connections does not grow with the cluster.  The scripts come by standard input: no
list of names is an argument of a process.
"""

import re
import shlex
from collections.abc import Sequence

from vclust_py import network
from vclust_py.access import KEY_EXCHANGE
from vclust_py.errors import VclustError
from vclust_py.metapackages import MetaPackage

GROUP = 32
"""Nodes that are tried at once, the first one included."""
OUTPUT_LIMIT = 1 << 20
"""Bytes that the scripts may print: a few lines for each of 4096 nodes."""
CHECK_LINES = 300
"""Last lines of a check that failed; the error shows some of them."""
_SHOWN_LINES = 10
_FIRST_GROUP_TIMEOUT = 300.0
_GROUP_TIMEOUT = 60.0

# The names are checked host names, so they stand for themselves.  One login to each node: MPI's own ssh goes through
# the connections that are open already.  MPI runs on the hosts that work: with MinNodes the node's own list may name
# others.
_FUNCTIONS = f"""
set -u
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
control="-o ControlPath=$work/%n.master"

log_in() {{ # names on standard input, which stay in $work/group
  cat > "$work/group"
  while read -r node; do
    ssh -o BatchMode=yes -o ConnectTimeout=60 -o {KEY_EXCHANGE} -o ControlMaster=yes -o ControlPersist=20 \\
      $control "$node" hostname < /dev/null > "$work/$node" 2>&1 &
  done < "$work/group"
  wait
  while read -r node; do
    echo "vclust: login $node $(tr '\\n' ' ' < "$work/$node")"
  done < "$work/group"
}}

run_mpi() {{ # FIRST COUNT NUMBER
  command -v mpiexec > /dev/null || {{ echo "vclust: mpi $3 none"; return; }}
  program=/usr/libexec/vclust/mpi-hello
  [ -x $program ] || program=hostname
  {{ echo "$1"; cat "$work/group"; }} > "$work/hosts"
  export HYDRA_HOST_FILE="$work/hosts" OMPI_MCA_orte_default_hostfile="$work/hosts"
  export PRTE_MCA_prte_default_hostfile="$work/hosts"
  export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
  export HYDRA_LAUNCHER_EXTRA_ARGS="$control" OMPI_MCA_plm_rsh_args="$control"
  mpiexec -n "$2" $program < /dev/null 2>&1 | sed "s/^/vclust: mpi $3 /"
}}

log_out() {{ # before the next group; the last one's connections end by themselves
  while read -r node; do
    ssh $control -O exit "$node" < /dev/null > /dev/null 2>&1
  done < "$work/group"
}}

check() {{ # NAME NODES COMMAND
  if output=$(VCLUST_NODES=$2 sh -c "$3" 2>&1 < /dev/null); then echo "vclust: check $1 passed"
  else
    echo "vclust: check $1 failed: exit status $?"
    printf '%s\\n' "$output" | tail -n {CHECK_LINES} | sed "s/^/vclust: check $1 said: /"
  fi
}}
"""


def groups(names: Sequence[str]) -> list[list[str]]:
    """The names in groups of at most GROUP; every group begins with the first one, from which all others are tried."""
    first, *others = names
    size = GROUP - 1
    return [[first, *others[start : start + size]] for start in range(0, max(len(others), 1), size)]


def timeout(names: Sequence[str]) -> float:
    """Seconds after which the proof counts as hung."""
    return _FIRST_GROUP_TIMEOUT + _GROUP_TIMEOUT * (len(groups(names)) - 1)


def script(names: Sequence[str], checks: Sequence[MetaPackage]) -> str:
    """What the first of the nodes `names` is to run, as the cluster's user, to try them all; to be given to `sh -s`."""
    tries = []
    for number, (first, *others) in enumerate(groups(names)):
        listed = "".join(f"{name}\n" for name in others)
        tries.append(f"log_in << 'END'\n{listed}END\nrun_mpi {first} {len(others) + 1} {number}\n")
    said = f'echo "vclust: login {names[0]} $(hostname)"\n'
    asked = "".join(
        f"check {bundle.name} {len(names)} {shlex.quote(bundle.check or '')}\n" for bundle in checks
    )
    return _FUNCTIONS + said + "log_out\n".join(tries) + asked


def judge(
    cluster: str, output: str, names: Sequence[str], checks: Sequence[MetaPackage]
) -> dict[str, object]:
    """What the script's output proves.  Raises VclustError with what did not work."""
    said: dict[str, list[str]] = {"login": [], "mpi": [], "check": []}
    for word, rest in re.findall(r"^vclust: (login|mpi|check) (.*)$", output, re.MULTILINE):
        said[word].append(rest.strip())
    expected = {f"{node} {node}" for node in names}
    if missing := expected - set(said["login"]):
        found = (
            "; ".join(line for line in said["login"] if line not in expected) or output.strip() or "nothing"
        )
        raise VclustError(
            f"{cluster}: no login to {', '.join(sorted(m.split()[0] for m in missing))}: {found}",
            "this machine filters what passes bridges (net.bridge.bridge-nf-call-iptables = 1)"
            if network.filtered()
            else None,
        )
    has_mpi = False
    for number, group in enumerate(groups(names)):
        prefix = f"{number} "
        lines = [line.removeprefix(prefix) for line in said["mpi"] if f"{line} ".startswith(prefix)]
        if lines == ["none"]:
            continue
        has_mpi = True
        if not mpi_reaches(lines, group):
            raise VclustError(f"{cluster}: MPI does not reach every node:\n  " + "\n  ".join(lines))
    for bundle in checks:
        if f"{bundle.name} passed" not in said["check"]:
            raise VclustError(_failed(cluster, bundle, said["check"]))
    return {"mpi": has_mpi, "checks": [bundle.name for bundle in checks]}


def _failed(cluster: str, bundle: MetaPackage, lines: Sequence[str]) -> str:
    """The command that was to succeed, how it ended, and its last lines: who reads that may have no other way in."""
    own = [line.removeprefix(f"{bundle.name} ") for line in lines if line.startswith(f"{bundle.name} ")]
    ended = next((line.removeprefix("failed: ") for line in own if line.startswith("failed: ")), "no answer")
    output = [f"    {line.removeprefix('said: ')}" for line in own if line.startswith("said: ")]
    start = f"{cluster}: the check of meta package {bundle.name} failed, {ended}: {bundle.check}"
    return "\n".join([start, *output[-_SHOWN_LINES:]])


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

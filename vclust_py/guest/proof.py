"""The proof that a cluster works: one login to its first node tries the way to all others, MPI and the checks.

Of a cluster that has got more nodes it is a login to the first new one, so that those that were proved before are left
alone.

The first node may have 512 MB, of which a connection takes 2 MB while it lasts: nodes are tried in groups, one after
the other, so that the number of connections does not grow with the cluster.  The scripts come by standard input, line
by line (`vclust_py.guest.prover`): no list of names is an argument of a process.
"""

import re
import shlex
from collections.abc import Mapping, Sequence

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

# The names are checked host names, so they stand for themselves.  One login to each node: where MPI's own ssh has not
# logged in to them itself, it goes through the connections that are open already.  MPI runs on the hosts that work:
# with MinNodes the node's own list may name others.  A process costs an emulated node some 0.03 s, so what the shell
# can do itself it does.
FUNCTIONS = f"""\
set -u
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
control="-o ControlPath=$work/%n.master"
login="-o BatchMode=yes -o StrictHostKeyChecking=yes -o UpdateHostKeys=no -o ConnectTimeout=60 -o {KEY_EXCHANGE}"

try() {{ # NODE ATTEMPTS: a login, once a second until its sshd listens; it stays open
  {{
    ssh $login -o ConnectionAttempts="$2" -o ControlMaster=yes -o ControlPersist=60 $control "$1" hostname \\
      < /dev/null > "$work/$1.said" 2>&1
    said=
    while IFS= read -r line || [ -n "$line" ]; do said="$said $line"; done < "$work/$1.said"
    echo "vclust: login $1$said"
  }} &
}}

reach() {{ # NODE, which was proved before: an echo costs it nothing; a login only where none comes
  ping -q -c 1 -w 5 "$1" > /dev/null 2>&1 ||
    ssh -o BatchMode=yes -o StrictHostKeyChecking=yes -o ConnectTimeout=60 -o {KEY_EXCHANGE} "$1" : < /dev/null || {{
      echo "does not reach $1"
      return 1
    }}
}}

leave() {{ # NODE
  ssh $control -O exit "$1" < /dev/null > /dev/null 2>&1
}}

node() {{ # NODE: one of those that the next MPI program runs on
  echo "$1" >> "$work/hosts"
}}

mpi() {{ # NUMBER COUNT [ATTEMPTS]: by the logins that are open, or with ATTEMPTS by new ones, as `try` makes them
  way=$control
  [ $# = 2 ] || way="$login -o ConnectionAttempts=$3"
  if command -v mpiexec > /dev/null; then
    program=/usr/libexec/vclust/mpi-hello
    [ -x $program ] || program=hostname
    export HYDRA_HOST_FILE="$work/hosts" OMPI_MCA_orte_default_hostfile="$work/hosts"
    export PRTE_MCA_prte_default_hostfile="$work/hosts"
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
    export HYDRA_LAUNCHER_EXTRA_ARGS="$way" OMPI_MCA_plm_rsh_args="$way"
    # Hydra waits without end for a node whose login has failed (MPICH's issue 1620).
    [ -x "$work/launch" ] || {{
      printf '%s\n' '#!/bin/sh' 'ssh "$@"' '[ $? != 255 ] || kill -s KILL $PPID' > "$work/launch"
      chmod +x "$work/launch"
    }}
    export HYDRA_LAUNCHER_EXEC="$work/launch"
    mpiexec -n "$2" $program < /dev/null 2>&1 |
      while IFS= read -r line || [ -n "$line" ]; do echo "vclust: mpi $1 $line"; done
  else echo "vclust: mpi $1 none"
  fi
  : > "$work/hosts"
  echo "vclust: done mpi $1"
}}

check() {{ # NAME NODES COMMAND
  if output=$(VCLUST_NODES=$2 sh -c "$3" 2>&1 < /dev/null); then echo "vclust: check $1 passed"
  else
    echo "vclust: check $1 failed: exit status $?"
    printf '%s\\n' "$output" | tail -n {CHECK_LINES} | sed "s/^/vclust: check $1 said: /"
  fi
  echo "vclust: done check $1"
}}
"""
"""What the first node's `sh -s` is given first.  Each function says in a line of `LINE` what it has come to."""
LINE = re.compile(r"^vclust: (login|mpi|check|done) (.*)$", re.MULTILINE)


def greeting(first: str, known: str = "") -> str:
    """The functions, and the first line that the node `first` is to say, once it reaches the node `known`, if any."""
    way = f"reach {known} || exit 1\n" if known not in ("", first) else ""
    return f'{FUNCTIONS}{way}echo "vclust: login {first} $(hostname)"\n'


def tries(names: Sequence[str], attempts: int) -> str:
    """Logins to these nodes, side by side."""
    return "".join(f"try {name} {attempts}\n" for name in names)


def mpi_run(number: int, names: Sequence[str], attempts: int = 0) -> str:
    """An MPI program over these nodes, the first one leads; with `attempts` MPI logs in to the others by itself."""
    asked = f"mpi {number} {len(names)}" + (f" {attempts}" if attempts else "")
    return "".join(f"node {name}\n" for name in names) + f"{asked}\n"


def check_runs(checks: Sequence[MetaPackage], nodes: int) -> str:
    """The checks of these meta packages, which are told how many nodes there are."""
    return "".join(f"check {one.name} {nodes} {shlex.quote(one.check or '')}\n" for one in checks)


def timeout(names: Sequence[str]) -> float:
    """Seconds after which the proof counts as hung."""
    return _FIRST_GROUP_TIMEOUT + _GROUP_TIMEOUT * (max(len(names) - 2, 0) // (GROUP - 1))


def judge(
    cluster: str,
    output: str,
    names: Sequence[str],
    runs: Mapping[int, Sequence[str]],
    checks: Sequence[MetaPackage],
    direct: Sequence[str] = (),
) -> dict[str, object]:
    """What the output proves of the nodes `names`; `runs` are the nodes of each MPI run that counts, by its number.

    `direct` are nodes that MPI has logged in to by itself, in one of these runs.  Raises VclustError with what did not
    work.
    """
    said: dict[str, list[str]] = {"login": [], "mpi": [], "check": [], "done": []}
    for word, rest in LINE.findall(output):
        said[word].append(rest.strip())
    expected = {f"{node} {node}" for node in names if node not in direct}
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
    for number, group in runs.items():
        prefix = f"{number} "
        lines = [line.removeprefix(prefix) for line in said["mpi"] if f"{line} ".startswith(prefix)]
        if lines == ["none"]:
            continue
        has_mpi = True
        if not mpi_reaches(lines, group):
            raise VclustError(f"{cluster}: MPI does not reach every node:\n  " + "\n  ".join(lines))
    if left := sorted(set(names).difference(*runs.values())):
        raise VclustError(f"{cluster}: MPI was not tried on {', '.join(left)}")
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

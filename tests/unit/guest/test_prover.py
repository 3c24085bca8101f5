"""The proof while nodes report: a real shell in the first node's place, with an ssh and an mpiexec of our own."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from anode import NODE

from vclust_py.conversation import Conversation, Talk
from vclust_py.errors import VclustError
from vclust_py.guest import proof
from vclust_py.guest.prover import Prover
from vclust_py.metapackages import MetaPackage
from vclust_py.site.clusters import Node
from vclust_py.site.states import NodeState

CHECK = MetaPackage("demo", "a demonstration", (), check="true")

# A node is reached when there is a file of its name in `up`; `open` has the connections, `most` how many there were.
SSH = """#!/bin/sh
for word; do node=$last last=$word; done
case "$*" in
*"-O exit"*) rm "$FAKE/open/$last" ;;
*)
  echo "$node" >> "$FAKE/tries"
  [ -e "$FAKE/up/$node" ] || { echo "ssh: connect to host $node: refused"; exit 255; }
  : > "$FAKE/open/$node"; ls "$FAKE/open" | wc -l >> "$FAKE/most"; echo "$node" ;;
esac
"""
MPIEXEC = """#!/bin/sh
[ -e "$FAKE/mpi" ] || { echo "mpi: not yet"; exit 1; }
case "$HYDRA_LAUNCHER_EXTRA_ARGS" in
*ConnectionAttempts*)
  sed 1d "$HYDRA_HOST_FILE" > "$FAKE/others"
  while read -r node; do
    ssh $HYDRA_LAUNCHER_EXTRA_ARGS "$node" proxy < /dev/null || exit 1
    rm "$FAKE/open/$node"
  done < "$FAKE/others" > "$FAKE/said" || { cat "$FAKE/said"; exit 1; } ;;
esac
rank=0
while read -r node; do echo "rank $rank of $2 on $node"; rank=$((rank + 1)); done < "$HYDRA_HOST_FILE"
"""


class Bed:
    """What the nodes are like, and the logins to the first."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.logins, self.talks = folder, list[tuple[str, bool]](), list[Conversation]()
        self.shell = "sh"
        for name in ("up", "open", "bin"):
            (folder / name).mkdir()
        (folder / "mpi").touch()
        for name, body in (("ssh", SSH), ("mpiexec", MPIEXEC), ("hostname", '#!/bin/sh\necho "$FIRST"\n')):
            (folder / "bin" / name).write_text(body)
            (folder / "bin" / name).chmod(0o755)

    def log_in(self, node: Node, wait: bool) -> Talk:
        self.logins.append((node.name, wait))
        path = f"PATH={self.folder}/bin:/usr/bin:/bin"
        settings = [path, f"FAKE={self.folder}", f"TMPDIR={self.folder}", f"FIRST={node.name}"]
        self.talks.append(Conversation(["env", "-i", *settings, *self.shell.split(), "-s"]))
        return self.talks[-1]

    def reach(self, *names: str) -> None:
        for name in names:
            (self.folder / "up" / name).touch()

    def tries(self) -> list[str]:
        path = self.folder / "tries"
        return path.read_text().split() if path.exists() else []


@pytest.fixture
def bed(tmp_path: Path) -> Iterator[Bed]:
    bed = Bed(tmp_path)
    yield bed
    assert all(talk.ended for talk in bed.talks)


def nodes_of(count: int, state: NodeState = NodeState.INSTALLED) -> list[Node]:
    return [replace(NODE, name=f"n{number}", state=state) for number in range(1, count + 1)]


def a_prover(bed: Bed, nodes: Sequence[Node], checks: Sequence[MetaPackage] = ()) -> Prover:
    return Prover("x", nodes, checks, bed.log_in)


def until(prover: Prover, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, prover.output
        prover.work(0.01)


def test_all_is_proven_before_the_last_report(bed: Bed) -> None:
    """But for the checks, which may need what comes last in a node's boot."""
    nodes = nodes_of(3)
    bed.reach("n2", "n3")
    with a_prover(bed, nodes, [CHECK]) as prover:
        until(prover, lambda: "vclust: done mpi 0" in prover.output)
        assert "vclust: check" not in prover.output
        for node in nodes:
            prover.saw(node.name, NodeState.READY)
        assert prover.finish(nodes) == {"mpi": True, "checks": ["demo"]}
        assert prover.output.count("vclust: done") == 2
    assert bed.logins == [("n1", True)]
    assert sorted(bed.tries()) == ["n2", "n3"]


def test_mpi_logs_in_by_itself_where_it_can(bed: Bed) -> None:
    """Then nobody else does, and one login each is all; a cluster without MPI has one each as well."""
    bed.reach("n2", "n3")
    with a_prover(bed, nodes_of(3, NodeState.READY)) as prover:
        assert prover.finish(nodes_of(3))["mpi"]
        assert "login n2" not in prover.output
    assert bed.tries() == ["n2", "n3"]
    (bed.folder / "tries").unlink()
    (bed.folder / "bin/mpiexec").unlink()
    with a_prover(bed, nodes_of(3, NodeState.READY)) as prover:
        assert not prover.finish(nodes_of(3))["mpi"]
        assert "vclust: login n2 n2" in prover.output
    assert sorted(bed.tries()) == ["n2", "n3"]


def test_nodes_that_have_all_reported(bed: Bed) -> None:
    bed.reach("n2")
    with a_prover(bed, nodes_of(2, NodeState.READY)) as prover:
        assert prover.finish(nodes_of(2)) == {"mpi": True, "checks": []}
    assert bed.logins == [("n1", False)]


def test_one_node_and_no_mpi(bed: Bed) -> None:
    (bed.folder / "bin/mpiexec").unlink()
    with a_prover(bed, nodes_of(1)) as prover:
        assert prover.finish(nodes_of(1)) == {"mpi": False, "checks": []}


def test_nobody_logs_in_before_the_installer_is_done(bed: Bed) -> None:
    with a_prover(bed, nodes_of(2, NodeState.STARTED)) as prover:
        prover.work(0.05)
        assert bed.logins == []
        prover.saw("n1", NodeState.INSTALLED)
        until(prover, lambda: "login n1" in prover.output)
        prover.work(0.05)
        assert bed.tries() == []
        prover.saw("n2", NodeState.INSTALLED)
        until(prover, lambda: "login n2" in prover.output)


def test_a_node_that_refuses_is_tried_again_when_it_has_reported(bed: Bed) -> None:
    bed.reach("n3")
    with a_prover(bed, nodes_of(3)) as prover:
        until(prover, lambda: "login n2" in prover.output and "login n3" in prover.output)
        bed.reach("n2")
        prover.saw("n2", NodeState.READY)
        until(prover, lambda: "vclust: done mpi 0" in prover.output)
        assert prover.finish(nodes_of(3))["mpi"]
    assert sorted(bed.tries()) == ["n2", "n2", "n2", "n3"]


def test_a_node_that_refuses_after_all_have_reported_is_named(bed: Bed) -> None:
    bed.reach("n3")
    with a_prover(bed, nodes_of(3)) as prover:
        until(prover, lambda: "login n2" in prover.output)
        with pytest.raises(VclustError, match="x: no login to n2: n2 ssh: connect to host n2: refused"):
            prover.finish(nodes_of(3))
    assert bed.tries().count("n2") == 3


def test_mpi_that_comes_too_early_runs_again(bed: Bed) -> None:
    bed.reach("n2")
    (bed.folder / "mpi").unlink()
    with a_prover(bed, nodes_of(2)) as prover:
        until(prover, lambda: "vclust: done mpi 1" in prover.output)
        prover.work(0.05)
        assert "vclust: done mpi 2" not in prover.output
        (bed.folder / "mpi").touch()
        assert prover.finish(nodes_of(2))["mpi"]
        assert "vclust: mpi 1 mpi: not yet" in prover.output


def test_mpi_that_does_not_run_is_told(bed: Bed) -> None:
    bed.reach("n2")
    (bed.folder / "mpi").unlink()
    told = pytest.raises(VclustError, match="x: MPI does not reach every node:\n  mpi: not yet")
    with a_prover(bed, nodes_of(2)) as prover, told:
        prover.finish(nodes_of(2))


def test_a_first_node_that_lets_nobody_in_yet(bed: Bed) -> None:
    bed.reach("n2")
    bed.shell = "echo System is booting up."
    with a_prover(bed, nodes_of(2)) as prover:
        until(prover, lambda: "booting up" in prover.output)
        bed.shell = "sh"
        assert prover.finish(nodes_of(2))["mpi"]
    assert bed.logins == [("n1", True), ("n1", False)]


def test_a_login_that_breaks_off_after_all_have_reported_is_made_once_more(bed: Bed) -> None:
    bed.reach("n2")
    script = bed.folder / "twice"
    script.write_text(f"[ -e {bed.folder}/once ] && exec sh -s\ntouch {bed.folder}/once\nexit 255\n")
    bed.shell = f"sh {script}"
    with a_prover(bed, nodes_of(2, NodeState.READY)) as prover:
        assert prover.finish(nodes_of(2))["mpi"]
    assert len(bed.logins) == 2


@pytest.mark.parametrize(("status", "logins"), [(255, 3), (1, 1)], ids=["no connection", "its shell ends"])
def test_a_first_node_that_lets_nobody_in(bed: Bed, status: int, logins: int) -> None:
    script = bed.folder / "denied"
    script.write_text(f"echo Permission denied\nexit {status}\n")
    bed.shell = f"sh {script}"
    with a_prover(bed, nodes_of(2, NodeState.READY)) as prover:
        with pytest.raises(
            VclustError, match="x: the login to n1 has ended, and said:\n    Permission denied"
        ):
            prover.finish(nodes_of(2))
        assert prover.output == "Permission denied\n" * logins
    assert len(bed.logins) == logins


def test_what_failed_nodes_held_up_goes_on_without_them(bed: Bed) -> None:
    bed.reach("n2", "n4")
    with a_prover(bed, nodes_of(4)) as prover:
        until(prover, lambda: prover.output.count("login") == 4)
        one, two, _, four = nodes_of(4)
        assert prover.finish([one, two, four])["mpi"]
        assert "mpi 1 rank 2 of 3 on n" in prover.output
    assert len(bed.logins) == 1


def test_without_its_first_node_all_is_tried_from_the_next(bed: Bed) -> None:
    bed.reach("n2", "n3")
    with a_prover(bed, nodes_of(3)) as prover:
        until(prover, lambda: "vclust: done mpi 0" in prover.output)
        assert prover.finish(nodes_of(3)[1:])["mpi"]
    assert bed.logins == [("n1", True), ("n2", False)]


def test_a_node_that_is_started_once_more_is_tried_once_more(bed: Bed) -> None:
    """As what is open to the one that it was answers nobody."""
    bed.reach("n2")
    with a_prover(bed, nodes_of(2)) as prover:
        until(prover, lambda: "vclust: done mpi 0" in prover.output)
        for state in (NodeState.STARTED, NodeState.INSTALLED, NodeState.READY):
            prover.saw("n2", state)
        assert prover.finish(nodes_of(2))["mpi"]
    assert bed.logins == [("n1", True), ("n1", False)]
    assert bed.tries() == ["n2", "n2"]


def test_connections_do_not_grow_with_the_cluster(bed: Bed) -> None:
    """Only nodes that have reported take a place, where there are many; and each place is given on."""
    count = 2 * proof.GROUP + 5
    nodes = nodes_of(count)
    bed.reach(*(node.name for node in nodes))
    with a_prover(bed, nodes) as prover:
        until(prover, lambda: "login n1" in prover.output)
        prover.work(0.05)
        assert bed.tries() == []
        for node in reversed(nodes[: proof.GROUP]):
            prover.saw(node.name, NodeState.READY)
        until(prover, lambda: "vclust: done mpi 0" in prover.output)
        assert prover.finish(nodes)["mpi"]
        assert prover.output.count("vclust: done mpi") == 3
    assert sorted(bed.tries()) == sorted(node.name for node in nodes[1:])
    assert max(map(int, (bed.folder / "most").read_text().split())) <= proof.GROUP - 1
    assert len(bed.logins) == 1

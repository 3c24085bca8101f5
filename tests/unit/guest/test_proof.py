"""The proof's script, run by sh with an ssh and an mpiexec of our own; and what is made of what it says."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from vclust_py.errors import VclustError
from vclust_py.guest import proof
from vclust_py.guest.proof import GROUP, mpi_reaches
from vclust_py.metapackages import MetaPackage

CHECK = MetaPackage(
    "demo", "a demonstration", (), check="test $VCLUST_NODES -gt 0 && echo it\\'s fine >&2; true"
)

# `ssh … NODE hostname` opens a connection, `ssh … -O exit NODE` closes it; `open` has what is open, `most` how many
# were at once.
SSH = """#!/bin/sh
for word; do node=$last last=$word; done
case "$*" in
*"-O exit"*) rm "$FAKE/open/$last" ;;
*hostname)
  case " $BROKEN " in *" $node "*) echo "ssh: connect to host $node port 22: No route to host" >&2; exit 255 ;; esac
  : > "$FAKE/open/$node"; ls "$FAKE/open" | wc -l >> "$FAKE/most"; cat; echo "$node" ;;
esac
"""
MPIEXEC = """#!/bin/sh
cat  # its standard input: the rest of the script, if it were given that
count=$2 rank=0
while read -r node; do echo "rank $rank of $count on $node"; rank=$((rank + 1)); done < "$HYDRA_HOST_FILE"
"""


@pytest.fixture
def fake(tmp_path: Path) -> Path:
    (tmp_path / "open").mkdir()
    for name, body in (("ssh", SSH), ("mpiexec", MPIEXEC), ("hostname", '#!/bin/sh\necho "$FIRST"\n')):
        (tmp_path / name).write_text(body)
        (tmp_path / name).chmod(0o755)
    return tmp_path


def names_of(count: int) -> list[str]:
    return [f"n{number}" for number in range(1, count + 1)]


def run(fake: Path, names: Sequence[str], broken: str = "", checks: Sequence[MetaPackage] = (CHECK,)) -> str:
    environment = {
        "PATH": f"{fake}:/usr/bin:/bin",
        "FAKE": str(fake),
        "BROKEN": broken,
        "FIRST": names[0],
        "TMPDIR": str(fake),
    }
    script = proof.script(names, checks)
    done = subprocess.run(["sh", "-s"], input=script, capture_output=True, text=True, env=environment)
    assert done.stderr == ""
    assert not list(fake.glob("tmp.*"))
    return done.stdout


@pytest.mark.parametrize("count", [1, 2, GROUP, GROUP + 1, 3 * GROUP])
def test_every_node_is_tried_from_the_first(fake: Path, count: int) -> None:
    names = names_of(count)
    output = run(fake, names)
    assert proof.judge("x", output, names, (CHECK,)) == {"mpi": True, "checks": ["demo"]}
    assert output.count("vclust: login") == count


def test_connections_do_not_grow_with_the_cluster(fake: Path) -> None:
    run(fake, names_of(5 * GROUP))
    assert max(map(int, (fake / "most").read_text().split())) <= GROUP - 1


def test_no_list_of_names_is_an_argument(fake: Path) -> None:
    """Only sh's own words are longer than a line: the kernel takes 128 KiB for one argument."""
    names = [f"a-name-that-is-as-long-as-they-may-be-in-dns-{number:04d}" for number in range(4096)]
    assert 2 * len("".join(f"vclust: login {name} {name}\n" for name in names)) < proof.OUTPUT_LIMIT
    output = run(fake, names[: 2 * GROUP])
    assert proof.judge("x", output, names[: 2 * GROUP], ())["mpi"]
    for line in proof.script(names, ()).splitlines():
        assert len(line) < 200


def test_without_mpi(fake: Path) -> None:
    (fake / "mpiexec").unlink()
    assert proof.judge("x", run(fake, names_of(40)), names_of(40), ())["mpi"] is False


def test_a_node_that_is_not_reached_is_named(fake: Path) -> None:
    output = run(fake, names_of(40), broken="n7 n39")
    with pytest.raises(
        VclustError, match="x: no login to n39, n7: n7 ssh: connect to host n7 port 22: No route"
    ):
        proof.judge("x", output, names_of(40), ())


def test_mpi_must_reach_the_nodes_of_every_group(fake: Path) -> None:
    names = names_of(2 * GROUP)
    output = run(fake, names).replace(f"rank 1 of {GROUP} on n{GROUP + 1}", f"rank 1 of {GROUP} on n1", 1)
    with pytest.raises(VclustError, match="x: MPI does not reach every node"):
        proof.judge("x", output, names, ())


def test_a_script_that_ended_early_proves_nothing(fake: Path) -> None:
    names = names_of(2)
    output = run(fake, names).partition("vclust: mpi")[0]
    with pytest.raises(VclustError, match="x: MPI does not reach every node"):
        proof.judge("x", output, names, ())


def test_a_check_that_fails_says_why(fake: Path) -> None:
    """The command, its status and its last lines: who made the meta package has to find out what is wrong."""
    command = "for n in $(seq 20); do echo line $n; done; echo no slurmd >&2; exit 7"
    failing = MetaPackage("bad", "", (), check=command)
    output = run(fake, names_of(2), checks=(failing, CHECK))
    with pytest.raises(VclustError) as caught:
        proof.judge("x", output, names_of(2), (failing, CHECK))
    first, *lines = str(caught.value).splitlines()
    assert first == f"x: the check of meta package bad failed, exit status 7: {command}"
    assert lines == [*(f"    line {number}" for number in range(12, 21)), "    no slurmd"]
    with pytest.raises(VclustError, match="the check of meta package gone failed, no answer: true"):
        proof.judge("x", output, names_of(2), (MetaPackage("gone", "", (), check="true"),))


def test_groups_begin_with_the_first_node() -> None:
    names = names_of(2 * GROUP)
    assert [len(group) for group in proof.groups(names)] == [GROUP, GROUP, 2]
    assert {group[0] for group in proof.groups(names)} == {"n1"}
    assert {name for group in proof.groups(names) for name in group} == set(names)
    assert proof.groups(["n1"]) == [["n1"]]


@pytest.mark.parametrize(
    ("lines", "reaches"),
    [
        (["rank 1 of 2 on b", "rank 0 of 2 on a"], True),
        (["", "[warn] something", "rank 1 of 2 on b", "rank 0 of 2 on a"], True),
        (["a", "", "b"], True),  # hostname, where there is no program to run
        (["rank 0 of 1 on a", "rank 0 of 1 on b"], False),  # mpiexec and program of different MPIs
        (["rank 0 of 2 on a", "rank 1 of 2 on a"], False),
        (["rank 0 of 2 on a"], False),
        (["a"], False),
        ([""], False),
        ([], False),
    ],
)
def test_mpi_reaches_every_node_only_as_one_program(lines: list[str], reaches: bool) -> None:
    assert mpi_reaches(lines, ["a", "b"]) is reaches

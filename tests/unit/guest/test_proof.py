"""The proof's functions, run by sh with an ssh and an mpiexec of our own; and what is made of what it says."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from vclust_py.errors import VclustError
from vclust_py.guest import proof
from vclust_py.guest.proof import mpi_reaches
from vclust_py.metapackages import MetaPackage

CHECK = MetaPackage(
    "demo", "a demonstration", (), check="test $VCLUST_NODES -gt 0 && echo it\\'s fine >&2; true"
)

# `ssh … NODE hostname` opens a connection, `ssh … -O exit NODE` closes it; `open` has what is open.
SSH = """#!/bin/sh
for word; do node=$last last=$word; done
case "$*" in
*"-O exit"*) rm "$FAKE/open/$last" ;;
*"BatchMode=yes"*"StrictHostKeyChecking=yes"*hostname)
  case " $BROKEN " in *" $node "*) printf 'ssh: connect to host %s port 22:\\nNo route' $node >&2; exit 255 ;; esac
  : > "$FAKE/open/$node"; cat; echo "$node" ;;
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
    for name, body in (("ssh", SSH), ("mpiexec", MPIEXEC), ("hostname", "#!/bin/sh\necho n1\n")):
        (tmp_path / name).write_text(body)
        (tmp_path / name).chmod(0o755)
    return tmp_path


def run(fake: Path, text: str, broken: str = "") -> str:
    """What the first node `n1` says to this text after the greeting."""
    environment = {"PATH": f"{fake}:/usr/bin:/bin", "FAKE": str(fake), "BROKEN": broken, "TMPDIR": str(fake)}
    done = subprocess.run(
        ["sh", "-s"],
        input=f"{proof.greeting('n1')}{text}wait\n",
        capture_output=True,
        text=True,
        env=environment,
        check=True,
    )
    assert done.stderr == ""
    assert not list(fake.glob("tmp.*"))
    return done.stdout


def judged(output: str, checks: Sequence[MetaPackage] = (CHECK,)) -> dict[str, object]:
    return proof.judge("x", output, ["n1", "n2", "n3"], {0: ["n1", "n2", "n3"]}, checks)


TRIES = "try n2 1\ntry n3 1\nwait\n"
ALL = TRIES + proof.mpi_run(0, ["n1", "n2", "n3"]) + proof.check_runs((CHECK,), 3)


def test_every_node_is_tried_from_the_first(fake: Path) -> None:
    output = run(fake, ALL)
    assert judged(output) == {"mpi": True, "checks": ["demo"]}
    lines = output.splitlines()
    assert [lines[0], *sorted(lines[1:3])] == [f"vclust: login n{number} n{number}" for number in (1, 2, 3)]
    assert lines[3:] == [
        *(f"vclust: mpi 0 rank {rank} of 3 on n{rank + 1}" for rank in range(3)),
        "vclust: done mpi 0",
        "vclust: check demo passed",
        "vclust: done check demo",
    ]


def test_a_second_run_is_on_its_own_nodes(fake: Path) -> None:
    output = run(
        fake, "try n2 1\nwait\n" + proof.mpi_run(0, ["n1", "n2"]) + "leave n2\n" + proof.mpi_run(1, ["n1"])
    )
    assert "vclust: mpi 1 rank 0 of 1 on n1\nvclust: done mpi 1\n" in output
    assert not list((fake / "open").iterdir())


def test_text_is_acted_on_as_it_comes(fake: Path) -> None:
    """The shell does not wait for more: what is asked for depends on what was answered."""
    environment = {"PATH": f"{fake}:/usr/bin:/bin", "FAKE": str(fake), "BROKEN": "", "TMPDIR": str(fake)}
    with subprocess.Popen(
        ["sh", "-s"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, env=environment
    ) as shell:
        assert shell.stdin is not None
        assert shell.stdout is not None
        shell.stdin.write(proof.greeting("n1"))
        assert shell.stdout.readline() == "vclust: login n1 n1\n"
        for text, answer in (
            ("try n2 1\n", "login n2 n2"),
            (proof.mpi_run(0, ["n1"]), "mpi 0 rank 0 of 1 on n1"),
        ):
            shell.stdin.write(text)
            assert shell.stdout.readline() == f"vclust: {answer}\n"
        shell.stdin.close()


def test_no_list_of_names_is_an_argument() -> None:
    """Only sh's own words are longer than a line: the kernel takes 128 KiB for one argument."""
    names = [f"a-name-that-is-as-long-as-they-may-be-in-dns-{number:04d}" for number in range(4096)]
    assert 2 * len("".join(f"vclust: login {name} {name}\n" for name in names)) < proof.OUTPUT_LIMIT
    for line in (proof.greeting(names[0]) + proof.mpi_run(0, names)).splitlines():
        assert len(line) < 200


@pytest.mark.parametrize(
    ("echo", "broken", "first"),
    [
        ("true", "n0", "vclust: login n1 n1"),
        ("false", "", "vclust: login n1 n1"),
        ("false", "n0", "does not reach n0"),
    ],
)
def test_a_node_that_was_proved_before_must_be_reached(
    fake: Path, echo: str, broken: str, first: str
) -> None:
    (fake / "ping").write_text(f"#!/bin/sh\n{echo}\n")
    (fake / "ping").chmod(0o755)
    (fake / "ssh").write_text(SSH.replace("*hostname)", "*:)"))
    environment = {"PATH": f"{fake}:/usr/bin:/bin", "FAKE": str(fake), "BROKEN": broken, "TMPDIR": str(fake)}
    done = subprocess.run(
        ["sh", "-s"],
        input=proof.greeting("n1", "n0"),
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert (done.stdout.splitlines()[-1], done.returncode == 0) == (first, first.startswith("vclust"))


def test_without_mpi(fake: Path) -> None:
    (fake / "mpiexec").unlink()
    assert judged(run(fake, ALL))["mpi"] is False


def test_a_node_that_is_not_reached_is_named(fake: Path) -> None:
    output = run(fake, ALL, broken="n3")
    with pytest.raises(VclustError, match="x: no login to n3: n3 ssh: connect to host n3 port 22: No route"):
        judged(output)


def test_mpi_must_reach_the_nodes_of_every_run(fake: Path) -> None:
    output = run(fake, ALL)
    with pytest.raises(VclustError, match="x: MPI does not reach every node"):
        judged(output.replace("rank 1 of 3 on n2", "rank 1 of 3 on n1"))
    with pytest.raises(VclustError, match="x: MPI was not tried on n1, n2, n3"):
        proof.judge("x", output, ["n1", "n2", "n3"], {}, ())


def test_an_output_that_ended_early_proves_nothing(fake: Path) -> None:
    output = run(fake, ALL).partition("vclust: mpi")[0]
    with pytest.raises(VclustError, match="x: MPI does not reach every node"):
        judged(output)


def test_a_check_that_fails_says_why(fake: Path) -> None:
    """The command, its status and its last lines: who made the meta package has to find out what is wrong."""
    command = "for n in $(seq 20); do echo line $n; done; echo no slurmd >&2; exit 7"
    failing = MetaPackage("bad", "", (), check=command)
    output = run(fake, ALL + proof.check_runs((failing,), 3))
    with pytest.raises(VclustError) as caught:
        judged(output, (failing, CHECK))
    first, *lines = str(caught.value).splitlines()
    assert first == f"x: the check of meta package bad failed, exit status 7: {command}"
    assert lines == [*(f"    line {number}" for number in range(12, 21)), "    no slurmd"]
    with pytest.raises(VclustError, match="the check of meta package gone failed, no answer: true"):
        judged(output, (MetaPackage("gone", "", (), check="true"),))


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

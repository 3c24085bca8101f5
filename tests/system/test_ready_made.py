"""Ready-made clusters: each example of a meta package is created once, and does what its page promises.

Seen from inside, as the request's user, with the nodes' own tools.  One cluster at a time.
"""

import contextlib
import http.client
import json
import re
import socket
import subprocess
import time
from collections.abc import Iterator

import pytest
from machine import BIN, Vclust, local, output

from vclust_py.site import PROJECT, Site

pytestmark = [pytest.mark.system, pytest.mark.long]


@pytest.fixture(scope="module")
def vclust(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Vclust:
    folder = tmp_path_factory.mktemp("ready-made")
    command = local(folder, root=site.root)
    return command


@contextlib.contextmanager
def created(vclust: Vclust, name: str) -> Iterator["Cluster"]:
    """The cluster of the example; its create has run the check of its meta package."""
    begun = time.monotonic()
    (example,) = (PROJECT / "examples").glob(f"{name}.*")
    vclust("create", example)
    print(f"\nREADY {name}: {time.monotonic() - begun:.0f} s")
    try:
        yield Cluster(vclust, name)
    finally:
        vclust("destroy", name)


class Cluster:
    def __init__(self, vclust: Vclust, name: str) -> None:
        self.vclust, self.name = vclust, name

    def user(self, node: int, command: str) -> str:
        return self.vclust("ssh", self.name, str(node), "--", command)

    def root(self, node: int, command: str) -> str:
        return self.vclust("ssh", "--root", self.name, str(node), "--", command)

    def listening(self, node: int) -> set[str]:
        """Where TCP ports of a node listen, but for ssh: ADDRESS:PORT.  What it uses of its memory is printed."""
        used, *lines = self.root(node, "free -m | awk '/^Mem/ { print $3 }'; ss -H -t -l -n").splitlines()
        print(f"MEMORY {self.name} node {node}: {used} MB")
        return {line.split()[3] for line in lines if not line.split()[3].endswith(":22")}

    def domain(self, *words: str, node: int) -> str:
        name = self.vclust.json("show", self.name)["nodes"][node - 1]["name"]
        return output("virsh", "-c", "qemu:///system", *words, f"{name}.{self.name}")


def eventually(done: "subprocess.Popen[str]", port: int) -> http.client.HTTPConnection:
    """A connection to a port that a process is about to open."""
    deadline = time.monotonic() + 60
    while True:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 5).close()
            return http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        assert done.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_one_home_for_all_nodes(vclust: Vclust) -> None:
    with created(vclust, "home") as cluster:
        said = cluster.user(2, "echo written on 2 > note; chmod 600 note; stat -f -c %T .; id; ls -n note")
        assert said.split()[0] == "nfs"
        assert "uid=1000(alice)" in said
        assert re.search(r"^-rw------- 1 1000 1000 ", said, re.M)
        assert cluster.user(1, "cat note; ls -n note; stat -f -c %T .").split()[:3] == ["written", "on", "2"]

        # Version 4 alone, on the cluster's network alone; root elsewhere is nobody here.
        assert cluster.listening(1) == {"192.168.83.1:2049"}
        assert cluster.listening(2) == set()
        exported = cluster.root(1, "exportfs -v")
        assert re.search(r"^/home\s+192\.168\.83\.0/24\(", exported, re.M)
        assert {"rw", "sync", "secure", "root_squash"} <= set(re.split("[(),]", exported))
        said = cluster.root(2, "findmnt -n -t nfs4 -o OPTIONS /home; cat /home/alice/note 2>&1 || true")
        assert "vers=4.2" in said
        assert "Permission denied" in said

        # A full disk is an error, at once and by its name; the node goes on.
        fill = "fallocate -l $(( $(stat -f -c '%a * %S' .) - 10000000 )) filling; cat /dev/zero 2>&1 > rest || true"
        assert "No space left" in cluster.user(1, fill)
        said = cluster.user(
            2, "timeout 60 dd if=/dev/zero of=more bs=64k count=64 conv=fsync 2>&1 || echo status $?"
        )
        assert "No space left on device" in said
        assert "status 1" in said
        assert cluster.user(2, "rm filling rest more; echo again > note; cat note").strip() == "again"

        # The first node ends.  The other one starts again without it, and has its homes when it is back.
        for node in (1, 2):
            cluster.domain("destroy", node=node)
        cluster.domain("start", node=2)
        assert "no homes" in _until(cluster, 2, "timeout -s KILL 5 ls /home/alice || echo no homes")
        cluster.domain("start", node=1)
        assert _until(cluster, 2, "findmnt -n -t nfs4 /home || ls /home", "nfs4")
        assert cluster.user(2, "cat note; echo from 2 > note").strip() == "again"
        assert cluster.user(1, "cat note").strip() == "from 2"


def _until(cluster: Cluster, node: int, command: str, expected: str = "") -> str:
    """What root is told in a node that starts, once that holds `expected`."""
    deadline = time.monotonic() + 240
    while True:
        with contextlib.suppress(AssertionError):
            if expected in (said := cluster.root(node, command)):
                return said
        assert time.monotonic() < deadline
        time.sleep(1)


def test_jobs_of_the_requests_user(vclust: Vclust) -> None:
    """A batch job over both nodes, by the user; nobody keeps accounts."""
    with created(vclust, "slurm") as cluster:
        job = "sbatch --wait -N 2 -o job.out --wrap 'id -un; srun sh -c \"hostname; id -u\"'; cat job.out"
        said = cluster.user(1, job).splitlines()
        assert re.fullmatch(r"Submitted batch job \d+", said[0])
        assert said[1] == "alice"
        assert sorted(said[2:]) == ["1000", "1000", "compute01", "compute02"]
        cluster.listening(1)
        assert "accounting storage is disabled" in cluster.user(1, "sacct 2>&1 || true")
        # More CPUs by a restart of each node: what runs there is waited for, and each is used again.
        (example,) = (PROJECT / "examples").glob("slurm.*")
        larger = vclust.folder / "larger.yml"
        larger.write_text(example.read_text().replace("ram: 512MB", "ram: 576MB\n  cpus: 2"))
        cluster.user(1, "sbatch -w compute02 -o last.out --wrap 'sleep 20; hostname'")
        vclust("apply", "--restart", larger)
        assert cluster.user(2, "cat last.out") == "compute02\n"
        for node in ("compute01", "compute02"):
            _until(cluster, 1, "sinfo -h -N -o '%n %c %t'", f"{node} 2 idle")
        assert cluster.user(1, "srun -N 2 -c 2 nproc").split() == ["2", "2"]


def test_prometheus_sees_all_nodes(vclust: Vclust) -> None:
    with created(vclust, "monitoring") as cluster:
        query = "curl -s -f -G --data-urlencode 'query=node_uname_info' http://localhost:9090/api/v1/query"
        results = json.loads(cluster.user(1, query))["data"]["result"]
        assert {(one["metric"]["instance"], one["metric"]["nodename"]) for one in results} == {
            ("monitoring1:9100", "monitoring1"),
            ("monitoring2:9100", "monitoring2"),
        }
        assert cluster.listening(1) == {"127.0.0.1:9090", "192.168.84.1:9100"}
        assert cluster.listening(2) == {"192.168.84.2:9100"}


def test_a_notebook_through_ssh(vclust: Vclust) -> None:
    with created(vclust, "jupyter") as cluster:
        assert cluster.listening(1) == {"127.0.0.1:8888"}
        token = cluster.user(1, "cat .jupyter/token").strip()
        assert re.fullmatch("[0-9a-f]{64}", token)
        assert token not in cluster.root(1, "journalctl; cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
        said = cluster.root(
            1, "setpriv --reuid 65534 --clear-groups cat /home/alice/.jupyter/token 2>&1 || true"
        )
        assert "Permission denied" in said
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        words = [BIN / "vclust", "-i", vclust.inventory, "ssh", "jupyter", "-L", f"{port}:localhost:8888"]
        with subprocess.Popen([*words, "--", "cat"], stdin=subprocess.PIPE, text=True) as tunnel:
            connection = eventually(tunnel, port)
            for headers, status in (({}, 403), ({"Authorization": f"token {token}"}, 200)):
                connection.request("GET", "/api/contents", headers=headers)
                answer = connection.getresponse()
                answer.read()
                assert answer.status == status
            # Its own page, to which a browser comes by the address with the token.
            connection.request("GET", f"/tree?token={token}")
            answer = connection.getresponse()
            assert (answer.status, b"<title>Home Page" in answer.read()) == (200, True)
            # A kernel starts.
            connection.request("POST", "/api/kernels", headers={"Authorization": f"token {token}"})
            answer = connection.getresponse()
            assert (answer.status, json.loads(answer.read())["name"]) == (201, "python3")
            connection.close()


OWN = """\
#include <mpi.h>
#include <stdio.h>
int main(int argc, char **argv)
{
    int rank, ranks, length;
    char host[MPI_MAX_PROCESSOR_NAME];
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    MPI_Get_processor_name(host, &length);
    printf("rank %d of %d on %s\\n", rank, ranks, host);
    MPI_Finalize();
    return 0;
}
"""


def test_open_mpi(vclust: Vclust) -> None:
    """What a user compiles runs on both nodes, without a word about hosts."""
    with created(vclust, "openmpi") as cluster:
        (vclust.folder / "own.c").write_text(OWN)
        vclust("scp", str(vclust.folder / "own.c"), "openmpi:")
        assert "open-mpi.org" in cluster.user(1, "mpiexec --version")
        said = cluster.user(1, "mpicc -o own own.c && scp -q own openmpi2: && mpiexec -n 2 ./own")
        assert {"rank 0 of 2 on openmpi1", "rank 1 of 2 on openmpi2"} <= set(said.splitlines())


COMPUTE = """\
from distributed import Client
client = Client()
client.wait_for_workers(2)
total = client.submit(sum, client.map(pow, range(20), [2] * 20))
print(total.result(), sorted(worker["name"] for worker in client.scheduler_info()["workers"].values()))
"""


def test_dask_computes_on_all_nodes(vclust: Vclust) -> None:
    with created(vclust, "dask") as cluster:
        (vclust.folder / "compute.py").write_text(COMPUTE)
        vclust("scp", str(vclust.folder / "compute.py"), "2.dask:")
        assert "2470 ['dask1', 'dask2']" in cluster.user(2, "python3 compute.py")
        # Who has no key gets nowhere, and what is not encrypted is on loopback.
        alone = "DASK_ROOT_CONFIG=/nowhere python3 -c 'from distributed import Client; Client(\"{}\", timeout=10)' 2>&1"
        assert "OSError" in cluster.user(2, alone.format("tcp://dask1:8786") + " || true")
        assert cluster.root(1, "stat -c '%U %G %a' /etc/dask/key.pem").split() == ["root", "sudo", "640"]
        ends = cluster.listening(1)
        assert "192.168.87.1:8786" in ends
        assert {end.rsplit(":", 1)[0] for end in ends} == {"127.0.0.1", "192.168.87.1"}
        assert "alice" in cluster.root(1, "ps -o user= -C dask-worker,dask-scheduler")

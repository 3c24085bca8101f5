"""A running node's files become those of a later generation; with real tools, on a tree that stands for a node."""

import hashlib
import io
import os
import re
import shutil
import subprocess
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
from guest.disks import a_cluster, a_request

from vclust_py.errors import VclustError
from vclust_py.guest import cluster_disk, update
from vclust_py.guest.cluster_disk import ClusterIdentity
from vclust_py.guest.trust import Authority
from vclust_py.metapackages import MetaPackage, Step
from vclust_py.request import SSHKey, User
from vclust_py.router_socket import bound
from vclust_py.serving import Offer, offered

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA"
ANN, BOB, EVE = (User(name, "$6$saltsalt$" + "x" * 86) for name in ("ann", "bob", "eve"))


def a_generation(
    number: int, users: tuple[User, ...], nodes: int = 2, keys: tuple[SSHKey, ...] = ()
) -> ClusterIdentity:
    request = a_request(nodes)
    request = replace(request, software=replace(request.software, users=users, ssh_keys=keys))
    uids = cluster_disk.new_uids(request, {"ann": 1000, "bob": 1001})
    authority = Authority()
    return replace(a_cluster(request, authority), generation=number, uids=uids)


class Tree:
    """What a node has: accounts of its packages, and those of its first generation."""

    shell: ClassVar[list[str]] = ["sh"]

    def __init__(self, path: Path, cluster: ClusterIdentity, host: str = "n2") -> None:
        self.path = path
        for folder in ("etc/skel", "var/lib/vclust", "etc/vclust"):
            (path / folder).mkdir(parents=True)
        (path / "etc/skel/.profile").write_text("# profile\n")
        for file, text in {
            "passwd": "root:x:0:0:root:/root:/bin/bash\npostfix:x:105:110::/var/spool:/bin/false\n",
            "shadow": "root:*:1::::::\npostfix:!:1::::::\n",
            "group": "root:x:0:\nsudo:x:27:\nadm:x:4:syslog\npostfix:x:110:\n",
            "gshadow": "root:*::\nsudo:*::\nadm:*::syslog\n",
        }.items():
            (path / "etc" / file).write_text(text)
        os.chmod(path / "etc/shadow", 0o640)
        (path / "etc/vclust/generation").write_text("0\n")
        (path / "etc/hostname").write_text(f"{host}\n")
        (path / "var/lib/vclust/expected").write_text("")
        self.take(cluster)

    def take(
        self, cluster: ClusterIdentity, code: int = 0, packages: bytes = b"", new: tuple[str, ...] = ()
    ) -> str:
        script = update.script(cluster, cluster_disk.changes(cluster), cluster_disk.steps_of(cluster, new))
        if not packages:
            return self.run(script, code)
        path = self.path.with_name(f"{self.path.name}.tar")
        path.write_bytes(packages)
        with offered(path, lambda: bound("127.0.0.1", 0)) as offer:
            return self.run(update.fetch(offer) + script, code)

    def run(self, script: str, code: int = 0) -> str:
        """What a node's shell says that is given this script."""
        done = subprocess.run(
            [*self.shell, "-s"],
            input=script,
            env={"PATH": os.environ["PATH"], "VCLUST_ROOT": str(self.path)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (code, ""), done
        return done.stdout

    def has_packages(self, installer: str) -> None:
        """The package `old`, and in place of what installs packages these lines of sh."""
        dpkg = self.path / "var/lib/dpkg"
        (dpkg / "info").mkdir(parents=True)
        (dpkg / "updates").mkdir()
        (dpkg / "info/old.list").write_text("/.\n/etc\n/etc/old\n")
        (dpkg / "status").write_text(
            "Package: old\nStatus: install ok installed\nVersion: 1\nArchitecture: all\nMaintainer: x\n"
            "Description: x\n\n"
        )
        (self.path / "etc/old").write_text("x\n")
        script = self.path / "usr/libexec/vclust/install-packages"
        script.parent.mkdir(parents=True, exist_ok=True)
        script.write_text(installer)

    def read(self, name: str) -> str:
        return (self.path / name).read_text()

    def names(self, file: str) -> list[str]:
        return [line.partition(":")[0] for line in self.read(f"etc/{file}").splitlines()]


@pytest.fixture(params=["sh", "busybox sh"], autouse=True)
def _shell(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of a login, and the agent's."""
    if shutil.which(request.param.split()[0]) is None:
        pytest.skip("no busybox")
    monkeypatch.setattr(Tree, "shell", request.param.split())


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path, a_generation(1, (ANN, BOB)))


def test_shared_homes_are_left_to_the_first_node(tree: Tree) -> None:
    """Elsewhere root may not write there; accounts and keys of the node are as ever."""
    unit = tree.path / "etc/systemd/system/home.automount"
    unit.parent.mkdir(parents=True, exist_ok=True)
    unit.touch()
    authorized = tree.path / "home/ann/.ssh/authorized_keys"
    authorized.write_text("as it was\n")
    cluster = a_generation(2, (ANN, BOB, EVE), keys=(SSHKey("ann", KEY),))
    assert tree.take(cluster) == "vclust: generation 2\n"
    assert "eve" in tree.names("passwd")
    assert authorized.read_text() == "as it was\n"
    assert not (tree.path / "home/eve").exists()


def test_homes_of_the_site_are_left_alone_and_keys_are_the_requests(tree: Tree) -> None:
    """Root may not write there in any node; what the request says of keys is beside the homes."""

    def with_homes(number: int, users: tuple[User, ...], *keys: SSHKey) -> ClusterIdentity:
        cluster = a_generation(number, users, keys=keys)
        software = replace(cluster.request.software, home="site")
        return replace(cluster, request=replace(cluster.request, software=software))

    unit = tree.path / "etc/systemd/system/home.automount"
    unit.parent.mkdir(parents=True, exist_ok=True)
    unit.touch()
    before = sorted((tree.path / "home").rglob("*"))
    cluster = with_homes(2, (ANN, BOB, EVE), SSHKey("ann", KEY))
    assert tree.take(cluster) == "vclust: generation 2\n"
    assert sorted((tree.path / "home").rglob("*")) == before
    assert "eve" in tree.names("passwd")
    own = "etc/ssh/vclust_users/ann/authorized_keys"
    assert tree.read(own) == f"{KEY}\n"
    assert (tree.path / f"{cluster_disk.USER_KEYS}/eve/id_ecdsa").stat().st_uid == 1002
    tree.take(with_homes(3, (ANN, BOB, EVE)))
    assert tree.read(own) == ""


def digest(tree: Tree) -> str:
    files = sorted(path for path in tree.path.rglob("*") if path.is_file())
    return hashlib.sha256(b"".join(bytes(path) + path.read_bytes() for path in files)).hexdigest()


def test_users_are_there_as_the_installer_would_make_them(tree: Tree) -> None:
    assert tree.names("passwd") == ["root", "postfix", "ann", "bob"]
    assert "bob:x:1001:1001::/home/bob:/bin/bash" in tree.read("etc/passwd")
    assert tree.names("shadow")[-2:] == ["ann", "bob"]
    assert "sudo:x:27:ann,bob\nadm:x:4:syslog,ann,bob\n" in tree.read("etc/group")
    assert "adm:*::syslog,ann,bob" in tree.read("etc/gshadow")
    status = (tree.path / "home/bob/.profile").stat()
    assert (status.st_uid, (tree.path / "home/bob").stat().st_mode & 0o777) == (1001, 0o700)
    assert (tree.path / "etc/shadow").stat().st_mode & 0o777 == 0o640
    assert (tree.path / "etc").stat().st_mode & 0o777 == 0o755
    assert tree.read("etc/vclust/generation") == "1\n"


def test_a_node_more_is_known_by_name(tree: Tree) -> None:
    (tree.path / "home/ann/.ssh/authorized_keys").write_text("her own\n")
    assert tree.take(a_generation(2, (ANN, BOB), nodes=3)) == "vclust: generation 2\n"
    assert "10.1.0.3\tn3\n" in tree.read("etc/hosts")
    assert tree.read("etc/vclust/hostfile") == "n1\nn2\nn3\n"
    assert "host n3 10.1.0.3\n" in tree.read("var/lib/vclust/expected")
    assert tree.read("home/ann/.ssh/authorized_keys") == "her own\n"
    assert tree.names("passwd") == ["root", "postfix", "ann", "bob"]


def test_a_user_more_and_one_less(tree: Tree) -> None:
    (tree.path / "home/ann/work").write_text("kept\n")
    tree.take(a_generation(2, (BOB, EVE)))
    assert tree.names("passwd") == ["root", "postfix", "bob", "eve"]
    assert tree.names("shadow")[-2:] == tree.names("group")[-2:] == ["bob", "eve"]
    assert "eve:x:1002:1002:" in tree.read("etc/passwd")  # ann's number is nobody's any more
    assert "sudo:x:27:bob,eve\nadm:x:4:syslog,bob,eve\n" in tree.read("etc/group")
    assert "sudo:*::bob,eve\n" in tree.read("etc/gshadow")
    assert tree.read("home/ann/work") == "kept\n"
    assert (tree.path / "home/eve/.ssh/id_ecdsa").stat().st_uid == 1002


def test_keys_that_the_request_has_changed(tree: Tree) -> None:
    (tree.path / "home/ann/.ssh/authorized_keys").write_text("her own\n")
    tree.take(a_generation(2, (ANN, BOB), keys=(SSHKey("bob", KEY),)))
    assert tree.read("home/bob/.ssh/authorized_keys") == f"{KEY}\n"
    assert tree.read("home/ann/.ssh/authorized_keys") == "her own\n"
    tree.take(a_generation(3, (ANN, BOB)))
    assert tree.read("home/bob/.ssh/authorized_keys") == ""


def test_a_link_that_a_user_has_made_is_not_followed(tree: Tree, tmp_path: Path) -> None:
    there = tmp_path / "root/there"
    there.mkdir(parents=True)
    keys = tree.path / "home/bob/.ssh"
    shutil.rmtree(keys)
    keys.symlink_to(there)
    tree.take(a_generation(2, (ANN, BOB), keys=(SSHKey("bob", KEY),)))
    assert (list(there.iterdir()), there.stat().st_uid) == ([], 0)
    assert (keys / "authorized_keys").read_text() == f"{KEY}\n"


def test_a_script_that_is_cut_off_does_nothing(tree: Tree) -> None:
    before = digest(tree)
    script = update.script(a_generation(2, (BOB,)), {})
    for part in (script[: len(script) // 2], script.rstrip().removesuffix("}")):
        done = subprocess.run(
            [*tree.shell, "-s"],
            input=part,
            env={"PATH": os.environ["PATH"], "VCLUST_ROOT": str(tree.path)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode != 0, done.stdout, digest(tree)) == (True, "", before)


def test_again_and_an_older_one_change_nothing(tree: Tree) -> None:
    tree.take(a_generation(3, (ANN, EVE), nodes=3))
    before = digest(tree)
    assert tree.take(a_generation(3, (ANN, EVE), nodes=3)) == "vclust: generation 3\n"
    tree.take(a_generation(2, (ANN, BOB)))
    assert digest(tree) == before


def test_an_account_of_the_node_is_never_taken(tree: Tree) -> None:
    before = digest(tree)
    postfix = User("postfix", ANN.password_hash)
    said = tree.take(a_generation(2, (ANN, BOB, postfix)), code=1)
    assert said == "vclust: failed user postfix: the node has an account of that name\n"
    with pytest.raises(VclustError, match=r"^n1: was not changed: user postfix: the node has"):
        update.judge("n1", said, 2)
    with open(tree.path / "etc/passwd", "a") as passwd:
        passwd.write("daemon2:x:1002:1002::/:/bin/false\n")
    said = tree.take(a_generation(2, (ANN, BOB, EVE)), code=1)
    assert said == "vclust: failed user eve: the node has an account of its number, daemon2\n"
    tree.path.joinpath("etc/passwd").write_text(tree.read("etc/passwd").rpartition("daemon2")[0])
    tree.path.joinpath("var/lib/vclust/update.lock").touch()
    assert digest(tree) == before


def a_bundle(change: str | None) -> MetaPackage:
    steps = (
        Step("all", 'echo "$VCLUST_NODE_NAMES" > "$VCLUST_ROOT/etc/nodes"'),
        Step("first", 'touch "$VCLUST_ROOT/etc/leads"'),
    )
    return MetaPackage("some-thing", "a test", (), steps=steps, change=change)


@pytest.mark.parametrize("host", ["n1", "n2"])
def test_services_are_told_of_other_nodes(tmp_path: Path, host: str) -> None:
    bundle = a_bundle('echo "restarted $VCLUST_NODE of $VCLUST_NODES" >> "$VCLUST_ROOT/etc/said"')

    def made(number: int, nodes: int, users: tuple[User, ...] = (ANN,)) -> ClusterIdentity:
        return replace(a_generation(number, users, nodes=nodes), meta_packages=(bundle,), secrets={})

    tree = Tree(tmp_path, made(1, 2), host)
    said = tree.path / "etc/said"
    said.unlink()
    tree.take(made(2, 2, (ANN, EVE)))
    assert not said.exists()  # the nodes are the same
    tree.take(made(3, 3))
    assert tree.read("etc/nodes") == "n1 n2 n3\n"
    assert (tree.path / "etc/nodes").stat().st_mode & 0o777 == 0o644  # for all to read
    assert said.read_text() == f"restarted {host} of 3\n"
    tree.take(made(4, 2))
    assert said.read_text() == f"restarted {host} of 3\nrestarted {host} of 2\n"
    assert (tree.path / "etc/leads").exists() == (host == "n1")


def test_what_runs_in_a_node_is_told_of_its_new_size(tmp_path: Path) -> None:
    """By its steps, `change`, then `resume`, though the other nodes are the same."""
    say = 'echo "{} of $VCLUST_NODE: $VCLUST_CPUS, $VCLUST_RAM_MB" >> "$VCLUST_ROOT/etc/said"'
    bundle = MetaPackage(
        "some-thing",
        "a test",
        (),
        steps=(Step("all", say.format("step")),),
        change=say.format("change"),
        leave="echo not here",
        resume=say.format("resume"),
    )

    def made(number: int, cpus: int) -> ClusterIdentity:
        cluster = a_generation(number, (ANN,))
        hardware = replace(cluster.request.hardware, cpus=cpus, ram=cpus * 2**30)
        request = replace(cluster.request, hardware=hardware)
        return replace(cluster, request=request, meta_packages=(bundle,), secrets={})

    tree = Tree(tmp_path, made(1, 1))
    (tree.path / "etc/said").unlink()
    larger = made(2, 3)
    script = update.script(larger, {}, cluster_disk.resized(larger))
    assert tree.run(script) == "vclust: generation 2\n"
    told = [f"{word} of n2: 3, 3072\n" for word in ("step", "change", "resume")]
    assert tree.read("etc/said") == "".join(told)
    assert "slots=3" in tree.read("etc/vclust/hostfile.openmpi")


def test_who_is_logged_in_and_goes_is_logged_out() -> None:
    (function,) = re.findall(r"^end_processes\(\) \{.*?^\}", update._SCRIPT, re.MULTILINE | re.DOTALL)
    uid = 54321
    with (
        subprocess.Popen(["sleep", "300"], user=uid) as theirs,
        subprocess.Popen(["sleep", "300"], user=uid + 1) as another,
    ):
        for _ in range(2):  # the second time there is nobody left
            subprocess.run(["sh", "-ec", f"{function}\nend_processes {uid}"], check=True)
            assert theirs.wait(10) == -9
        assert another.poll() is None
        another.kill()


def test_a_service_that_does_not_bear_it_is_said_and_tried_again(tree: Tree) -> None:
    broken = a_bundle("echo no such service; exit 3")
    wanted = replace(a_generation(2, (ANN, BOB), nodes=3), meta_packages=(broken,), secrets={})
    assert tree.take(wanted, code=1) == "vclust: failed change-some-thing: no such service\n"
    assert tree.read("etc/vclust/generation") == "1\n"
    # The node knows of the others already; what it runs is yet to be told.
    works = replace(wanted, meta_packages=(a_bundle('touch "$VCLUST_ROOT/etc/done"'),))
    assert tree.take(works) == "vclust: generation 2\n"
    assert (tree.path / "etc/done").exists()
    (tree.path / "etc/done").unlink()
    tree.take(replace(works, generation=3))
    assert not (tree.path / "etc/done").exists()


def archive(**files: str) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, text in {"debconf": "", "remove": "", **files}.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            tar.addfile(entry, io.BytesIO(text.encode()))
    return data.getvalue()


INSTALLER = """
    cat "$1"/*.deb >> "$VCLUST_ROOT/etc/installed"
    mkdir -p "$VCLUST_ROOT/etc/systemd/system/multi-user.target.wants"
    touch "$VCLUST_ROOT/etc/systemd/system/multi-user.target.wants/new.service"
"""


def test_packages_come_and_go(tree: Tree) -> None:
    tree.has_packages(INSTALLER)
    bundle = replace(
        a_bundle(None), steps=(Step("all", 'cp "$VCLUST_ROOT/etc/installed" "$VCLUST_ROOT/etc/seen"'),)
    )
    wanted = replace(a_generation(2, (ANN, BOB)), meta_packages=(bundle,), secrets={})
    before = set(Path("/var/tmp").iterdir())
    packages = archive(**{"some_all.deb": "some\n" * 50000, "remove": "old\n"})
    assert tree.take(wanted, packages=packages, new=("some-thing",)) == "vclust: generation 2\n"
    assert tree.read("etc/installed") == "some\n" * 50000
    assert (tree.path / "etc/installed").stat().st_mode & 0o777 == 0o644
    assert tree.read("etc/seen") == "some\n" * 50000  # a meta package is set up after it has come
    assert not (tree.path / "etc/old").exists()
    assert "old" not in tree.read("var/lib/dpkg/status")
    assert not (tree.path / "var/lib/vclust/wanted").exists()
    assert set(Path("/var/tmp").iterdir()) == before
    # Who has the generation installs nothing again.
    assert tree.take(wanted, packages=packages, new=("some-thing",)) == "vclust: generation 2\n"
    assert tree.read("etc/installed") == "some\n" * 50000
    assert set(Path("/var/tmp").iterdir()) == before


def test_packages_that_do_not_install_are_told_and_tried_again(tree: Tree) -> None:
    wants = tree.path / "etc/systemd/system/multi-user.target.wants"
    wants.mkdir(parents=True)
    (wants / "mine.service").touch()
    tree.has_packages(f"{INSTALLER}\necho dpkg: no space left >&2; exit 1\n")
    wanted, packages = a_generation(2, (ANN, BOB)), archive(**{"some_all.deb": "some\n"})
    assert tree.take(wanted, code=1, packages=packages) == "vclust: failed packages: dpkg: no space left\n"
    assert tree.read("etc/vclust/generation") == "1\n"
    # What was to be started before that try: the next one starts what both have brought.
    noted = tree.read("var/lib/vclust/wanted").splitlines()
    assert [line for line in noted if not line.startswith("/")] == ["mine.service"]
    assert not any("new.service" in line for line in noted)
    assert str(wants) in " ".join(noted).split()  # and what systemd had read
    (tree.path / "usr/libexec/vclust/install-packages").write_text(INSTALLER)
    assert tree.take(wanted, packages=packages) == "vclust: generation 2\n"


@pytest.mark.parametrize("wrong", ["port", "token", "digest"])
def test_packages_that_do_not_come_change_nothing(tree: Tree, tmp_path: Path, wrong: str) -> None:
    path = tmp_path.with_name(f"{tmp_path.name}.tar")
    path.write_bytes(archive(**{"some_all.deb": "some\n"}))
    before = set(Path("/var/tmp").glob("tmp.*"))
    state = digest(tree)
    with offered(path, lambda: bound("127.0.0.1", 0)) as offer:
        given: dict[str, Offer] = {
            "port": replace(offer, port=1),
            "token": replace(offer, token="0" * 32),
            "digest": replace(offer, digest="0" * 128),
        }
        said = tree.run(f"{update.fetch(given[wrong])}echo not here\n", code=1)
    assert said.startswith("vclust: failed packages: cannot be fetched from 127.0.0.1:")
    assert said.count("\n") == 1
    assert ("refused" in said, "cut off" in said) == (wrong == "port", wrong != "port")
    assert (digest(tree), set(Path("/var/tmp").glob("tmp.*"))) == (state, before)


SYSTEMCTL = """\
#!/bin/sh
echo "$*" >> {told}
case "$*" in
    is-active*{broken}.service) echo {state}; exit 3 ;;
    is-active*) echo active ;;
esac
"""


def restarted(path: Path, broken: str = "none", state: str = "failed") -> tuple[str, list[str]]:
    """What is said, and what systemd is told, where `broken` is in another state than active after it."""
    told = path / "told"
    told.write_text("")
    (path / "systemctl").write_text(SYSTEMCTL.format(told=told, broken=broken, state=state))
    (path / "sleep").write_text(f"#!/bin/sh\necho sleep >> {told}\n")
    for program in ("systemctl", "sleep"):
        (path / program).chmod(0o755)
    script = f'set -eu; fail() {{ echo "failed $*"; exit 1; }}; proc={path}/proc kept={path}/kept\n{update.RESTART}'
    done = subprocess.run(
        ["sh", "-c", f"{script}\nrestart_stale; echo done"],
        env={"PATH": f"{path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    return done.stdout.strip(), told.read_text().splitlines()


def test_services_that_run_replaced_files_start_again(tmp_path: Path) -> None:
    """/proc as Linux has it, with systemd's groups of processes."""
    here = "7f0 r-xp 00 fe:00 12 /usr/lib/x86_64-linux-gnu/libc.so.6"
    gone = f"{here} (deleted)"
    for number, (maps, group) in enumerate(
        [
            (gone, "init.scope"),
            (gone, "system.slice/ssh.service"),
            (here, "system.slice/cron.service"),
            (gone, "system.slice/slurmd.service/system"),
            (gone, "system.slice/ssh.service"),
            (gone, "system.slice/system-postgresql.slice/postgresql@15-main.service"),
            (gone, "system.slice/dbus.service"),
            (gone, "system.slice/system-getty.slice/getty@tty1.service"),
            (gone, "system.slice/vclust-fork.service"),
            (gone, "user.slice/user-1000.slice/session-3.scope"),
            ("7f0 rw-s 00 00:01 9 /memfd:x (deleted)", "system.slice/memory.service"),
            ("7f0 rw-s 00 00:01 9 /dev/shm/x (deleted)", "system.slice/shared.service"),
        ],
        1,
    ):
        (tmp_path / f"proc/{number}").mkdir(parents=True)
        (tmp_path / f"proc/{number}/maps").write_text(f"{here}\n{maps}\n")
        (tmp_path / f"proc/{number}/cgroup").write_text(f"0::/{group}\n")
    wanted = ["postgresql@15-main.service", "slurmd.service", "ssh.service"]
    said, told = restarted(tmp_path)
    assert (said, told[0]) == ("done", "daemon-reexec")
    asked = [f"is-active {unit}" for unit in wanted]
    assert told[1:] == [*(f"restart {unit}" for unit in wanted), "sleep", *asked]
    assert not (tmp_path / "kept").exists()
    # One that does not start again is named, and not forgotten though it runs nothing that is gone any more.
    assert restarted(tmp_path, broken="slurmd")[0] == (
        "failed service slurmd.service: does not run with its new packages"
    )
    for folder in (tmp_path / "proc").iterdir():
        (folder / "maps").write_text(f"{here}\n")
    said, told = restarted(tmp_path, broken="slurmd")
    assert (said.partition(":")[0], told[0]) == ("failed service slurmd.service", f"restart {wanted[0]}")
    assert (
        restarted(tmp_path, broken="slurmd", state="activating")[0] != "done"
    )  # systemd starts it again and again
    assert restarted(tmp_path, broken="slurmd", state="inactive")[0] == "done"  # it has nothing to do
    assert restarted(tmp_path) == ("done", [])


def test_what_the_script_has_said() -> None:
    update.judge("n1", "vclust: generation 2\n", 2)
    for output in ("", "vclust: generation 1\n", "Connection closed\n"):
        with pytest.raises(VclustError, match="n1: was not changed"):
            update.judge("n1", output, 2)

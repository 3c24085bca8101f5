"""The initramfs and the programs of a node, without a machine: content, load order, and the shell parts by busybox."""

import lzma
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from image.baseroot import PVH_NOTE, VERSION, bzimage, fill

from vclust_py.errors import VclustError
from vclust_py.image import installer

GUEST = installer.GUEST

busybox = pytest.mark.skipif(shutil.which("busybox") is None, reason="needs busybox")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return fill(tmp_path / "root")


def unpack(archive: Path, folder: Path) -> Path:
    folder.mkdir()
    with open(archive, "rb") as file:
        subprocess.run(["cpio", "-i", "-d", "--quiet"], stdin=file, cwd=folder, check=True)
    return folder


def test_initramfs_holds_init_busybox_modules(root: Path, tmp_path: Path) -> None:
    installer.build(root, tmp_path / "image")
    unpacked = unpack(tmp_path / "image", tmp_path / "unpacked")
    assert (unpacked / "init").read_bytes() == (GUEST / "init").read_bytes()
    assert (unpacked / "identity").read_bytes() == (GUEST / "identity").read_bytes()
    assert (unpacked / "init").stat().st_mode & 0o777 == 0o755
    assert (unpacked / "bin/sh").readlink() == Path("busybox")
    order = (unpacked / "modules/virtio.order").read_text().split()
    assert order[:3] == ["virtio_ring.ko", "virtio.ko", "virtio_pci.ko"]
    assert order.index("fat.ko") < order.index("vfat.ko")
    assert (unpacked / "modules/vfat.ko").read_bytes() == b"module vfat"
    assert (unpacked / "modules/xen.order").read_text().split() == [
        "xen-blkfront.ko",
        "fat.ko",
        "vfat.ko",
        "nls_cp437.ko",
        "nls_ascii.ko",
    ]


def test_packed_modules_are_unpacked(root: Path, tmp_path: Path) -> None:
    """Debian 13's: the node would unpack them with each boot."""
    modules = root / "usr/lib/modules" / VERSION
    for path in (modules / "kernel").iterdir():
        path.with_name(f"{path.name}.xz").write_bytes(lzma.compress(path.read_bytes()))
        path.unlink()
    dependencies = modules / "modules.dep"
    dependencies.write_text(dependencies.read_text().replace(".ko", ".ko.xz"))
    installer.build(root, tmp_path / "packed")
    installer.build(fill(tmp_path / "plain"), tmp_path / "unpacked")
    assert (tmp_path / "packed").read_bytes() == (tmp_path / "unpacked").read_bytes()


def test_initramfs_is_the_same_each_time(root: Path, tmp_path: Path) -> None:
    installer.build(root, tmp_path / "one")
    installer.build(root, tmp_path / "two")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_two_kernels_are_refused(root: Path, tmp_path: Path) -> None:
    (root / "usr/lib/modules/6.2").mkdir()
    with pytest.raises(VclustError, match=r"one kernel, found 6\.1.*, 6\.2"):
        installer.build(root, tmp_path / "image")


def test_command_line_leaves_out_what_costs_an_emulated_node_much_only_there() -> None:
    for word in ("mitigations=off", "norandmaps", "cryptomgr.notests", "initcall_blacklist=jent_mod_init"):
        assert word in installer.command_line(accelerator="tcg").split()
        assert word not in installer.command_line(accelerator="kvm").split()
    assert "console=hvc0" in installer.command_line(accelerator="xen").split()
    assert "vclust.wait=300" in installer.command_line(wait=300).split()
    assert "console=ttyAMA0" in installer.command_line("arm64").split()


MPI = """\
#include <stdio.h>
int MPI_Init(int *count, char ***words) { return count || words; }
int MPI_Comm_rank(void *world, int *rank) { *rank = world != (void *)0x44000000L; return 0; }
int MPI_Comm_size(void *world, int *size) { *size = 7; return 0; }
int MPI_Finalize(void) { puts("finalized"); return 0; }
"""


@pytest.mark.parametrize("tool", ["gzip", "xz", "zstd", "lz4"])
def test_raw_kernel_unpacks_every_format(tool: str, tmp_path: Path) -> None:
    elf = b"\x7fELF" + PVH_NOTE + bytes(1000)
    words = {"lz4": ["lz4", "-l", "-c"], "xz": ["xz", "--check=crc32", "-c"]}.get(tool, [tool, "-c"])
    if shutil.which(tool) is None:
        pytest.skip(f"needs {tool}")
    packed = subprocess.run(words, input=elf, capture_output=True, check=True).stdout
    if tool != "gzip":
        packed += len(elf).to_bytes(4, "little")
    vmlinuz = tmp_path / "vmlinuz"
    vmlinuz.write_bytes(bzimage(packed))
    assert installer.raw_kernel(vmlinuz, tmp_path).read_bytes() == elf


@pytest.mark.parametrize("image", [b"MZ" + bytes(0x300), bzimage(b"\x7fELF without the note")])
def test_a_kernel_without_pvh_entry_is_taken_as_it_is(image: bytes, tmp_path: Path) -> None:
    vmlinuz = tmp_path / "vmlinuz"
    vmlinuz.write_bytes(image)
    assert installer.raw_kernel(vmlinuz, tmp_path).read_bytes() == vmlinuz.read_bytes()


@busybox
@pytest.mark.parametrize("name", ["init", "identity", "fork-agent", "install-packages"])
def test_shell_programs_parse(name: str) -> None:
    subprocess.run(["busybox", "sh", "-n", GUEST / name], check=True)


@busybox
def test_initramfs_has_every_applet_init_calls() -> None:
    applets = subprocess.run(["busybox", "--list"], capture_output=True, text=True, check=True).stdout.split()
    # A command stands at a line's start or after one of | & ( { ; then, do, try STEP, else.
    text = "".join((GUEST / name).read_text() for name in ("init", "identity"))
    text = re.sub(r"#.*|'[^']*'", "", text)
    words = set(
        re.findall(r"(?:^\s*|[|&({;]\s*|then |do |else |! |try \w+ |exec )([a-z_0-9]+)\b", text, re.MULTILINE)
    )
    builtins = {"echo", "read", "cd", "exec", "set", "shift", "test", "true", "false", "printf", "sleep"}
    used = (words & set(applets)) - builtins - {"chroot"}
    assert used <= set(installer.APPLETS), used - set(installer.APPLETS)
    assert set(installer.APPLETS) <= set(applets)


# --- parts of init, run by busybox against a folder ---


def run_init_part(call: str, root: Path, *, status: int = 0) -> str:
    """Define init's functions (all before the first mount) with ROOT and console redirected, then run `call`."""
    text = (GUEST / "init").read_text()
    functions = text[: text.index("\nmount -t devtmpfs")]
    functions = functions.replace(". /identity\n", (GUEST / "identity").read_text(), 1)
    functions = functions.replace("PATH=/bin\n", "", 1).replace("ROOT=/root\n", f"ROOT={root}\n", 1)
    # A console keeps what it was told.
    functions = functions.replace(">/dev/console", ">>/dev/console").replace(
        '>"/dev/console"', '>>"/dev/console"'
    )
    functions = functions.replace("/dev/console", str(root / "console")).replace("poweroff -f", "exit 9")
    script = f"{functions}\n{call}\n"
    done = subprocess.run(["busybox", "sh", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr
    console = root / "console"
    return console.read_text() if console.exists() else ""


@pytest.fixture
def node(tmp_path: Path) -> Path:
    """A root with the cluster's disk mounted in it."""
    (tmp_path / "etc").mkdir()
    disk = tmp_path / "run/vclust/cluster"
    disk.mkdir(parents=True)
    (tmp_path / "etc/passwd").write_text(
        "root:x:0:0:root:/root:/bin/bash\nold:x:1000:1000::/home/old:/bin/sh\n"
    )
    (tmp_path / "etc/group").write_text("root:x:0:\nsudo:x:27:root\ndocker:x:28:\n")
    (tmp_path / "etc/gshadow").write_text("root:*::\nsudo:*::root\ndocker:*::\n")
    (disk / "passwd").write_text(
        "old:x:1000:1000::/home/old:/bin/bash\nnew:x:1001:1001::/home/new:/bin/bash\n"
    )
    return tmp_path


@busybox
def test_accounts_are_merged_once(node: Path) -> None:
    for _ in range(2):
        run_init_part("change_accounts merge passwd", node)
        assert (node / "etc/passwd").read_text().splitlines() == [
            "root:x:0:0:root:/root:/bin/bash",
            "old:x:1000:1000::/home/old:/bin/bash",
            "new:x:1001:1001::/home/new:/bin/bash",
        ]
    assert not (node / "etc/passwd.vclust").exists()


@busybox
def test_users_join_groups_once(node: Path) -> None:
    (node / "run/vclust/cluster/groups").write_text("sudo john\nsudo mary\nwheel john\ndocker john\n")
    for _ in range(2):
        run_init_part("change_accounts join group gshadow", node)
        assert (node / "etc/group").read_text() == "root:x:0:\nsudo:x:27:root,john,mary\ndocker:x:28:john\n"
        assert (node / "etc/gshadow").read_text() == "root:*::\nsudo:*::root,john,mary\ndocker:*::john\n"


@busybox
def test_accounts_and_groups_are_changed_at_once(node: Path) -> None:
    """As a clone does, which has all packages."""
    disk = node / "run/vclust/cluster"
    (disk / "group").write_text("old:x:1000:\nnew:x:1001:\n")
    (disk / "groups").write_text("sudo new\nwheel new\n")
    for _ in range(2):
        assert run_init_part("change_accounts both passwd group gshadow", node) == ""
        assert (node / "etc/passwd").read_text().splitlines()[1:] == (
            disk / "passwd"
        ).read_text().splitlines()
        assert (node / "etc/group").read_text() == (
            "root:x:0:\nsudo:x:27:root,new\ndocker:x:28:\nold:x:1000:\nnew:x:1001:\n"
        )
        assert (node / "etc/gshadow").read_text() == "root:*::\nsudo:*::root,new\ndocker:*::\n"
    assert not (node / "etc/.vclust").exists()


@busybox
@pytest.mark.parametrize(
    ("file", "line", "said"),
    [
        (
            "passwd",
            "new:x:105:105::/run/new:/bin/false",
            "new: a package of this cluster has an account of that name",
        ),
        (
            "passwd",
            "daemon:x:1001:1001::/run/d:/bin/false",
            "new: a package of this cluster has an account of its number, daemon",
        ),
        ("group", "docker:x:29:", "docker: a package of this cluster has a group of that name"),
        ("group", "daemon:x:28:", "docker: a package of this cluster has a group of its number, daemon"),
    ],
)
def test_what_a_package_has_brought_is_its_own(node: Path, file: str, line: str, said: str) -> None:
    (node / "run/vclust/cluster/group").write_text("docker:x:28:\n")
    name = line.partition(":")[0]
    kept = [old for old in (node / "etc" / file).read_text().splitlines() if not old.startswith(f"{name}:")]
    (node / "etc" / file).write_text(
        "".join(f"{old}\n" for old in (*kept, line) if not old.startswith("docker:x:28"))
    )
    before = (node / "etc" / file).read_text()
    assert (
        run_init_part("change_accounts merge passwd group", node, status=9)
        == f"vclust: failed identity: {said}\n"
    )
    assert (node / "etc" / file).read_text() == before


@busybox
@pytest.mark.parametrize(("name", "steps"), [("n1", "01-a 02-b.first 03-c"), ("n2", "01-a 03-c")])
def test_some_steps_are_the_first_nodes_alone(node: Path, name: str, steps: str) -> None:
    disk = node / "run/vclust/cluster"
    (disk / "environment").write_text("VCLUST_FIRST=n1\n")
    for step in ("01-a", "02-b.first", "03-c"):
        (disk / f"step-{step}").write_text('echo "$0 $VCLUST_NODE $VCLUST_FIRST"\n')
    # As on the node, but that its root is this folder.
    in_system = f'in_system() {{ shift; (cd {node} && PATH=/usr/bin:/bin "$@") >>{node}/console; }}'
    outside = "CLUSTER=$ROOT/run/vclust/cluster; ROOT="
    said = run_init_part(f"{in_system}; {outside}; name={name}; run_steps", node)
    assert said == "".join(f"{disk}/step-{step} {name} n1\n" for step in steps.split())


@busybox
@pytest.mark.parametrize(
    ("target", "own", "mounted"),
    [
        ("local-fs", "", True),
        ("sysinit", "", False),  # this Debian does not mount it by itself
        ("local-fs", "tmp.mount", False),
        ("local-fs", "tmp.mount.d", False),
        ("local-fs", "other.mount", True),
    ],
)
def test_what_systemd_would_mount_is_mounted(node: Path, target: str, own: str, mounted: bool) -> None:
    """Unless a user has said something else of it; a mask is a link to /dev/null."""
    wants = node / f"usr/lib/systemd/system/{target}.target.wants"
    wants.mkdir(parents=True)
    (wants / "tmp.mount").symlink_to("../tmp.mount")
    (wants.parent / "tmp.mount").touch()
    (node / "etc/systemd/system").mkdir(parents=True)
    if own:
        (node / "etc/systemd/system" / own).symlink_to("/dev/null")
    said = run_init_part(f'mount() {{ echo "$*" >> {node}/console; false; }}; mount_more', node)
    expected = f"-t tmpfs -o mode=1777,strictatime,nosuid,nodev,size=50%,nr_inodes=1m tmpfs {node}/tmp\n"
    assert said == (expected if mounted else "")


@busybox
def test_the_seed_says_who_the_node_is(node: Path) -> None:
    seed = node / "run/vclust/seed"
    seed.mkdir()
    without_mounts = "mount_small() { disk=/dev/vdb; }"
    said = run_init_part(f"{without_mounts}; read_seed", node, status=9)
    assert said == "vclust: failed seed: no file node on the seed\n"
    (node / "console").unlink()
    (seed / "node").write_text("instance=i-1\nname='n1'\nmtu=1450\n")
    assert (
        run_init_part(f'{without_mounts}; read_seed; say "$instance $name $mtu"', node)
        == "vclust: i-1 n1 1450\n"
    )


@busybox
def test_a_disk_that_does_not_come_is_named(node: Path) -> None:
    calls = "usleep() { :; }; find_disk() { return 1; }; mount_small seed cidata $SEED"
    assert run_init_part(calls, node, status=9) == "vclust: failed seed: no disk labelled cidata after 10 s\n"


@busybox
def test_a_failing_command_makes_one_line(node: Path) -> None:
    said = run_init_part("""try grow sh -c 'echo first; echo second >&2; exit 3'""", node, status=9)
    assert said == "vclust: failed grow: first second\n"
    (node / "console").unlink()
    assert run_init_part("try grow false", node, status=9) == "vclust: failed grow: false: exit status 1\n"


# --- self-check, with this machine as the node ---


def self_check(expected: str, tmp_path: Path) -> str:
    (tmp_path / "expected").write_text(expected)
    environment = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "VCLUST_EXPECTED": str(tmp_path / "expected"),
        "VCLUST_CONSOLE": str(tmp_path / "said"),
    }
    subprocess.run([GUEST / "self-check"], env=environment, check=False)
    return (tmp_path / "said").read_text()


def own_version(package: str) -> str:
    words = ["dpkg-query", "-W", "-f", "${Version}", package]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


@pytest.mark.skipif(shutil.which("dpkg-query") is None, reason="needs dpkg")
class TestSelfCheck:
    def test_fine(self, tmp_path: Path) -> None:
        expected = (
            f"package dpkg {own_version('dpkg')}\nuser root 0\nhost localhost 127.0.0.1\ndisk 1000000\n"
        )
        assert re.fullmatch(r"vclust: ready up=\d+\.\d+ packages=1\n", self_check(expected, tmp_path))

    def test_packages_and_keys_are_the_users_once_they_were_right(self, tmp_path: Path) -> None:
        fine = f"package dpkg {own_version('dpkg')}\nuser root 0\n"
        changed = "package dpkg 0.1\nkey root 0123\nuser root 0\n"
        assert self_check(changed, tmp_path).startswith("vclust: failed package")
        assert self_check(fine, tmp_path).startswith("vclust: ready")
        assert self_check(changed, tmp_path).startswith("vclust: ready")
        assert self_check(changed.replace("root 0", "root 7"), tmp_path).startswith("vclust: failed user")

    @pytest.mark.parametrize(
        ("line", "said"),
        [
            ("package dpkg 0.1", "failed package: dpkg: expected 0.1, is 1"),
            ("package no-such-thing 1", "failed package: no-such-thing: expected 1, is not installed"),
            ("user root 7", "failed user: root: expected uid 7, is 0"),
            ("user nosuchuser 7", "failed user: nosuchuser: expected uid 7, is not there"),
            ("host localhost 10.1.1.1", "failed host: localhost: expected 10.1.1.1, resolves to 127.0.0.1"),
            ("disk 9000000000000000", "failed disk: file system of "),
            ("key root 0123", "failed key: authorized_keys of root differ"),
            ("nonsense 1 2", "failed self-check: "),
        ],
    )
    def test_says_what_is_wrong(self, line: str, said: str, tmp_path: Path) -> None:
        text = self_check(f"{line}\n", tmp_path)
        assert text.startswith(f"vclust: {said}"), text
        assert text.count("\n") == 1

    def test_nothing_expected_is_a_failure(self, tmp_path: Path) -> None:
        assert self_check("", tmp_path).startswith("vclust: failed self-check: ")


@busybox
def test_a_step_that_fails_shows_its_log(node: Path) -> None:
    """The machine goes off with the disk that the log is on; the console stays."""
    (node / "var/log").mkdir(parents=True)
    as_here = 'chroot() { shift; "$@"; }; STATUS=$ROOT/status'
    # Words of ours in the log must not pass for ours on the console.
    step = "seq 400; echo 'vclust: ready up=1'; echo oops >&2; echo; exit 3"
    said = run_init_part(f'{as_here}; in_system step-1 /bin/sh -c "{step}"', node, status=9).splitlines()
    assert said[0] == "vclust: ready up=1"  # said by the step itself, as it may
    assert said[-1] == "vclust: failed step-1: oops"
    assert said[-3:-1] == ["log: oops", "log: "]
    assert [line for line in said[1:-3] if line.startswith("log: ")] == said[1:-3]
    assert (said[1], said[-4]) == ("log: 104", "log: 400")
    (node / "console").unlink()
    assert run_init_part(f"{as_here}; in_system step-2 /bin/sh -c true; say on", node) == "vclust: on\n"


def test_mpi_is_tried_by_a_program_that_needs_no_header(tmp_path: Path) -> None:
    """With the words of install-packages, in the place of MPI a library that says who has called."""
    if shutil.which("cc") is None:
        pytest.skip("needs a C compiler")
    script = (GUEST / "install-packages").read_text().replace("\\\n", "")
    (words,) = re.findall(r"if command -v cc >/dev/null && cc (.*) >&4 2>&1; then", script)
    command = [
        "cc",
        *(
            word.replace('"', "").replace("$own/mpi-hello.c", str(GUEST / "mpi-hello.c"))
            for word in words.split()
        ),
    ]
    program = tmp_path / "mpi-hello"
    subprocess.run([str(program) if word == "$own/mpi-hello" else word for word in command], check=True)
    alone = subprocess.run([program], capture_output=True, text=True, env={"LD_LIBRARY_PATH": str(tmp_path)})
    if (alone.returncode, alone.stdout) != (1, "no MPI library\n"):
        assert re.fullmatch(r"rank 0 of 1 on \S+\n", alone.stdout)  # this machine has an MPI
    for world in ("", "int ompi_mpi_comm_world;"):
        (tmp_path / "mpi.c").write_text(MPI + world)
        subprocess.run(
            ["cc", "-shared", "-fPIC", "-o", tmp_path / "libmpich.so.12", tmp_path / "mpi.c"], check=True
        )
        said = subprocess.run(
            [program], capture_output=True, text=True, env={"LD_LIBRARY_PATH": str(tmp_path)}
        )
        expected = f"rank {int(bool(world))} of 7 on {os.uname().nodename}\nfinalized\n"
        assert (said.returncode, said.stdout) == (0, expected)

"""Sending an image: real zstd and the real receiver, over a pipe in place of ssh."""

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vclust_py import distribute, request, state
from vclust_py.distribute import send
from vclust_py.errors import VclustError
from vclust_py.hypervisor import Host, Hypervisor
from vclust_py.image import Catalogue, Image, Manifest
from vclust_py.site import PROJECT, Site
from vclust_py.state import Change

RECEIVE = PROJECT / "roles/vm_host/files/receive.py"
NAME = "base-toy-amd64-0123.qcow2"

# What sshd does with the forced command; FOLDER in place of the host's image folder.
SSH = """#!{python}
import importlib.util, os, sys
if {dead!r}:
    sys.exit({dead!r})
spec = importlib.util.spec_from_file_location("receive", {receive!r})
receive = importlib.util.module_from_spec(spec)
spec.loader.exec_module(receive)
receive.IMAGES, receive.PATIENCE = {folder!r}, 2
os.environ["SSH_ORIGINAL_COMMAND"] = " ".join(sys.argv[sys.argv.index("vclust@host.example") + 1:])
sys.exit(receive.main())
"""


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(root=tmp_path / "site")


@pytest.fixture
def there(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    return tmp_path / "images"


@pytest.fixture
def ssh(tmp_path: Path, there: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Puts an `ssh` first in PATH; `dead` is what a real one would say when it cannot connect."""

    def install(dead: str = "", folder: Path = there) -> None:
        program = tmp_path / "bin" / "ssh"
        program.parent.mkdir(exist_ok=True)
        program.write_text(
            SSH.format(python=sys.executable, dead=dead, receive=str(RECEIVE), folder=str(folder))
        )
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")

    install()
    return install


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("mounts")
    folder = tmp_path / "full"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", folder], check=True)


def image(folder: Path, content: bytes, digest: str = "") -> Image:
    path = folder / NAME
    path.write_bytes(content)
    sha256 = digest or hashlib.sha256(content).hexdigest()
    return Image(path, Manifest("base", sha256, "", None, (), 0, "", len(content), 0, 0.0, ()))


CONTENT = os.urandom(3 << 20) + bytes(8 << 20) + b"end"


def test_arrives_whole_and_sparse(site: Site, there: Path, tmp_path: Path, ssh: object) -> None:
    counted: list[int] = []
    send(site, "host1", "host.example", image(tmp_path, CONTENT), counted.append)
    arrived = there / NAME
    assert arrived.read_bytes() == CONTENT
    assert arrived.stat().st_blocks * 512 < 6 << 20
    assert arrived.stat().st_mode & 0o777 == 0o644
    assert sum(counted) == len(CONTENT)
    assert [path.name for path in there.iterdir()] == [NAME]
    # Somebody else was quicker: nothing is written again.
    inode = arrived.stat().st_ino
    send(site, "host1", "host.example", image(tmp_path, CONTENT))
    assert arrived.stat().st_ino == inode


def test_empty(site: Site, there: Path, tmp_path: Path, ssh: object) -> None:
    send(site, "host1", "host.example", image(tmp_path, b""))
    assert (there / NAME).read_bytes() == b""


def test_wrong_digest(site: Site, there: Path, tmp_path: Path, ssh: object) -> None:
    with pytest.raises(
        VclustError, match=rf"host1: {NAME}: refused by the host: its sha256 is .*, not 0{{64}}"
    ):
        send(site, "host1", "host.example", image(tmp_path, CONTENT, "0" * 64))
    assert list(there.iterdir()) == []


def test_full_disk(site: Site, tmp_path: Path, full_disk: Path, ssh: Callable[..., None]) -> None:
    ssh(folder=full_disk)
    with pytest.raises(VclustError, match=r"host1: .*: No space left on device\n  hint: free some space"):
        send(site, "host1", "host.example", image(tmp_path, CONTENT))
    assert list(full_disk.iterdir()) == []


def test_no_folder_for_images(site: Site, tmp_path: Path, ssh: Callable[..., None]) -> None:
    ssh(folder=tmp_path / "none")
    with pytest.raises(VclustError, match="refused by the host: No such file"):
        send(site, "host1", "host.example", image(tmp_path, CONTENT))


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        ("vclust@host.example: Permission denied (publickey).", "playbooks/site.yml"),
        ("No ED25519 host key is known\nHost key verification failed.", "playbooks/site.yml"),
        ("ssh: connect to host host.example port 22: Connection timed out", "is host.example up"),
    ],
)
def test_ssh_does_not_get_in(
    site: Site, tmp_path: Path, ssh: Callable[..., None], said: str, hint: str
) -> None:
    ssh(dead=said)
    with pytest.raises(VclustError) as caught:
        send(site, "host1", "host.example", image(tmp_path, CONTENT))
    assert str(caught.value).startswith(f"host1: {NAME}: not sent: {said.splitlines()[-1]}\n")
    assert hint in str(caught.value)


def test_a_real_ssh_to_nobody(site: Site, tmp_path: Path) -> None:
    with pytest.raises(VclustError, match=r"127\.0\.0\.1 up, and its ssh server|playbooks/site"):
        send(site, "host1", "127.0.0.1", image(tmp_path, CONTENT))


def test_a_host_that_takes_nothing(
    site: Site, tmp_path: Path, ssh: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    hangs = tmp_path / "bin" / "ssh"
    hangs.write_text("#!/bin/sh\nexec sleep 60\n")
    monkeypatch.setattr(distribute, "_STALL", 1.5)
    begun = time.monotonic()
    with pytest.raises(VclustError, match=r"host1: .*: the host has taken nothing for 1\.5 s"):
        send(site, "host1", "host.example", image(tmp_path, os.urandom(8 << 20)))
    with pytest.raises(VclustError, match=r"host1: .*: sent, and no answer for 1\.5 s"):
        send(site, "host1", "host.example", image(tmp_path, b"little"))
    assert time.monotonic() - begun < 10


def test_interrupted(site: Site, tmp_path: Path, ssh: object) -> None:
    (tmp_path / "bin" / "ssh").write_text("#!/bin/sh\nexec sleep 60\n")
    stop, begun = threading.Event(), time.monotonic()
    threading.Timer(0.5, stop.set).start()
    with pytest.raises(VclustError, match="interrupted"):
        send(site, "host1", "host.example", image(tmp_path, os.urandom(8 << 20)), stop=stop)
    assert time.monotonic() - begun < 10


def test_a_dead_transfer_is_cleared_by_the_next(site: Site, there: Path, tmp_path: Path, ssh: object) -> None:
    (there / f"{NAME}.part").write_bytes(b"dead" * 100)
    (there / "kernel-other-0123.img.part").write_bytes(b"dead")
    send(site, "host1", "host.example", image(tmp_path, CONTENT))
    assert [path.name for path in there.iterdir()] == [NAME]
    assert (there / NAME).read_bytes() == CONTENT


def receiver(tmp_path: Path, command: str) -> "subprocess.Popen[bytes]":
    words = [tmp_path / "bin" / "ssh", "vclust@host.example", *command.split(" ")]
    return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=False)


@pytest.mark.parametrize(
    "command",
    [
        "",
        "ls",
        f"receive {NAME} 3",
        f"receive {NAME} -3 {'0' * 64}",
        f"receive {NAME} ³ {'0' * 64}",
        f"receive {NAME} 3 {'g' * 64}",
        f"receive ../{NAME} 3 {'0' * 64}",
        f"receive other-toy.qcow2 3 {'0' * 64}",
        f"receive base-a/../../b.qcow2 3 {'0' * 64}",
        f"receive base-toy.qcow2.part 3 {'0' * 64}",
        f"receive base-toy.sh 3 {'0' * 64}",
        f"receive base-toy.img\n 3 {'0' * 64}",
    ],
)
def test_other_commands_are_refused(tmp_path: Path, there: Path, ssh: object, command: str) -> None:
    process = receiver(tmp_path, command)
    said = process.communicate(b"")[0]
    assert process.returncode == 1
    assert b'{"error": ' in said
    assert list(there.iterdir()) == []


def test_a_sender_that_dies_or_goes_silent(tmp_path: Path, there: Path, ssh: object) -> None:
    packed = subprocess.run(["zstd", "-c"], input=CONTENT, capture_output=True, check=True).stdout
    digest = hashlib.sha256(CONTENT).hexdigest()
    for silent in (False, True):
        process = receiver(tmp_path, f"receive {NAME} {len(CONTENT)} {digest}")
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(packed[: len(packed) // 2])
        process.stdin.flush()
        if not silent:
            process.stdin.close()
        said = process.stdout.readline()
        assert (b"nothing came for 2 s" if silent else b"were announced") in said
        assert process.wait(20) == 1
        assert list(there.iterdir()) == []


def test_more_than_announced(tmp_path: Path, there: Path, ssh: object) -> None:
    packed = subprocess.run(["zstd", "-c"], input=CONTENT, capture_output=True, check=True).stdout
    process = receiver(tmp_path, f"receive {NAME} 1000 {'0' * 64}")
    assert b"more than the 1000 bytes" in process.communicate(packed)[0]
    assert list(there.iterdir()) == []


def test_two_at_once(site: Site, tmp_path: Path, there: Path, ssh: object) -> None:
    """The second waits for the first, and finds the file there; or takes over when the first dies."""
    one = image(tmp_path, CONTENT)
    command = f"receive {NAME} {len(CONTENT)} {one.manifest.digest}"
    first = receiver(tmp_path, command)
    end = time.monotonic() + 20
    while not (there / f"{NAME}.part").exists():
        assert time.monotonic() < end
        time.sleep(0.02)
    second = threading.Thread(target=send, args=(site, "host1", "host.example", one))
    second.start()
    time.sleep(0.3)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    second.join(30)
    assert [path.name for path in there.iterdir()] == [NAME]
    assert (there / NAME).read_bytes() == CONTENT


def test_a_second_transfer_does_not_touch_what_the_first_has_written(
    tmp_path: Path, there: Path, ssh: object
) -> None:
    content = os.urandom(8 << 20)
    one = image(tmp_path, content)
    packed = subprocess.run(["zstd", "-1", "-c", "-q", one.path], capture_output=True, check=True).stdout
    command = f"receive {NAME} {len(content)} {one.manifest.digest}"
    first = receiver(tmp_path, command)
    assert first.stdin is not None
    first.stdin.write(packed[: len(packed) // 2])
    first.stdin.flush()
    part, end = there / f"{NAME}.part", time.monotonic() + 20
    while not (part.exists() and part.stat().st_size):
        assert time.monotonic() < end
        time.sleep(0.02)
    second = receiver(tmp_path, command)
    time.sleep(0.5)  # it has opened the file by now, and waits
    first.communicate(packed[len(packed) // 2 :])
    second.communicate(b"")
    assert (first.returncode, second.returncode) == (0, 0)
    assert (there / NAME).read_bytes() == content


class Driver:
    """As much of a hypervisor as the phase asks for: what images a host has."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def files(self, folder: str) -> "Driver":
        return self

    def images(self) -> dict[str, int]:
        return {path.name: path.stat().st_size for path in self.folder.iterdir()}

    def close(self) -> None:
        pass


@pytest.fixture
def layered(site: Site) -> dict[str, str]:
    """Images of a site, by role: a layer on a cache on a base, and a kernel."""
    catalogue, made = Catalogue(site), {}
    site.make_directories()
    backing = None
    for kind, role in (("base", "base"), ("layer", "middle"), ("layer", "root"), ("kernel", "kernel")):
        with catalogue.building(kind, role) as folder:
            (folder / "file").write_bytes(role.encode() * 1000)
            one = catalogue.add(
                folder / "file", kind=kind, key=role, backing=backing if kind == "layer" else None
            )
        backing, made[role] = one, one.manifest.digest
    return made


def placed(site: Site, images: dict[str, str], *uris: str) -> None:
    asked = {"hardware": {"number_of_nodes": len(uris)}, "software": {"name": "pair"}}
    state.register(site, request.from_mapping(asked, "test"))
    with state.connect(site) as connection:
        for number, uri in enumerate(uris):
            connection.execute(
                "INSERT INTO nodes VALUES (1, ?, ?, ?, ?, 'a', 'm', 'u', 1, 1, 1, 'placed', '')",
                (number, f"n{number}", f"h{number}", uri),
            )
    state.update(site, state.get(site, "pair"), images=images)


def test_phase_four_ways(site: Site, there: Path, layered: dict[str, str], ssh: object) -> None:
    placed(site, {role: layered[role] for role in ("root", "kernel")}, "xen+tls://host.example/system")

    def run(check: bool) -> Change:
        return distribute.distribute(site, "pair", check=check, connect=lambda _, host: Driver(there))

    names = sorted(image.path.name for image in Catalogue(site).images())
    would = run(True)
    assert would.changed
    assert would.before == {"lacks": {"h0": names}}
    assert list(there.iterdir()) == []
    assert run(False) == would
    assert sorted(path.name for path in there.iterdir()) == names
    (record,) = [one for one in state.describe(site, "pair")[0]["phases"] if one["phase"] == "distribute"]
    assert record["outcome"] == "done"
    assert record["bytes"] == sum(path.stat().st_size for path in there.iterdir())
    rows = state.progress(site, "pair")
    assert rows[-1]["node"] == "h0"
    assert rows[-1]["done"] == rows[-1]["total"] == record["bytes"] // 10**6
    assert not run(False).changed
    assert not run(True).changed
    # One that went is sent again, the others are not.
    (there / names[0]).unlink()
    assert run(False).before == {"lacks": {"h0": names[:1]}}


def test_nothing_to_do_on_the_site_manager(site: Site, layered: dict[str, str]) -> None:
    placed(site, layered, "qemu:///system")

    def connect(site: Site, host: Host) -> Hypervisor:
        raise AssertionError

    assert not distribute.distribute(site, "pair", connect=connect).changed
    assert state.describe(site, "pair")[0]["phases"] == []


def test_one_host_fails_and_the_other_is_supplied(
    site: Site, there: Path, tmp_path: Path, layered: dict[str, str], ssh: object
) -> None:
    uris = "xen+tls://host.example/system", "xen+tls://127.0.0.1:1/system"
    placed(site, {"kernel": layered["kernel"]}, *uris)
    (tmp_path / "empty").mkdir()
    # The receiver in place of ssh only knows the first by name.
    with pytest.raises(VclustError, match=r"^h1: kernel-\S+: not sent") as caught:
        distribute.distribute(
            site,
            "pair",
            connect=lambda _, host: Driver(there if host.name == "h0" else tmp_path / "empty"),
        )
    assert "h0" not in str(caught.value)
    assert len(list(there.iterdir())) == 1
    assert state.describe(site, "pair")[0]["detail"].startswith("distribute failed: h1: ")


def test_without_images(site: Site) -> None:
    placed(site, {}, "xen+tls://host.example/system")
    with pytest.raises(VclustError, match="images are not made"):
        distribute.distribute(site, "pair")

"""Files through chains of a few hops, from end to end."""

import hashlib
import os
import socket
import stat
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from hops import Hosts
from test_module import call

from vclust_hop import files, messages, store, wire
from vclust_py.chain import PORT, File, Hop, Options, Progress, lacking, send
from vclust_py.chain.connections import rack_by_rack
from vclust_py.chain.head import block_for
from vclust_py.chain.sender import Sending, Source
from vclust_py.errors import VclustError

MB = 1 << 20
BLOCK = Options(block=1 << 16)


def made(path: Path, size: int) -> File:
    path.write_bytes(
        (os.urandom(size - 1) + b"x") if size else b""
    )  # a last block of zeros would not be sent
    return File(path)


def contents(folder: Path) -> dict[str, bytes]:
    """Leftovers too."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("size", [0, 1, (1 << 16) - 1, 1 << 16, (1 << 16) + 1, 3 * MB + 7])
@pytest.mark.parametrize("options", [BLOCK, Options(block=1 << 16, encrypt=True)])
def test_every_host_gets_it_once(hosts: Hosts, tmp_path: Path, size: int, options: Options) -> None:
    file = made(tmp_path / "image", size)
    running = hosts.start(3)
    hops = [host.hop for host in running]
    head = hosts.trust.head
    assert lacking([file], hops, head, options) == ({hop.name: ("image",) for hop in hops}, {})
    for outcome in send([file], hops, head, options):
        assert (outcome.arrived, outcome.had, outcome.failed) == (("image",), (), "")
        assert outcome.received == size
    for host in running:
        assert contents(host.folder) == {"image": file.path.read_bytes()}
    assert lacking([file], hops, head, options) == ({hop.name: () for hop in hops}, {})
    for outcome in send([file], hops, head, options):
        assert (outcome.arrived, outcome.had, outcome.received) == ((), ("image",), 0)


def test_many_files_with_any_names(hosts: Hosts, tmp_path: Path) -> None:
    sizes = {"a b": 10, "größe.img": MB, "empty": 0, "日本": 1 << 16, "x" * 255: 5, "z": 2 * MB + 1, "y": 6}
    files = [made(tmp_path / name, size) for name, size in sizes.items()]
    os.chmod(tmp_path / "a b", 0o640)
    os.utime(tmp_path / "a b", ns=(1, 1_000_000_007))
    running = hosts.start(2)
    for outcome in send(files, [host.hop for host in running], hosts.trust.head, BLOCK):
        assert outcome.failed == ""
        assert sorted(outcome.arrived) == sorted(sizes)
    for host in running:
        assert contents(host.folder) == {file.path.name: file.path.read_bytes() for file in files}
        status = (host.folder / "a b").stat()
        assert (stat.S_IMODE(status.st_mode), status.st_mtime_ns) == (0o640, 1_000_000_007)


def test_small_files_go_together(hosts: Hosts, tmp_path: Path) -> None:
    files = [made(tmp_path / f"file{number}", number) for number in range(1, 400)]
    running = hosts.start(2)
    hops = [host.hop for host in running]
    for _ in range(2):
        send(files, hops, hosts.trust.head, BLOCK)
        for host in running:
            assert contents(host.folder) == {file.path.name: file.path.read_bytes() for file in files}
    # One is another now: its pack is corrected from the first block that differs.
    (running[0].folder / "file397").write_bytes(bytes(397))
    first, second = send(files, hops, hosts.trust.head, BLOCK)
    assert first.received < 1 << 16
    assert (len(first.arrived), len(second.had)) == (399, 399)
    assert (running[0].folder / "file397").read_bytes() == files[396].path.read_bytes()


def test_small_files_with_digests_go_together(hosts: Hosts, tmp_path: Path) -> None:
    def known(file: File) -> File:
        return File(file.path, digest=hashlib.sha256(file.path.read_bytes()).hexdigest())

    files = [known(made(tmp_path / f"file{number}", number)) for number in range(1, 100)]
    running = hosts.start(2)
    hops = [host.hop for host in running]
    files[50].path.write_bytes(bytes(51))
    with pytest.raises(VclustError, match=r"file51: its sha256 is [0-9a-f]{64}, expected [0-9a-f]{64}"):
        send(files, hops, hosts.trust.head, BLOCK)
    for host in running:
        assert not list(host.folder.glob("file*"))
    files[50] = known(files[50])
    for outcome in send(files, hops, hosts.trust.head, BLOCK):
        assert len(outcome.arrived) == 99
    for host in running:
        there = {name: data for name, data in contents(host.folder).items() if name[0] != "."}
        assert there == {file.path.name: file.path.read_bytes() for file in files}


@pytest.mark.parametrize("sizes", [(70_000,), (1, 2, 3)])
def test_a_hop_does_not_take_what_has_another_digest(tmp_path: Path, sizes: tuple[int, ...]) -> None:
    """Whatever a block's tag says: who has the transfer's key can make tags."""
    members = [
        messages.Member(f"file{size}", size, 0o644, 0, hashlib.sha256(b"other").hexdigest()) for size in sizes
    ]
    folder = os.open(tmp_path, os.O_RDONLY)
    copy = files.Copy(0, members, 1 << 16, store.Store(folder, folder))
    try:
        copy.resume()
        for block in range(copy.blocks):
            copy.put((wire.DATA, bytes(16)), memoryview(bytes(copy.length(block))), True)
        with pytest.raises(wire.Failed, match=rf"file{sizes[0]}: its sha256 is [0-9a-f]{{64}}, expected "):
            copy.finish()
    finally:
        copy.close()
        os.close(folder)
    assert list(tmp_path.iterdir()) == []


def test_small_files_of_zeros(hosts: Hosts, tmp_path: Path) -> None:
    files = []
    for name, data in (("data", os.urandom(1000)), ("zeros", bytes(9000)), ("more", bytes(60_000))):
        (tmp_path / name).write_bytes(data)
        files.append(File(tmp_path / name, digest=hashlib.sha256(data).hexdigest()))
    (host,) = hosts.start(1)
    for chosen in (files[1:2], files):
        (outcome,) = send(chosen, [host.hop], hosts.trust.head, BLOCK)
        assert outcome.failed == ""
        assert contents(host.folder) == {file.path.name: file.path.read_bytes() for file in chosen}


def test_digest(hosts: Hosts, tmp_path: Path) -> None:
    path = tmp_path / "image"
    good = hashlib.sha256(made(path, MB + 1).path.read_bytes()).hexdigest()
    (host,) = hosts.start(1)
    with pytest.raises(VclustError, match=f"image: its sha256 is {good}, expected 0000"):
        send([File(path, digest="0" * 64)], [host.hop], hosts.trust.head, BLOCK)
    assert not (host.folder / "image").exists()
    with pytest.raises(VclustError, match=r"empty: its sha256 is e3b0c[0-9a-f]*, expected 0000"):
        send([File(made(tmp_path / "empty", 0).path, digest="0" * 64)], [host.hop], hosts.trust.head)
    (outcome,) = send([File(path, digest=good)], [host.hop], hosts.trust.head, BLOCK)
    assert outcome.arrived == ("image",)


def test_what_is_there_counts_by_content(hosts: Hosts, tmp_path: Path) -> None:
    file = made(tmp_path / "image", MB)
    same, other, tail, shorter = hosts.start(4)
    data = file.path.read_bytes()
    (same.folder / "image").write_bytes(data)
    (other.folder / "image").write_bytes(os.urandom(MB))
    (tail.folder / "image").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    (shorter.folder / "image").write_bytes(data[:-1])
    hops = [host.hop for host in (same, other, tail, shorter)]
    lacks, errors = lacking([file], hops, hosts.trust.head, BLOCK)
    assert [len(lacks[hop.name]) for hop in hops] == [0, 1, 1, 1]
    assert not errors
    assert contents(tail.folder)["image"] != data  # looking changes nothing
    outcomes = send([file], hops, hosts.trust.head, BLOCK)
    assert [outcome.received for outcome in outcomes] == [0, MB, 1 << 16, MB]
    for host in (same, other, tail, shorter):
        assert contents(host.folder) == {"image": data}


def test_holes_stay_holes(hosts: Hosts, tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.seek(4 << 30)
        file.write(b"end")
    running = hosts.start(2)
    outcomes = send([File(path)], [host.hop for host in running], hosts.trust.head)
    assert [outcome.received for outcome in outcomes] == [3, 3]
    for host in running:
        status = (host.folder / "sparse").stat()
        assert status.st_size == (4 << 30) + 3
        assert status.st_blocks * 512 < MB


def test_what_can_be_packed_travels_packed(hosts: Hosts, tmp_path: Path) -> None:
    path = tmp_path / "image"
    some = os.urandom(1 << 10).hex().encode()
    path.write_bytes(some * 1024 + os.urandom(MB) + some[:-5])
    running = hosts.start(3)
    hops = [host.hop for host in running]
    for outcome in send([File(path)], hops, hosts.trust.head, Options(block=1 << 16, compress="on")):
        assert outcome.failed == ""
        assert MB < outcome.received < 1.5 * MB
    for host in running:
        assert contents(host.folder) == {"image": path.read_bytes()}
    # The first holds it, and packs what the others lack by itself.
    for host in running[1:]:
        (host.folder / "image").unlink()
    for outcome in send([File(path)], hops, hosts.trust.head, Options(block=1 << 16, compress="on"))[1:]:
        assert outcome.received > MB
    for compress, size in (("off", path.stat().st_size), ("auto", path.stat().st_size)):
        (running[0].folder / "image").unlink()
        (outcome,) = send([File(path)], hops[:1], hosts.trust.head, Options(compress=compress))
        assert outcome.received == size  # too little for finding out whether it pays


class Clock:
    """A logical one: between two looks at it `step` seconds pass."""

    now = step = 0.0

    def __call__(self) -> float:
        self.now += self.step
        return self.now


def test_packing_pays_on_slow_links_only() -> None:
    words = (b"some words, " * 6000)[: 1 << 16]

    def packed(seconds: float, contents: Sequence[bytes]) -> list[int]:
        """Which of these blocks are, if so many seconds pass while the network takes the first megabytes."""
        clock = Clock()
        one = Sending(bytes(16), bytes(32), 1 << 16, False, clock)
        one.compress = "auto"
        seal = one.seal()
        seal.view[:] = words
        assert not one.pack(0, 0, seal, 1 << 16)
        for _ in range(9):
            one.sent(MB)
            clock.now += seconds / 9
        found = []
        clock.step = 0.001  # packing takes so long
        for block, content in enumerate(contents):
            seal.view[:] = content
            if one.pack(0, block, seal, 1 << 16):
                found.append(block)
        return found

    noise = os.urandom(1 << 16)
    assert packed(2.0, [words] * 9) == list(range(9))
    assert packed(0.0, [words] * 70) == [0, 2, 5, 10, 19, 36, 69]  # to find out whether it would pay now
    assert packed(2.0, [noise] * 10 + [words] * 3) == [10, 11, 12]  # tried at 0, 2, 5 and 10


def test_a_partial_file_is_taken_up_again_and_checked(hosts: Hosts, tmp_path: Path) -> None:
    file = made(tmp_path / "image", 8 * MB)
    (host,) = hosts.start(1)
    (host.folder / "lost+found").mkdir()
    send([file], [host.hop], hosts.trust.head, BLOCK)
    data = file.path.read_bytes()
    (host.folder / "image").unlink()
    name = part_name(file, host.folder)
    (host.folder / name).write_bytes(data[: 4 * MB] + b"rubbish" + bytes(MB))
    (outcome,) = send([file], [host.hop], hosts.trust.head, BLOCK)
    assert outcome.received == 4 * MB
    assert (host.folder / "image").read_bytes() == data
    assert not (host.folder / name).exists()


def test_forgotten_parts_go(hosts: Hosts, tmp_path: Path) -> None:
    (host,) = hosts.start(1)
    names = {
        "." + "a" * 32 + ".part": 8,
        "." + "b" * 32 + ".3.part": 8,
        "." + "c" * 32 + ".part": 6,
        "d.part": 8,
    }
    for name, days in names.items():
        (host.folder / name).touch()
        os.utime(host.folder / name, (time.time() - days * 86400,) * 2)
    send([made(tmp_path / "image", 1)], [host.hop], hosts.trust.head)
    assert sorted(contents(host.folder)) == ["." + "c" * 32 + ".part", "d.part", "image"]


def part_name(file: File, folder: Path) -> str:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        return files.Copy(0, [Source.of(file).member], 1 << 16, store.Store(descriptor, descriptor)).part
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("how", ["written", "replaced", "removed", "cut"])
def test_a_file_that_changes_appears_nowhere(hosts: Hosts, tmp_path: Path, how: str) -> None:
    path = tmp_path / "image"
    path.write_bytes(os.urandom(16 * MB) * 16)
    running = hosts.start(2)

    (tmp_path / "new").write_bytes(path.read_bytes()[:-1] + b"x")

    def change() -> None:
        while not list(running[0].folder.glob(".*.part")):
            time.sleep(0.002)
        if how == "written":
            with path.open("r+b") as file:
                file.write(b"x")
        elif how == "replaced":
            (tmp_path / "new").rename(path)
        elif how == "cut":
            os.truncate(path, MB)
        else:
            path.unlink()

    thread = threading.Thread(target=change)
    thread.start()
    why = "removed" if how == "removed" else "changed"
    with pytest.raises(VclustError, match=f"image: {why} while it was sent"):
        send([File(path)], [host.hop for host in running], hosts.trust.head, BLOCK)
    thread.join()
    for host in running:
        assert not (host.folder / "image").exists()


def test_what_the_head_refuses(hosts: Hosts, tmp_path: Path) -> None:
    file = made(tmp_path / "image", 1)
    (host,) = hosts.start(1)
    head = hosts.trust.head

    def refused(files: list[File], hops: list[Hop], options: Options = BLOCK) -> str:
        with pytest.raises(VclustError) as error:
            send(files, hops, head, options)
        return str(error.value)

    assert "No such file" in refused([File(tmp_path / "nothing")], [host.hop])
    assert "not a file" in refused([File(tmp_path)], [host.hop])
    for name in (".hidden", "a/b", "..", "a\nb", "x" * 256, "\udcff"):
        assert "not a file name" in refused([File(file.path, name)], [host.hop])
    assert "two files of one name" in refused([file, file], [host.hop])
    assert "listed twice" in refused([file], [host.hop, Hop("other", host.hop.address, host.hop.port)])
    assert "block" in refused([file], [host.hop], Options(block=1))
    assert len(send([file], [host.hop, host.hop], head)) == 1


def test_hosts_that_cannot_be_had(hosts: Hosts, tmp_path: Path) -> None:
    file = made(tmp_path / "image", MB)
    nobody = Hop("nobody", "127.0.0.1", 1)
    (outcome,) = send([file], [nobody], hosts.trust.head, BLOCK)
    assert outcome.failed == "not reached: Connection refused"
    with socket.create_server(("127.0.0.1", 0)) as silent:  # as one whose link has just gone down
        hop = Hop("silent", "127.0.0.1", silent.getsockname()[1])
        (outcome,) = send([file], [hop], hosts.trust.head, Options(block=BLOCK.block, stall=0.5, start=0.5))
    assert outcome.failed == "not reached: it took the call and then said nothing for 0.5 s"
    (host,) = hosts.start(1)
    bad, good = send([file], [nobody, host.hop], hosts.trust.head, BLOCK)
    assert (bool(bad.failed), good.arrived) == (True, ("image",))
    lacks, errors = lacking([file], [nobody, host.hop], hosts.trust.head)
    assert (list(lacks), list(errors)) == ([host.hop.name], ["nobody"])


def test_ipv6(hosts: Hosts, tmp_path: Path) -> None:
    file = made(tmp_path / "image", MB)
    running = hosts.start(2, address="::1")
    assert not any(one.failed for one in send([file], [host.hop for host in running], hosts.trust.head))


def test_progress(hosts: Hosts, tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(os.urandom(MB) * 256)
    running = hosts.start(2)
    seen: list[Progress] = []
    send([File(path)], [host.hop for host in running], hosts.trust.head, report=seen.append)
    assert seen
    for progress in seen:
        assert set(progress.done) == {host.hop.name for host in running}
        assert progress.total == 256 * MB
        assert progress.done[progress.slowest] == min(progress.done.values())


def test_blocks_are_small_where_many_hosts_share_little() -> None:
    assert [block_for(size * MB, hops) for size, hops in [(128, 16), (512, 4), (64, 64), (0, 0), (10**6, 1)]] == [
        1 << 17, MB, 1 << 16, 1 << 16, MB
    ]  # fmt: skip


def test_racks_follow_each_other() -> None:
    hops = [Hop(str(number), "h", number, rack) for number, rack in enumerate(["a", "b", "a", "b", "c"])]
    assert [hop.name for hop in rack_by_rack(hops)] == ["0", "2", "1", "3", "4"]


def test_module_four_ways(hosts: Hosts, tmp_path: Path) -> None:
    file = made(tmp_path / "image", MB)
    (host,) = hosts.start(1, port=PORT, name="xen1")
    arguments = {
        "site": {"root": str(hosts.trust.head.ca.parents[1])},
        "files": [{"path": str(file.path), "name": "base.qcow2"}],
        "hosts": [{"name": "here"}, {"name": "xen1", "uri": "xen+tls://127.0.0.1/system"}],
    }
    would = call("vclust_chain", arguments, check=True)
    assert would["diff"] == {"before": {"lacks": {"xen1": ["base.qcow2"]}}, "after": {"lacks": {"xen1": []}}}
    assert would["changed"]
    assert contents(host.folder) == {}
    real = call("vclust_chain", arguments)
    assert (real["changed"], real["diff"]) == (True, would["diff"])
    assert real["sent"]["xen1"]["bytes"] == real["sent"]["xen1"]["received"] == MB
    assert contents(host.folder) == {"base.qcow2": file.path.read_bytes()}
    assert not call("vclust_chain", arguments)["changed"]
    assert not call("vclust_chain", arguments, check=True)["changed"]
    host.end()
    for check in (False, True):
        failed = call("vclust_chain", arguments, check=check)
        assert failed["failed"]
        assert failed["msg"].startswith("xen1: not reached: Connection refused")

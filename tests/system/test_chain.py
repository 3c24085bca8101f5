"""The chain over eight hosts that are network namespaces, links of 200 Mbit/s, and what goes wrong with them.

What arrived is read from the hosts' folders, not taken from what the chain says of itself.
"""

import hashlib
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from chain import keys
from chain.bed import Bed
from chain.head import Head, Sent
from chain.hops import PYTHON, Hops
from chain.host import Host, wait_for_port

from vclust_py.chain import PORT, File
from vclust_py.site import PROJECT

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="namespaces are root's"),
    pytest.mark.skipif(shutil.which("tc") is None, reason="no tc"),
]

MIB = 1 << 20
SIZE = 24 * MIB
"""One second on these links."""
RATE = "200mbit"
STALL = 2.0
START = 5.0
PATIENCE = 60.0


class Site:
    """A bed with its keys."""

    def __init__(self, bed: Bed) -> None:
        self.bed = bed
        self.head, *self.hosts = (Host(bed, number) for number in range(bed.count + 1))
        self.pki = keys.make(bed.folder / "site", self.hosts)

    def sending(
        self, files: Sequence[Path], pki: Path | None = None, hosts: Sequence[Host] | None = None
    ) -> Head:
        """The head, ready to go."""
        chosen = [File(path, path.name, digest(path)) for path in files]
        return Head(self.head, hosts or self.hosts, chosen, pki or self.pki, {"stall": STALL, "start": START})

    def send(self, *files: Path, **options: object) -> Sent:
        with self.sending(files, **options) as head:  # type: ignore[arg-type]
            head.go()
            return head.wait(PATIENCE)

    def tidy(self) -> None:
        for host in self.hosts:
            host.plug()
            host.empty()


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    bed = Bed(8, "vcc-test")
    bed.down()  # of a test run that was killed
    bed.up()
    try:
        bed.shape(RATE)
        yield Site(bed)
    finally:
        bed.down()


@pytest.fixture
def hops(site: Site) -> Iterator[Hops]:
    with Hops(site.hosts) as running:
        yield running


@pytest.fixture(autouse=True)
def tidy(site: Site) -> Iterator[None]:
    yield
    site.tidy()


@pytest.fixture(scope="module")
def image(site: Site) -> Path:
    return made(site.bed.folder / "image.qcow2", SIZE)


def made(path: Path, size: int) -> Path:
    path.write_bytes(os.urandom(size))
    return path


def digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def whole(hosts: Sequence[Host], *files: Path) -> list[str]:
    """Names of the hosts that have the files, whole and under their names."""
    return [
        host.name
        for host in hosts
        if all(
            (host.store / file.name).is_file() and digest(host.store / file.name) == digest(file)
            for file in files
        )
    ]


def names(hosts: Sequence[Host]) -> list[str]:
    return [host.name for host in hosts]


def altered(folder: Path, *lines: str) -> Path:
    """A program that is the hop's, but for what the lines do to its modules."""
    path = folder / "altered.py"
    begin = (
        "import sys",
        f"sys.path.insert(0, {str(PROJECT)!r})",
        "from vclust_hop import sending, session",
        "from vclust_hop.__main__ import main",
    )
    path.write_text("\n".join((*begin, *lines, "main()")) + "\n")
    return path


def partial(host: Host) -> list[str]:
    return [path.name for path in host.store.iterdir() if path.name.startswith(".")]


def until(held: int, host: Host, head: Head) -> None:
    """Until the host holds so many bytes of the file that the head sends."""
    deadline = time.monotonic() + PATIENCE
    while host.stored() < held:
        assert head.process.poll() is None, f"the head has ended\n{head.wait(1)}"
        assert time.monotonic() < deadline, f"{host.name} gets nothing"
        time.sleep(0.005)


# ---- when all goes well ----


def test_many_files_arrive_and_the_second_time_nothing_is_sent(site: Site, hops: Hops) -> None:
    folder = site.bed.folder / "many"
    folder.mkdir()
    files = [made(folder / f"small{number:03}", number * 100) for number in range(200)]
    files += [made(folder / "with spaces and Umlaute äöü.img", 3 * MIB + 1), made(folder / "nothing", 0)]
    sparse = folder / "sparse"
    with open(sparse, "wb") as file:
        file.truncate(256 * MIB)
        file.seek(100 * MIB)
        file.write(b"in the middle")
    files.append(sparse)

    sent = site.send(*files)
    assert not sent.error
    assert sent.failed() == {}
    assert whole(site.hosts, *files) == names(site.hosts)
    for host in site.hosts:
        assert (host.store / "sparse").stat().st_blocks * 512 < 8 * MIB
        assert partial(host) == []

    again = site.send(*files)
    assert again.failed() == {}
    for outcome in again.outcomes.values():
        assert (outcome["arrived"], len(outcome["had"]), outcome["received"]) == ([], len(files), 0)


def test_a_host_that_has_it_already_only_forwards(site: Site, hops: Hops, image: Path) -> None:
    holders = site.hosts[2:4]
    for host in holders:
        shutil.copy(image, host.store)
    sent = site.send(image)
    assert sent.failed() == {}
    assert whole(site.hosts, image) == names(site.hosts)
    assert {name for name, outcome in sent.outcomes.items() if outcome["had"]} == set(names(holders))


def test_a_file_of_that_name_and_size_with_other_contents_is_replaced(
    site: Site, hops: Hops, image: Path
) -> None:
    made(site.hosts[3].store / image.name, SIZE)
    assert site.send(image).failed() == {}
    assert whole(site.hosts, image) == names(site.hosts)


def test_progress_of_all_hosts_is_seen_at_the_head(site: Site, hops: Hops, image: Path) -> None:
    sent = site.send(image)
    assert sent.progress
    assert set(sent.progress[0]["done"]) == set(names(site.hosts))
    assert all(0 <= done <= SIZE for progress in sent.progress for done in progress["done"].values())
    assert all(progress["slowest"] in progress["done"] for progress in sent.progress)


# ---- hosts that fail half-way ----

FAULTS = [
    ("kill", (4,)),
    ("freeze", (4,)),
    ("unplug", (4,)),
    ("kill", (1,)),
    ("unplug", (1,)),
    ("freeze", (8,)),
    ("kill", (4, 5)),
    ("freeze", (4, 5)),
    ("unplug", (1, 8)),
]


@pytest.mark.parametrize(("fault", "numbers"), FAULTS, ids=lambda value: str(value).replace(" ", ""))
def test_a_host_that_fails_is_named_and_all_others_have_the_file(
    site: Site, hops: Hops, image: Path, fault: str, numbers: tuple[int, ...]
) -> None:
    victims = [site.hosts[number - 1] for number in numbers]
    with site.sending([image]) as head:
        head.go()
        until(SIZE // 2, victims[0], head)
        for victim in victims:
            match fault:
                case "kill":
                    hops.kill(victim)
                case "freeze":
                    hops.freeze(victim)
                case "unplug":
                    victim.unplug()
        sent = head.wait(PATIENCE)
    others = [host for host in site.hosts if host not in victims]
    assert whole(site.hosts, image) == names(others)
    assert set(sent.failed()) == set(names(victims))
    assert all(sent.failed().values())
    # Nobody starts anew: little more than the file has come to anyone.
    assert all(sent.outcomes[host.name]["received"] <= SIZE + 4 * MIB for host in others)


def test_a_host_with_a_full_disk_is_named(site: Site, image: Path) -> None:
    victim = site.hosts[2]
    victim.small_disk(SIZE // 2)
    try:
        with Hops(site.hosts):
            sent = site.send(image)
        assert whole(site.hosts, image) == [name for name in names(site.hosts) if name != victim.name]
        assert sent.failed().keys() == {victim.name}
        assert "space" in sent.failed()[victim.name]
    finally:
        victim.whole_disk()


def test_a_host_behind_a_slow_link_holds_up_nobody(site: Site, hops: Hops, image: Path) -> None:
    """It would take a minute and a half."""
    victim = site.hosts[3]
    victim.slow("2mbit")
    try:
        with site.sending([image]) as head:
            head.go()
            for host in site.hosts:
                if host is not victim:
                    until(SIZE, host, head)
            waited = [host for host in site.hosts if host is not victim]
            assert victim.stored() < SIZE
            assert partial(victim)
            # A hop gives the file its name as soon as it has it.
            deadline = time.monotonic() + PATIENCE
            while whole(waited, image) != names(waited):
                assert time.monotonic() < deadline
                time.sleep(0.2)
    finally:
        victim.slow(RATE)


def test_a_host_that_sends_wrong_data_is_named(site: Site, image: Path, tmp_path: Path) -> None:
    """Its service has one bit of each later block wrong, on the way out."""
    bad = altered(
        tmp_path,
        "right = sending.Transfer._block",
        "def wrong(self, item, block, *more):",
        "    view = right(self, item, block, *more)",
        "    view[0] ^= block > 8",
        "    return view",
        "sending.Transfer._block = wrong",
    )
    victim = site.hosts[2]
    others = [host for host in site.hosts if host is not victim]
    with Hops(others), Hops([victim], program=bad):
        sent = site.send(image)
    # What it has itself was checked as it came; that it is to blame the head cannot know.
    assert sent.failed() == {}
    assert whole(site.hosts, image) == names(site.hosts)
    told = f"n4 got wrong data from {victim.name}: a block has a wrong tag; "
    warned = {name: outcome["warnings"] for name, outcome in sent.outcomes.items() if outcome["warnings"]}
    assert warned.keys() == {victim.name, "n4"}
    assert all(len(texts) == 1 and texts[0].startswith(told) for texts in warned.values())


def test_the_head_dies_and_what_has_come_is_kept(site: Site, hops: Hops, image: Path) -> None:
    with site.sending([image]) as head:
        head.go()
        until(SIZE // 2, site.hosts[-1], head)
    assert whole(site.hosts, image) == []
    deadline = time.monotonic() + PATIENCE
    while any(threads(process.pid) > 1 for process in hops.processes.values()):
        assert time.monotonic() < deadline, "a hop still works for a head that is gone"
        time.sleep(0.1)
    sent = site.send(image)
    assert sent.failed() == {}
    assert whole(site.hosts, image) == names(site.hosts)
    assert all(outcome["received"] < SIZE * 2 // 3 for outcome in sent.outcomes.values())
    assert all(partial(host) == [] for host in site.hosts)


def threads(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


# ---- hosts that cannot take part ----


def test_no_host_is_reached(site: Site, image: Path) -> None:
    sent = site.send(image)
    assert sent.error or set(sent.failed()) == set(names(site.hosts))
    assert whole(site.hosts, image) == []


def test_hosts_that_are_off_are_named(site: Site, image: Path) -> None:
    running = [host for host in site.hosts if host.number not in (1, 5)]
    site.hosts[0].unplug()
    with Hops(running):
        sent = site.send(image)
    assert set(sent.failed()) == {"n1", "n5"}
    assert whole(site.hosts, image) == names(running)


def test_only_the_site_manager_may_send(site: Site, hops: Hops, image: Path, tmp_path: Path) -> None:
    stranger = keys.make(tmp_path / "other", [])
    # A CA of the stranger's would refuse the hops; with ours it is for the hops to refuse the stranger.
    shutil.copy(site.pki / "cacert.pem", stranger / "cacert.pem")
    sent = site.send(image, pki=stranger)
    assert set(sent.failed()) == set(names(site.hosts))

    host = tmp_path / "host"
    host.mkdir()
    for ours, name in (("ca", "cacert"), ("cert", "clientcert"), ("key", "clientkey")):
        shutil.copy(site.hosts[0].folder / f"{ours}.pem", host / f"{name}.pem")
    sent = site.send(image, pki=host)
    assert set(sent.failed()) == set(names(site.hosts))
    assert all(list(host.store.iterdir()) == [] for host in site.hosts)


def test_a_host_of_another_site_gets_nothing(site: Site, image: Path, tmp_path: Path) -> None:
    victim = site.hosts[3]
    ours = {path: path.read_bytes() for path in victim.folder.glob("*.pem")}
    try:
        keys.make(tmp_path / "other", [victim])
        with Hops(site.hosts):
            sent = site.send(image)
    finally:
        for path, data in ours.items():
            path.write_bytes(data)
    assert sent.failed().keys() == {victim.name}
    assert list(victim.store.iterdir()) == []
    assert whole(site.hosts, image) == [name for name in names(site.hosts) if name != victim.name]


def test_a_hop_of_another_version_is_named(site: Site, image: Path, tmp_path: Path) -> None:
    old = altered(tmp_path, "session.VERSION = 0")
    victim = site.hosts[3]
    others = [host for host in site.hosts if host is not victim]
    with Hops(others), Hops([victim], program=old):
        sent = site.send(image)
    assert sent.failed().keys() == {victim.name}
    assert "version 0" in sent.failed()[victim.name]
    assert whole(site.hosts, image) == names(others)


def test_a_port_in_use_is_told_and_somebody_else_there_is_no_hop(site: Site, image: Path) -> None:
    victim = site.hosts[3]
    others = [host for host in site.hosts if host is not victim]
    listen = f"import socket, time; held = socket.create_server(('', {PORT})); time.sleep(600)"
    other = victim.start([PYTHON, "-c", listen])
    wait_for_port(victim, other, PORT)
    try:
        with Hops(others):
            with Hops([victim]) as vain:
                assert vain.processes[victim.number].wait(PATIENCE) != 0
            assert "in use" in victim.log()
            sent = site.send(image)
    finally:
        other.kill()
        other.wait()
    assert sent.failed().keys() == {victim.name}
    assert whole(site.hosts, image) == names(others)


@pytest.mark.skipif(shutil.which("iptables") is None, reason="no iptables")
def test_a_host_that_loses_large_packets_is_named(site: Site, image: Path) -> None:
    victim = site.hosts[3]
    victim.lose_large_packets()
    try:
        with Hops(site.hosts):
            sent = site.send(image)
    finally:
        victim.take_large_packets()
    assert sent.failed().keys() == {victim.name}
    assert whole(site.hosts, image) == [name for name in names(site.hosts) if name != victim.name]


def test_strangers_that_say_nothing_do_not_keep_the_chain_out(site: Site, hops: Hops, image: Path) -> None:
    """More connections than a hop bears, from its neighbour; closed after a while; the head tries again."""
    victim, neighbour = site.hosts[3], site.hosts[4]
    flood = (
        "import socket, time\n"
        f"held = [socket.create_connection(({victim.address!r}, {PORT})) for _ in range(40)]\n"
        "time.sleep(60)"
    )
    strangers = neighbour.start([PYTHON, "-c", flood])
    try:
        time.sleep(1)
        sent = site.send(image)
    finally:
        strangers.kill()
        strangers.wait()
    assert sent.failed() == {}


# ---- faults of the head's own ----


def test_a_file_that_changes_while_it_is_sent_appears_nowhere(site: Site, hops: Hops) -> None:
    changing = made(site.bed.folder / "changing", SIZE)
    with site.sending([changing]) as head:
        head.go()
        until(SIZE // 4, site.hosts[0], head)
        with open(changing, "r+b") as file:
            file.write(b"changed")
        sent = head.wait(PATIENCE)
    assert "changed while it was sent" in sent.error
    assert all(not (host.store / "changing").exists() for host in site.hosts)


def test_a_file_that_is_removed_while_it_is_sent_appears_nowhere(site: Site, hops: Hops) -> None:
    going = made(site.bed.folder / "going", SIZE)
    with site.sending([going]) as head:
        head.go()
        until(SIZE // 4, site.hosts[0], head)
        going.unlink()
        sent = head.wait(PATIENCE)
    assert "removed" in sent.error
    assert all(not (host.store / "going").exists() for host in site.hosts)


# ---- IPv6 ----


def test_over_ipv6_alone() -> None:
    bed = Bed(3, "vcc-test6", family=6)
    bed.down()
    bed.up()
    try:
        six = Site(bed)
        file = made(bed.folder / "file", 3 * MIB)
        with Hops(six.hosts):
            sent = six.send(file)
        assert sent.failed() == {}
        assert whole(six.hosts, file) == ["n1", "n2", "n3"]
    finally:
        bed.down()

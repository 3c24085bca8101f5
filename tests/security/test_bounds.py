"""What nodes and hosts send is read in bounded pieces, however much it is."""

import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import libvirt
import pytest
from anode import NODE

from vclust_py.errors import VclustError
from vclust_py.guest.console import _LONGEST, Watch
from vclust_py.hypervisor import Host
from vclust_py.hypervisor.domains import parsed
from vclust_py.hypervisor.storage import LOOK, Pool, is_file_name, read_from
from vclust_py.run import CommandError, run
from vclust_py.site.states import NodeState


def a_watch(path: Path) -> Watch:
    return Watch(NODE, lambda position: read_from(path, position), 0.0, NodeState.STARTED)


def everything(watch: Watch, looks: int) -> list[tuple[str, str]]:
    return [line for _ in range(looks) for line in watch.read()]


def test_a_look_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "console"
    path.write_bytes(b"x" * (3 * LOOK))
    assert [len(read_from(path, position)) for position in (0, LOOK, 3 * LOOK - 5, 4 * LOOK, -7, -5 * LOOK)] == [
        LOOK, LOOK, 5, 0, 7, LOOK,
    ]  # fmt: skip
    assert read_from(tmp_path / "none", 0) == b""


MEMORY = """
import resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from vclust_py.hypervisor.storage import read_from
from vclust_py.guest.console import Watch
from vclust_py.site.states import NodeState
path = Path(sys.argv[1])
watch = Watch(None, lambda position: read_from(path, position), 0.0, NodeState.STARTED)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for _ in range(200):
    watch.read()
watch.last_words()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_a_console_of_a_gigabyte_takes_no_memory(tmp_path: Path) -> None:
    """Without a line end, so that nothing of it is ever a line; sparse, so that it is read as fast as can be."""
    path = tmp_path / "console"
    with open(path, "wb") as file:
        file.truncate(1 << 30)
    project = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, path, project], capture_output=True, text=True, check=True, timeout=100
    )
    assert int(done.stdout) < 40 * 1024, f"{done.stdout} KiB more"
    assert resource.getpagesize()


def test_a_report_behind_megabytes_is_found(tmp_path: Path) -> None:
    path = tmp_path / "console"
    spam = b"[  1.0] " + b"y" * 70 + b"\r\n"
    with open(path, "wb") as file:
        file.write(b"vclust: installer up=1\r\n" + spam * (5 * LOOK // len(spam)))
        file.write(b"z" * (2 * LOOK) + b"\n" + b"vclust: ready up=9 packages=2\r\n")
    watch = a_watch(path)
    assert everything(watch, 12) == [("installer", "up=1"), ("ready", "up=9 packages=2")]
    with path.open("ab") as file:
        file.write(b"z" * (3 * LOOK))
    assert everything(watch, 6) == []
    assert len(watch.rest) <= _LONGEST


@pytest.mark.parametrize("length", [0, 10, 100, 5000])
def test_a_console_that_was_put_away_for_a_new_one(tmp_path: Path, length: int) -> None:
    """As virtlogd does at 2 MiB: the new file may be shorter, or longer already, than what was read."""
    path = tmp_path / "console"
    path.write_bytes(b"[ 0.1] kernel says this\n" * 40 + b"vclust: inst")
    watch = a_watch(path)
    assert watch.read() == []
    path.rename(tmp_path / "console.0")
    path.write_bytes(b"q" * length + b"\n" + b"vclust: ready up=1\n")
    assert everything(watch, 3) == [("ready", "up=1")]


@pytest.mark.parametrize(
    "unit",
    [
        b"vclust: ready ",
        b"vclust: ready \r",
        b"vclust: progress x 1/2 ",
        b"vclust: ",
        b"\r",
        b"\n",
        b"vclust: took x 1.00\n",
    ],
)
def test_reading_a_full_look_is_quick(tmp_path: Path, unit: bytes) -> None:
    path = tmp_path / "console"
    path.write_bytes((unit * LOOK)[: LOOK - 3] + b"\rx\n")
    begun = time.process_time()
    a_watch(path).read()
    assert time.process_time() - begun < 10  # hostile input could take minutes


def test_a_line_of_ours_may_be_long_and_come_in_pieces(tmp_path: Path) -> None:
    path = tmp_path / "console"
    watch = a_watch(path)
    lines = []
    for piece in (b"kernel" * 2000, b" vclust: fai", b"led packages: ", b"why " * 5000, b"why\n"):
        with path.open("ab") as file:
            file.write(piece)
        lines += watch.read()
    ((word, rest),) = lines
    assert (word, rest[:18]) == ("failed", "packages: why why ")


def test_last_words_are_of_the_end_and_short(tmp_path: Path) -> None:
    path = tmp_path / "console"
    path.write_bytes(b"first\n" + b"x" * (3 * LOOK) + b"\n" + b"\x1b[31mlast \x9b words\n")
    words = a_watch(path).last_words()
    assert "\\x1b[31mlast" in words
    assert "first" not in words
    assert len(words) < 2000


def test_a_command_that_prints_without_end() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for stream in ("", " >&2"):
        with pytest.raises(CommandError, match="it printed more than 1048576 bytes"):
            run(["sh", "-c", f"exec cat /dev/zero{stream}"], limit=1 << 20, timeout=60)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 60 * 1024


# libvirt of a host ------------------------------------------------------------------------------------------------


class Stream:
    """Sends for ever, whatever was asked for."""

    aborted = finished = False

    def recv(self, count: int) -> bytes:
        return b"x" * count

    def abort(self) -> None:
        self.aborted = True

    def finish(self) -> None:
        self.finished = True


class Volume:
    def __init__(self, name: str, size: int = 5) -> None:
        self._name, self._size = name, size

    def name(self) -> str:
        return self._name

    def infoFlags(self, flags: int) -> list[int]:
        return [libvirt.VIR_STORAGE_VOL_FILE, 0, self._size]

    def download(self, stream: Stream, position: int, length: int) -> None:
        self.asked = position, length


class RemotePool:
    """A host's answers, as libvirt's Python hands them over."""

    def __init__(self, volumes: list[Volume]) -> None:
        self.volumes = volumes

    def isActive(self) -> bool:
        return True

    def refresh(self) -> None:
        pass

    def listAllVolumes(self) -> list[Volume]:
        return self.volumes

    def storageVolLookupByName(self, name: str) -> Volume:
        return next(volume for volume in self.volumes if volume.name() == name)


class Connected:
    def __init__(self, pool: RemotePool) -> None:
        self.pool, self.stream = pool, Stream()

    def storagePoolLookupByName(self, name: str) -> RemotePool:
        return self.pool

    def newStream(self) -> Stream:
        return self.stream

    def call(self, what: str, function: Any, timeout: float = 0) -> Any:
        return function(self)


def a_pool(volumes: list[Volume]) -> tuple[Pool, Connected]:
    connected = Connected(RemotePool(volumes))
    return Pool(connected, Host("h1"), "vclust-images", Path("/var/lib/vclust/images")), connected  # type: ignore[arg-type]


def test_a_listing_without_end_names_the_host() -> None:
    pool, _ = a_pool([Volume(f"f{number}") for number in range(10_000)])
    with pytest.raises(VclustError, match="h1: /var/lib/vclust/images: got 10000 files, expected at most"):
        pool.sizes(written=True)


def test_only_names_of_files_count() -> None:
    bad = ["", ".", "..", "../x", "/etc/passwd", "a/b", "a\nb", "\x1b[31m", "x" * 300, "\u202e", "a\0b"]
    pool, _ = a_pool([Volume(name) for name in [*bad, "base.qcow2"]])
    assert pool.sizes(written=True) == {"base.qcow2": 5}
    assert not any(map(is_file_name, bad))


def test_a_file_without_end() -> None:
    volume = Volume("console", size=1 << 60)
    pool, connected = a_pool([volume])
    assert len(pool.read("console", 100)) == LOOK
    assert volume.asked == (100, LOOK)
    assert connected.stream.aborted
    pool.read("console", -10)
    assert volume.asked == ((1 << 60) - 10, LOOK)


@pytest.mark.parametrize(
    "text",
    [
        "<a>" * 100_000 + "x" * (5 << 20),
        '<!DOCTYPE a [<!ENTITY b "b">]><a>&b;</a>',
        '<!DOCTYPE a SYSTEM "file:///etc/passwd"><a/>',
        "<a>",
        "",
        "\x1b",
        "<a>&b;</a>",
    ],
)
def test_xml_of_a_host(text: str) -> None:
    with pytest.raises(VclustError, match="libvirt: got"):
        parsed(text)
    assert parsed("<a><b/></a>").find("b") is not None
    assert ElementTree.tostring(parsed("<a/>")) == b"<a />"

"""Reading consoles."""

from dataclasses import replace
from types import SimpleNamespace

from anode import NODE

from vclust_py.errors import VclustError
from vclust_py.guest.console import Watch, _told
from vclust_py.site.states import NodeState


def a_watch(console: bytearray) -> Watch:
    return Watch(NODE, lambda position: bytes(console[position:]), 0.0, NodeState.STARTED)


def test_only_whole_lines_of_ours_count() -> None:
    console = bytearray()
    watch = a_watch(console)
    assert watch.read() == []
    console += b"[    0.1] kernel\r\nvclust: installer up=3.4\r\nvclust: progress unp"
    assert watch.read() == [("installer", "up=3.4")]
    console += b"ack 3/81\r\n\x1b[0mvclust: ready up=12 packages=2\r\nvclust: readyish\r\n"
    assert watch.read() == [("progress", "unpack 3/81"), ("ready", "up=12 packages=2")]
    assert watch.read() == []


def test_bytes_that_are_no_text_do_no_harm() -> None:
    assert a_watch(bytearray(b"\xff\xfe\0vclust: failed seed: \xff\n")).read() == [("failed", "seed: \ufffd")]


def test_last_words() -> None:
    console = bytearray()
    watch = a_watch(console)
    assert watch.last_words() == "its console said nothing"
    console += "".join(f"line {number}\n\n" for number in range(9)).encode()
    assert watch.last_words().splitlines()[1:] == [f"    line {number}" for number in range(4, 9)]


def test_a_host_that_does_not_answer_fails_the_node() -> None:
    def console(position: int) -> bytes:
        raise VclustError("h: libvirt does not answer")

    watch = Watch(NODE, console, 0.0, NodeState.STARTED)
    assert watch.read() == []
    assert (watch.state, watch.detail) == ("failed", "h: libvirt does not answer")


def test_many_failed_nodes_are_all_named() -> None:
    cluster = SimpleNamespace(name="x")
    watches = [
        Watch(replace(NODE, name=f"n{number}"), lambda position: b"", 0.0, NodeState.FAILED)
        for number in range(9)
    ]
    for watch in watches:
        watch.fail(f"seed: no disk; {'y' * 1000}")
    told = _told(cluster, watches)  # type: ignore[arg-type]
    assert told.splitlines()[0] == "x: 9 nodes failed, the first as follows; also n4, n5, n6, n7, n8"
    assert [line[:20] for line in told.splitlines()[1:]] == [
        f"x: n{number}: seed: no disk"[:20] for number in range(4)
    ]

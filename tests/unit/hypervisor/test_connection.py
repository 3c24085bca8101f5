"""Calls that end: by libvirt's test driver, which lives in this process, and by hosts that never answer."""

import os
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import libvirt
import pytest

from vclust_py.errors import VclustError
from vclust_py.hypervisor import Host, connection
from vclust_py.hypervisor.connection import Connection


@pytest.fixture
def opened(pretended: str) -> Iterator[Connection]:
    connection = Connection(Host("h1", pretended))
    yield connection
    connection.close()


def test_a_call_gets_the_connection(opened: Connection) -> None:
    assert opened.call("type", lambda libvirt: libvirt.getType()) == "TEST"


def test_a_hanging_call_ends_and_says_where_and_what_to_do(opened: Connection) -> None:
    end = threading.Event()
    with pytest.raises(VclustError) as error:
        opened.call("list domains", lambda _: end.wait(), timeout=0.1)
    end.set()
    message = str(error.value)
    assert message.startswith("h1: list domains: libvirt does not answer after 0.1 s\n  hint: ")
    assert "systemctl restart libvirtd" in message


def test_calls_end_also_when_all_places_hang(opened: Connection) -> None:
    end = threading.Event()
    for _ in range(6):
        with pytest.raises(VclustError, match="does not answer"):
            opened.call("hang", lambda _: end.wait(), timeout=0.05)
    end.set()
    assert opened.call("type", lambda libvirt: libvirt.getType()) == "TEST"


def test_fewer_calls_at_once_than_libvirtd_takes(opened: Connection) -> None:
    lock, now, most = threading.Lock(), 0, 0

    def work(_: Any) -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.01)
        with lock:
            now -= 1

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda _: opened.call("work", work), range(32)))
    assert 1 < most < 5


def test_calls_share_a_thread_unless_it_hangs(opened: Connection) -> None:
    def thread(_: Any) -> int:
        return threading.get_ident()

    end = threading.Event()
    first = opened.call("work", thread)
    assert {opened.call("work", thread) for _ in range(8)} == {first}
    with pytest.raises(VclustError, match="does not answer"):
        opened.call("hang", lambda _: end.wait(), timeout=0.05)
    assert opened.call("work", thread) != first
    end.set()


def test_a_forked_process_does_not_wait_for_threads_of_its_parent(opened: Connection) -> None:
    opened.call("type", lambda libvirt: libvirt.getType())
    child = os.fork()
    if child == 0:
        try:
            os._exit(Connection(opened._host).call("answer", lambda _: 7, timeout=5))
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_what_libvirt_refuses_is_said(opened: Connection) -> None:
    with pytest.raises(VclustError, match=r"^h1: look: libvirt: Domain not found"):
        opened.call("look", lambda libvirt: libvirt.lookupByName("nobody"))


def test_a_held_lock_is_said_as_such(opened: Connection) -> None:
    def work(_: Any) -> None:
        error = libvirt.libvirtError("cannot acquire state change lock")
        error.err = (
            libvirt.VIR_ERR_OPERATION_TIMEOUT,
            0,
            "cannot acquire state change lock",
            2,
            "",
            "",
            "",
            0,
            0,
        )
        raise error

    with pytest.raises(VclustError, match=r"h1: start n1: libvirt still holds the lock of an earlier call"):
        opened.call("start n1", work)


def test_a_call_is_repeated_when_the_daemon_has_ended(opened: Connection) -> None:
    seen: list[Any] = []

    def work(found: Any) -> str:
        seen.append(found)
        if len(seen) == 1:
            found.close()
        return str(found.getType())

    assert opened.call("type", work) == "TEST"
    assert len(seen) == 2
    assert seen[0] is not seen[1]


def test_threads_that_lost_their_daemon_open_one_connection_together(opened: Connection) -> None:
    lost, met = opened._connection, threading.Barrier(4)

    def work(found: Any) -> Any:
        if found is lost:
            if met.wait(5) == 0:  # libvirt bears no second close at the same moment
                found.close()
            met.wait(5)
        found.getType()
        return found

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(lambda _: opened.call("type", work), range(4)))) == 1


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def test_a_host_that_takes_the_call_but_never_speaks(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "_OPEN_TIMEOUT", 0.3)
    with pytest.raises(VclustError, match=r"^h1: connect: libvirt does not answer after 0.3 s"):
        Connection(Host("h1", f"test+tcp://127.0.0.1:{listener.getsockname()[1]}/default"))


def test_a_daemon_that_comes_back_late_is_waited_for_once(
    opened: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts, open_at_once = list[str](), libvirt.open

    def late(uri: str) -> Any:
        attempts.append(uri)
        time.sleep(0.5)
        return open_at_once(uri)

    opened._connection.close()
    monkeypatch.setattr(connection, "_OPEN_TIMEOUT", 0.1)
    monkeypatch.setattr(libvirt, "open", late)
    assert opened.call("type", lambda libvirt: libvirt.getType()) == "TEST"
    assert len(attempts) == 1


def test_a_machine_that_goes_while_its_daemon_is_waited_for(
    opened: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    end, answers = threading.Event(), iter([None, None])

    def reach(host: Host) -> None:
        if next(answers, host) is host:
            raise connection._Unreachable(f"{host.name}: gone")

    opened._connection.close()
    monkeypatch.setattr(connection, "_LOOK", 0.05)
    monkeypatch.setattr(connection, "_reach", reach)
    monkeypatch.setattr(libvirt, "open", lambda _: end.wait())
    with pytest.raises(VclustError, match=r"^h1: gone$"):
        opened.call("type", lambda libvirt: libvirt.getType())
    end.set()


def test_a_host_without_libvirt() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(
        VclustError, match=rf"^h1: libvirt does not listen at 127.0.0.1 port {port}\n  hint: "
    ):
        Connection(Host("h1", f"xen+tls://127.0.0.1:{port}/system"))


def test_a_host_that_does_not_exist() -> None:
    with pytest.raises(VclustError, match=r"^h1: nobody.invalid port 16514 cannot be reached"):
        Connection(Host("h1", "xen+tls://nobody.invalid/system"))

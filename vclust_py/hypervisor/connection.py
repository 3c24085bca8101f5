"""libvirt calls that end: each in a bounded time, in an error that names the host, the call and the next step."""

import contextlib
import os
import queue
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlsplit

import libvirt

from vclust_py.errors import NoAnswerError, VclustError
from vclust_py.hypervisor import ROLL_OUT, Host

_T = TypeVar("_T")

CALL_TIMEOUT = 120.0
"""Seconds a host may take for one call before it counts as hung."""
_REACH_TIMEOUT = 10.0
_OPEN_TIMEOUT = 30.0
_RESTART = CALL_TIMEOUT
"""Seconds that libvirt's daemon may take to come back, once it has answered, while its machine does."""
_LOOK = 10.0
"""Seconds between two looks whether the machine answers, while its libvirt is waited for."""
_KEEPALIVE = (5, 5)
"""A host that has not answered for 25 s is gone.  Less would take a busy emulated host for a dead one."""
_CALLS_AT_ONCE = 4
"""Below libvirtd's max_client_requests (5): at that number it reads nothing any more, not even signs of life."""

_EVENTS = "libvirt events"
_events = threading.Lock()

_PORTS = {"tls": 16514, "tcp": 16509, "ssh": 22}

libvirt.registerErrorHandler(lambda *_: None, None)  # every error is raised as well


_waiting: list["queue.SimpleQueue[Callable[[], None]]"] = []
"""Of threads that have nothing to do; one that works, or hangs, is not here."""
os.register_at_fork(after_in_child=_waiting.clear)


def _in_a_thread(work: Callable[[], None]) -> None:
    """Run `work`, which raises nothing.  Threads are used again: to start one takes longer than most calls."""
    try:
        jobs = _waiting.pop()
    except IndexError:
        jobs = queue.SimpleQueue()
        threading.Thread(target=_serve, args=(jobs,), daemon=True).start()
    jobs.put(work)


def _serve(jobs: "queue.SimpleQueue[Callable[[], None]]") -> None:
    while True:
        jobs.get()()
        _waiting.append(jobs)


class _Unreachable(NoAnswerError):
    """The machine itself does not answer: nothing to wait for."""


class Connection:
    """A host's libvirt, opened again when its daemon was restarted.  For use by many threads at once."""

    def __init__(self, host: Host, ensure: Callable[[], None] = lambda: None) -> None:
        """`ensure` starts the daemon where that is ours to do.  Raises VclustError when libvirt does not answer."""
        self._host, self._ensure = host, ensure
        self._slots = threading.Semaphore(_CALLS_AT_ONCE)
        self._reopening = threading.Lock()
        self._tries, self._failure = 0, ""
        self._hung = False
        _signs_of_life()
        # A local daemon may end just after it answered: idle, or killed.
        self._connection = self._open(timeout=0.0 if host.machine else 1.0)

    def call(self, what: str, function: Callable[[Any], _T], timeout: float = CALL_TIMEOUT) -> _T:
        """Run `function` with libvirt's connection; twice when the daemon ended meanwhile, so it must bear that.

        `what` is the call's name in errors.  Raises NoAnswerError when libvirt hangs or does not come back, VclustError
        with what else it says.
        """
        connection = self._connection
        try:
            return self._bounded(what, lambda: function(connection), timeout)
        except VclustError:
            if _alive(connection):
                raise
        opened = self._again(connection)
        return self._bounded(what, lambda: function(opened), timeout)

    def close(self) -> None:
        if self._hung:
            return  # freeing what a hung call still uses would end this process
        with contextlib.suppress(VclustError):
            self._bounded("close", self._connection.close, _OPEN_TIMEOUT)

    def _open(self, timeout: float) -> Any:
        deadline = time.monotonic() + timeout
        while True:
            try:
                self._ensure()
                self._reach()
                # One attempt: a daemon that comes up would have to serve those that were given up, too.
                left = max(_OPEN_TIMEOUT, deadline - time.monotonic())
                return self._bounded("connect", self._connect, left, self._reach)
            except _Unreachable:
                raise
            except VclustError:
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.5)

    def _connect(self) -> Any:
        try:
            connection = libvirt.open(self._host.uri)
        except libvirt.libvirtError as error:
            raise _refused(self._host, error) from error
        with contextlib.suppress(libvirt.libvirtError):  # a driver inside this process
            connection.setKeepAlive(*_KEEPALIVE)
        return connection

    def _again(self, dead: Any) -> Any:
        tries = self._tries
        with self._reopening:
            if self._connection is dead:
                if self._tries != tries:  # another thread has just tried in vain
                    raise NoAnswerError(self._failure)
                self._tries += 1
                try:
                    self._connection = self._open(_RESTART)
                except VclustError as error:
                    self._failure = str(error)
                    raise NoAnswerError(self._failure) from error
            return self._connection

    def _reach(self) -> None:
        _reach(self._host)

    def _bounded(
        self, what: str, function: Callable[[], _T], timeout: float, look: Callable[[], None] = lambda: None
    ) -> _T:
        """Run a libvirt call in a thread of its own; when the host hangs, the caller is free after `timeout` s.

        `look` is called now and then meanwhile; what it raises ends the waiting, too.
        """
        result: list[_T] = []
        failure: list[BaseException] = []

        def work() -> None:
            try:
                result.append(function())
            except BaseException as error:
                failure.append(error)
            finally:
                self._slots.release()  # not before: a call that hangs still takes its place over there
                done.release()

        done = threading.Lock()
        done.acquire()
        if self._slots.acquire(timeout=timeout):
            _in_a_thread(work)
            deadline = time.monotonic() + timeout
            while not done.acquire(timeout=min(_LOOK, max(0.0, deadline - time.monotonic()))):
                if time.monotonic() >= deadline:
                    break
                try:
                    look()
                except VclustError:
                    self._hung = True
                    raise
        if failure and isinstance(failure[0], libvirt.libvirtError):
            raise self._named(what, failure[0]) from failure[0]
        if failure:
            raise failure[0]
        if not result:
            self._hung = True
            raise NoAnswerError(
                f"{self._host.name}: {what}: libvirt does not answer after {timeout:g} s",
                "look whether that machine is well; then, on it: systemctl restart libvirtd (domains go on)",
            )
        return result[0]

    def _named(self, what: str, error: libvirt.libvirtError) -> VclustError:
        if error.get_error_code() == libvirt.VIR_ERR_OPERATION_TIMEOUT:
            return VclustError(
                f"{self._host.name}: {what}: libvirt still holds the lock of an earlier call: {error}",
                f"on {self._host.name}: systemctl restart libvirtd (domains go on), then try again",
            )
        return VclustError(f"{self._host.name}: {what}: libvirt: {error}")


def _alive(connection: Any) -> bool:
    try:
        return bool(connection.isAlive())
    except libvirt.libvirtError:
        return False


def _signs_of_life() -> None:
    """libvirt's keepalive needs an event loop, registered before the first connection is opened."""
    with _events:
        if not any(thread.name == _EVENTS for thread in threading.enumerate()):
            libvirt.virEventRegisterDefaultImpl()
            threading.Thread(target=_loop, daemon=True, name=_EVENTS).start()


def _loop() -> None:
    while True:
        try:
            libvirt.virEventRunDefaultImpl()
        except libvirt.libvirtError:
            time.sleep(1)


def _reach(host: Host) -> None:
    """Raises VclustError when the host does not take a TCP connection soon: libvirt itself would wait minutes."""
    parts = urlsplit(host.uri)
    port = parts.port or _PORTS.get(parts.scheme.partition("+")[2] or "tls")
    if parts.hostname is None or port is None:
        return
    try:
        socket.create_connection((parts.hostname, port), _REACH_TIMEOUT).close()
    except ConnectionRefusedError as error:
        raise VclustError(
            f"{host.name}: libvirt does not listen at {parts.hostname} port {port}",
            f"on {host.name}: systemctl status libvirtd libvirtd-tls.socket; or: {ROLL_OUT}",
        ) from error
    except OSError as error:
        why = (
            f"no answer after {_REACH_TIMEOUT:g} s"
            if isinstance(error, TimeoutError)
            else error.strerror or error
        )
        raise _Unreachable(
            f"{host.name}: {parts.hostname} port {port} cannot be reached: {why}",
            "is that machine up, and in this network?",
        ) from error


def _refused(host: Host, error: libvirt.libvirtError) -> VclustError:
    """Why libvirt could not be opened, in words that say which file is at fault where one is."""
    parts = urlsplit(host.uri)
    folder = parse_qs(parts.query).get("pkipath")
    if parts.hostname and folder and parts.scheme.endswith("+tls"):
        from vclust_py.hypervisor import certificates  # with X.509: only what fails needs it

        found = certificates.fault(host.name, Path(folder[0]), parts.hostname, parts.port or _PORTS["tls"])
        if found:
            return found
        return VclustError(f"{host.name}: its libvirt refuses this site manager: {error}", ROLL_OUT)
    return VclustError(f"{host.name}: connect: libvirt: {error}")

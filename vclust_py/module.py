"""What the Ansible modules share: the `site` argument, stopping with the controller, errors and diffs.

Nothing of Ansible is imported here: `vclust_py.action` does the same work in a process of Ansible.
"""

import contextlib
import json
import logging
import os
import select
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from vclust_py import request as requests
from vclust_py.arguments import checked
from vclust_py.change import Change
from vclust_py.errors import RequestError, VclustError
from vclust_py.phases import Inputs, Phase, Result
from vclust_py.request.ansible import suboptions
from vclust_py.run import keep_interruptions
from vclust_py.site import Site

if TYPE_CHECKING:  # the command takes a little of this file, and need not wait for the rest
    from vclust_py.site.session import Session

Outcome = Mapping[str, Any]
Work = Callable[["Session", dict[str, Any], bool], Outcome]
"""What a module does: session, parameters, check mode → what it returns."""

_log = logging.getLogger(__name__)

_CONTROLLERS = ("ansible-playboo", "vclust")
"""Names of the processes that a module works for, as the kernel keeps them (15 characters)."""
_CONNECTIONS = ("sshd", "sshd-session")
"""Those that stand for a controller elsewhere: sudo may keep a module's output open when nobody reads it any more."""

_CLEAN_UP = 45
"""Seconds that the clean-up may take; fewer than the controller waits for it."""


class Module(Protocol):
    """The part of AnsibleModule that is used here."""

    params: dict[str, Any]
    check_mode: bool

    def exit_json(self, **values: Any) -> NoReturn: ...
    def fail_json(self, msg: str, **values: Any) -> NoReturn: ...


def site_options() -> dict[str, Any]:
    """Argument specification of `site` and `who`."""
    return {"site": {"type": "dict", "default": {}}, "who": {"type": "str", "default": ""}}


def cluster_options() -> dict[str, Any]:
    """Argument specification of the modules that take up a cluster by its name."""
    return {**site_options(), "name": {"type": "str", "required": True}}


def host_options() -> dict[str, Any]:
    """Argument specification of `hosts`: `vclust_py.hypervisor.Host` as a mapping."""
    host = {
        "name": {"type": "str", "required": True},
        "uri": {"type": "str", "default": "qemu:///system"},
        "guest": {"type": "str", "default": "", "choices": ["", "pv", "pvh"]},
        "state": {"type": "str", "default": "active", "choices": ["active", "drain"]},
        "cpu_overcommit": {"type": "int", "default": 0},
        "rack": {"type": "str", "default": ""},
    }
    return {"hosts": {"type": "list", "elements": "dict", "required": True, "options": host}}


def request_options() -> dict[str, Any]:
    """Argument specification of `site` and `request`."""
    return {
        **site_options(),
        "request": {"type": "dict", "required": True, "options": suboptions()},
    }


def given(value: Any) -> Any:
    """`value` without the options that the caller left out: AnsibleModule makes them None, at every depth."""
    if isinstance(value, Mapping):
        return {key: given(item) for key, item in value.items() if item is not None}
    return [given(item) for item in value] if isinstance(value, list) else value


def run_phase(phase: Phase, session: "Session", params: dict[str, Any], check: bool) -> Outcome:
    """A module's outcome from one phase, its parameters being the phase's inputs."""
    from vclust_py.hypervisor import Host
    from vclust_py.lock import Lock

    asked = requests.from_mapping(given(params["request"]), "request") if "request" in params else None
    locked = params.get("locked")
    # Text where a file was read: how deep it nests is the lock's to judge.
    text = locked if locked is None or isinstance(locked, str) else json.dumps(locked)
    inputs = Inputs(
        name=params["name"] if asked is None else asked.name,
        check=check,
        request=asked,
        locked=None if text is None else Lock.from_json(text, "locked"),
        lock=params.get("lock", ""),
        cache=params.get("cache", ""),
        reason=params.get("reason", ""),
        local=params.get("local", False),
        hosts=tuple(Host.from_mapping(host) for host in params.get("hosts", ())),
        again=params.get("again", False),
        forget=frozenset(params.get("forget_hosts", ())),
    )
    result = phase(session, inputs)
    warn(result)
    return {**changed(result.change), **result.facts}


def warn(result: Result) -> None:
    """Let the module tell what the result warns of."""
    for warning in result.warnings:
        _log.warning(warning)


def run_module(module: Module, work: Work) -> NoReturn:
    """Do `work` on the module's site and end the module with its outcome, or with the error."""
    result = perform(work, module.params, module.check_mode)
    if result.pop("failed", False):
        module.fail_json(**result)
    module.exit_json(**result)


def perform(work: Work, params: dict[str, Any], check: bool) -> dict[str, Any]:
    """What `work` returns; or `failed` with `msg`, `exit_code` and, for a mistaken request, its `problems`.

    What the library warns of meanwhile is in `warnings`, where there is any.
    """
    with _warnings() as warnings:
        result = _perform(work, params, check)
    return result | {"warnings": warnings} if warnings else result


def _perform(work: Work, params: dict[str, Any], check: bool) -> dict[str, Any]:
    try:
        from vclust_py.site.session import Session

        who = checked("who", "person", params["who"]) if params.get("who") else ""
        site = Site.from_mapping(params.get("site") or {})
        with stopping_with_controller(), Session(site, who=who) as session:
            return dict(work(session, params, check))
    except RequestError as error:
        return _failure(error) | {"problems": error.problems}
    except VclustError as error:
        return _failure(error)
    except KeyboardInterrupt:
        return {"failed": True, "msg": "interrupted", "exit_code": 130}
    except OSError as error:
        # What no phase has expected of the machine: a file that vanished, a device that fails.
        return _failure(VclustError(str(error)))


def _failure(error: VclustError) -> dict[str, Any]:
    return {"failed": True, "msg": str(error), "exit_code": error.exit_code}


class _Warnings(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@contextlib.contextmanager
def _warnings() -> Iterator[list[str]]:
    """What the library logs as a warning in the body."""
    handler, logger = _Warnings(), logging.getLogger("vclust_py")
    logger.addHandler(handler)
    try:
        yield handler.messages
    finally:
        logger.removeHandler(handler)


def site_manager(site: Site) -> Outcome:
    """Where the state is, on which running machine, and the site's settings: a controller there may read it."""
    return {"site_manager": {"root": str(site.root), **this_machine(), "settings": site.to_mapping()}}


def this_machine() -> dict[str, str]:
    """What tells this machine, as it runs, from others, and its files from those of a container on it."""
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return {"boot_id": boot_id, "mounts": os.readlink("/proc/self/ns/mnt")}


def changed(change: Change) -> Outcome:
    """A module's outcome from a phase's `Change`."""
    return {"changed": change.changed, "diff": {"before": change.before, "after": change.after}}


@contextlib.contextmanager
def stopping_with_controller() -> Iterator[None]:
    """Raise KeyboardInterrupt in the body, once, when the controller ends it or is no more.

    Ansible stops a task by SIGTERM and leaves it running when it is killed itself; either must become a
    KeyboardInterrupt, or half-made disks, mounts and processes would stay.  The clean-up has `_CLEAN_UP` seconds.
    """
    before = {number: signal.signal(number, _interrupt) for number in _INTERRUPTIONS}
    keep_interruptions()
    ended, done = os.pipe()
    try:
        threading.Thread(target=_watch, args=(_controller_pidfds(), ended), daemon=True).start()
        yield
    finally:
        os.close(done)  # the thread ends, and closes what it watches
        # An interrupted process has nothing more to do than to say so.
        if signal.getsignal(signal.SIGTERM) is _interrupt:
            for number, handler in before.items():
                signal.signal(number, handler)


_INTERRUPTIONS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


def _interrupt(number: int, frame: FrameType | None) -> None:
    # Should Python lose the exception (in a destructor, say), or the clean-up hang, the kernel does the rest.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(_CLEAN_UP)
    # Once is enough: a second signal must not break into the clean-up.
    for again in _INTERRUPTIONS:
        signal.signal(again, signal.SIG_IGN)
    raise KeyboardInterrupt


def _controller_pidfds() -> list[int]:
    pidfds = []
    for controller in _controllers(os.getppid()):
        with contextlib.suppress(OSError):
            pidfds.append(os.pidfd_open(controller))
    return pidfds


def _watch(controllers: list[int], ended: int) -> None:
    """Interrupt this process when a controller ends; not once `ended` is closed at its other end."""
    watched = select.poll()
    # Standard output leads to the controller, over ssh too: an error there means that nobody reads it.
    watched.register(1, 0)
    for descriptor in (ended, *controllers):
        watched.register(descriptor, select.POLLIN)
    ready = {descriptor for descriptor, _ in watched.poll()}
    for descriptor in (ended, *controllers):
        os.close(descriptor)
    if ended not in ready:
        os.kill(os.getpid(), signal.SIGTERM)


def _controllers(pid: int) -> list[int]:
    """The processes above `pid` that bear a controller's name: each of them may be killed without the others.

    Without one, the connection of a controller elsewhere; else a connection is only how somebody has logged in here.
    """
    found = []
    while pid > 1:
        try:
            # "pid (comm) state ppid …"; comm may hold anything, a closing bracket too.
            head, _, tail = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")
        except OSError:
            break
        name = head.partition("(")[2]
        if name in _CONTROLLERS:
            found.append(pid)
        elif name in _CONNECTIONS and not found:
            return [pid]
        pid = int(tail.split()[1])
    return found

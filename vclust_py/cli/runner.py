"""A playbook run through ansible-runner: its events while it runs, and how it ended.

Variables are handed over as values that Ansible never templates, at every depth.
"""

import contextlib
import json
import os
import re
import select
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from vclust_py.site import PROJECT
from vclust_py.steps import MARK
from vclust_py.text import MESSAGE, plain

Event = Mapping[str, Any]

TICK = 0.5
"""Seconds between two looks at the progress."""
_PATIENCE = 60
"""Seconds that interrupted modules have for their clean-up."""
_INTERRUPT = 5
"""Seconds that Ansible has to end when it is interrupted."""
_ERROR = MESSAGE - 300  # bytes; what may stand before it are names of phase and host
_QUESTION, _CHOICE = "vclust_offer", "vclust_choose"
"""A site that does not answer the question stops nobody; the choice names it."""
_STEP = re.compile(rf"{MARK} \[[^\]]*\] (?P<phase>\w+): (?P<message>.*)")
_ANSI = re.compile(r"\x1b\[[0-9;]*m")


@dataclass
class Outcome:
    """How a playbook ended.  `results` holds what each module returned, by the module's name."""

    exit_code: int = 0
    error: str = ""
    phase: str = ""
    """The role that was last at work."""
    host: str = ""
    """Where the first task failed."""
    failures: dict[str, str] = field(default_factory=dict)
    """The first error of each site manager that failed, or could not be reached."""
    results: dict[str, dict[str, Any]] = field(default_factory=dict)
    hosts: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    """The same for each site manager, by its inventory name."""
    tasks: int = 0
    """How many tasks have started."""
    changes: list[dict[str, Any]] = field(default_factory=list)
    """Each task that changed something, or in check mode would: host, task, diff (Ansible's, one or a list)."""
    messages: list[str] = field(default_factory=list)
    """What tasks of `debug` have said."""

    @property
    def failure(self) -> str:
        """The error, with the site manager's name where others did something as well."""
        return f"{self.host}: {self.error}" if self.host and set(self.hosts) - {self.host} else self.error


def play(
    playbook: str,
    variables: Mapping[str, Any],
    *,
    inventory: Path | None = None,
    check: bool = False,
    diff: bool = False,
    limit: str = "",
    tags: Sequence[str] = (),
    verbosity: int = 0,
    on_phase: Callable[[str], None] = lambda phase: None,
    on_result: Callable[[str, Mapping[str, Any]], None] = lambda module, result: None,
    on_tick: Callable[[], None] = lambda: None,
    on_start: Callable[[str, str], None] = lambda host, task: None,
    on_step: Callable[[str, str], None] = lambda phase, message: None,
) -> Outcome:
    """Run one of the project's playbooks to its end, on the hosts of `limit` alone where that is not empty.

    The callbacks are called in the caller's thread.  Ctrl-C ends the modules at work, with clean-up; the
    exit code is 130 then.
    """
    import ansible_runner  # a quarter of a second that `vclust --help` need not wait

    words = [*(["--check"] if check else []), *(["--diff"] if diff else [])]
    if tags:
        words.append(f"--tags={','.join(tags)}")
    outcome = Outcome()
    events: list[Event] = []
    ended = threading.Event()

    def keep(event: Event) -> bool:
        events.append(event)
        return False  # no file for each event

    def drain() -> None:
        while events:
            _take(events.pop(0), outcome, on_phase, on_result, on_start, on_step)
        on_tick()

    # With `-v` ansible-runner prints; standard output is for results.
    with tempfile.TemporaryDirectory(prefix="vclust-") as folder, contextlib.redirect_stdout(sys.stderr):
        _hand_over(variables, Path(folder))
        options: dict[str, Any] = {
            "private_data_dir": folder,
            "project_dir": str(PROJECT),
            "playbook": f"playbooks/{playbook}",
            "inventory": str((inventory or PROJECT / "inventories/local").resolve()),
            "cmdline": " ".join(words) or None,
            "verbosity": verbosity or None,
            "limit": limit or None,
            "quiet": not verbosity,
            "settings": {"pexpect_timeout": TICK},
            "envvars": {
                "ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg"),
                # Ansible works in UTF-8 only; the caller's locale may be none, or another.
                "LC_ALL": "C.UTF-8",
                "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}",
            },
            "event_handler": keep,
            "finished_callback": lambda runner: ended.set(),
            # Without one, ansible-runner takes Ctrl-C for itself and kills instead of interrupting.
            "cancel_callback": lambda: False,
        }
        thread, runner = ansible_runner.run_async(**options)
        try:
            while thread.is_alive():
                # Not thread.join(): Python 3.11 takes a thread for ended when Ctrl-C breaks into that.
                ended.wait(TICK)
                drain()
        except KeyboardInterrupt:
            outcome.exit_code = 130
        finally:
            if thread.is_alive():
                _interrupt(thread)
        drain()
        if outcome.exit_code == 0 and runner.rc != 0:
            # Nothing failed on a host: the playbook itself did not work, or could not start.
            outcome.exit_code = 4 if outcome.tasks else 2
            outcome.error = _reason(runner.stdout.read(), outcome.tasks, options["inventory"])
    return outcome


def _take(
    event: Event,
    outcome: Outcome,
    on_phase: Callable[[str], None],
    on_result: Callable[[str, Mapping[str, Any]], None],
    on_start: Callable[[str, str], None],
    on_step: Callable[[str, str], None],
) -> None:
    data = event.get("event_data") or {}
    match event.get("event"):
        case "playbook_on_task_start":
            outcome.tasks += 1
            if data.get("role") and data["role"] != outcome.phase:
                outcome.phase = data["role"]
                on_phase(outcome.phase)
        case "runner_on_start":
            on_start(data["host"], data["task"])
        case "verbose" if step := _STEP.fullmatch(_ANSI.sub("", event.get("stdout") or "").strip()):
            on_step(step["phase"], step["message"])
        case "runner_on_ok":
            if data["res"].get("changed"):
                found = {"host": data["host"], "task": data["task"], "diff": data["res"].get("diff") or []}
                outcome.changes.append(found)
            if data["task_action"] == "ansible.builtin.debug":
                outcome.messages.append(str(data["res"].get("msg", "")))
            outcome.results[data["task_action"]] = data["res"]
            outcome.hosts.setdefault(data["host"], {})[data["task_action"]] = data["res"]
            on_result(data["task_action"], data["res"])
        case "runner_on_failed" | "runner_on_unreachable" if data["task_action"] == _QUESTION:
            pass
        case "runner_on_failed" | "runner_on_unreachable":
            result = data.get("res") or {}
            error = _plain(_failure(data["host"], result))
            outcome.failures.setdefault(data["host"], error)
            if outcome.exit_code == 0:
                outcome.exit_code = int(result.get("exit_code") or 4)
                # The choice among sites is no one site's failure.
                outcome.host = "" if data["task_action"] == _CHOICE else data["host"]
                outcome.error = error


_WITHOUT_US = "No module named 'vclust_py'"


def _failure(host: str, result: Mapping[str, Any]) -> str:
    """Why a task has failed: a module's own error, else what came of it instead of an answer."""
    error = str(result.get("msg") or "the task failed without a word")
    printed = [line for line in str(result.get("module_stderr") or "").splitlines() if line.strip()]
    if "exit_code" in result or (not printed and _WITHOUT_US not in error):
        return error
    if _WITHOUT_US in error or any("not found" in line or _WITHOUT_US in line for line in printed):
        why = plain(_WITHOUT_US if _WITHOUT_US in error else printed[0], 400)
        return (
            f"{host}: the module did not run: {why}\n  hint: in the inventory set ansible_python_interpreter of"
            f" {host} to a Python that has vclust_py; on this machine: {sys.executable}"
        )
    return f"{error}: {plain(printed[-1], 400)}\n  hint: -v shows all that was printed"


def _reason(text: str, tasks: int, inventory: str) -> str:
    """The error in what ansible-playbook printed, where no task has failed."""
    lines = [_plain(line) for line in _ANSI.sub("", text).splitlines() if line.strip()]
    marks = ("[ERROR]:", "ERROR!")
    errors = [line for line in lines if line.startswith(marks)]
    if tasks and not errors:
        return "ansible-playbook ended in the middle of its work: was it killed?"
    reason = "\n".join(errors or lines[-5:]) or "ansible-playbook failed without a word"
    for mark in marks:
        reason = reason.replace(mark, "").strip()
    # Ansible does not always say which file it could not read.
    hint = f"\n  hint: the inventory is {plain(inventory, 600)}; -v shows all that Ansible says"
    return f"{plain(reason, _ERROR - 800, lines=True)}{'' if tasks else hint}"


def _plain(text: str) -> str:
    """What a module, a host or Ansible said, fit to be shown."""
    return plain(text.strip(), _ERROR, lines=True)


def _hand_over(variables: Mapping[str, Any], folder: Path) -> None:
    """Write ansible-runner's file of extra variables, all of it marked `!unsafe`, for the owner only.

    ansible-runner's own option would write JSON, which Ansible takes for templates.  The mark is on the whole: Ansible
    guesses the type of a marked text anew, and takes `*` for something that YAML has no value for.
    """
    (folder / "env").mkdir(mode=0o700)
    # By JSON: plain types, whatever text and numbers are here.
    plain_data = json.loads(json.dumps(variables))
    text = f"--- !unsafe\n{yaml.safe_dump(plain_data, width=2**30)}"
    with open(os.open(folder / "env/extravars", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)


def _interrupt(thread: threading.Thread) -> None:
    """Pass Ctrl-C on to ansible-playbook, which has its own terminal, and wait for its modules' clean-up."""
    at_work = _descendants(os.getpid())
    playbooks = [pid for pid, parent in at_work.items() if parent == os.getpid()]
    pidfds = []
    for pid in at_work:
        with contextlib.suppress(OSError):
            pidfds.append(os.pidfd_open(pid))
    # A second Ctrl-C has nothing to add, and would leave the clean-up half done.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        _signal(playbooks, signal.SIGINT)
        _await(pidfds, _INTERRUPT)
        # Ansible may ignore it (started in the background) or lose it (between a fork and its end).  Modules notice
        # that their controller is gone, and clean up by themselves.
        _signal(playbooks, signal.SIGKILL)
        _await(pidfds, _PATIENCE)
        thread.join(_INTERRUPT)
    finally:
        signal.signal(signal.SIGINT, before)
        for pidfd in pidfds:
            os.close(pidfd)


def _await(pidfds: Iterable[int], seconds: float) -> None:
    """Wait until all these processes have ended, but no longer than that."""
    end = time.monotonic() + seconds
    for pidfd in pidfds:
        select.select([pidfd], [], [], max(end - time.monotonic(), 0))


def _signal(pids: Iterable[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _descendants(root: int) -> dict[int, int]:
    """Process → parent, of all processes below `root`."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            tail = path.read_text(errors="replace").rpartition(")")[2].split()
            parents[int(path.parent.name)] = int(tail[1])
    found: dict[int, int] = {}
    front = [root]
    while front:
        above = front.pop()
        for pid, parent in parents.items():
            if parent == above and pid not in found:
                found[pid] = parent
                front.append(pid)
    return found

"""The proof of a cluster while its nodes still report: what can be tried is tried before the last of them has.

The login to the first node waits for its sshd, and each node is tried from there as soon as it may answer.  So when the
last node reports, little is left to do.  What fails before all have reported may just have come too early, and is tried
once more then.

Where few nodes are to be tried, an MPI program over all of them is the first thing, whose own logins are the proof that
each can be logged in to: the first node's part of it starts meanwhile.  If it does not reach them, or there is no MPI,
each node is logged in to apart, and MPI goes through these logins: an error names the node.
"""

import time
from collections.abc import Callable, Sequence
from types import TracebackType

from vclust_py.conversation import Talk
from vclust_py.errors import VclustError
from vclust_py.guest import proof
from vclust_py.metapackages import MetaPackage
from vclust_py.site.clusters import Node
from vclust_py.site.states import NodeState
from vclust_py.text import LINE, plain

LogIn = Callable[[Node, bool], Talk]
"""A login to a node as the cluster's user, whose shell runs what it is told; whether sshd may have to be waited for."""

_PAUSE, _LONGEST_PAUSE = 1.0, 30.0
"""Seconds to the next login to a first node that does not let the user in yet; twice as many each time."""
_ATTEMPTS, _ATTEMPTS_EARLY = 3, 120
"""Connections that are tried to a node, a second apart; it has reported, or may yet have to boot."""
_CUT = 255
"""ssh's exit status where the connection has failed; any other is what ran there."""
_LOOK = 1.0
_SHOWN_LINES = 10


class Prover:
    """A context manager: its end closes the login.  For one thread.

    `saw` tells it how far nodes are, `work` lets it go on for some seconds, `finish` does what is left.
    """

    def __init__(
        self,
        cluster: str,
        nodes: Sequence[Node],
        checks: Sequence[MetaPackage],
        log_in: LogIn,
        known: str = "",
    ) -> None:
        """`nodes` are those to be tried, whatever their state is yet; all others are tried from the first one.

        `known` is a node that was proved before, which the first one must reach too, where it is another.
        """
        self._cluster, self._checks, self._log_in, self._known = cluster, checks, log_in, known
        self._nodes = {node.name: node for node in nodes}
        self._states = {node.name: node.state for node in nodes}
        self._talk: Talk | None = None
        self._said = ""
        """In logins that are closed."""
        self._final = self._opened_final = False
        self._pause, self._opens = _PAUSE, 0.0
        self._lost_final = 0
        """Logins that have ended by themselves, begun when all had reported."""
        self._runs = 0
        """MPI runs that were begun."""
        self._may_direct = len(self._nodes) <= proof.GROUP
        """MPI may log in to nodes by itself: it has not failed in that."""
        self._begin()

    def _begin(self) -> None:
        """As if nothing had been tried."""
        self._greeted = False
        self._left = dict.fromkeys(list(self._nodes)[1:])
        """Nodes that are yet to be tried."""
        self._failed: dict[str, None] = {}
        """Nodes that could not be logged in to, maybe as it was too early."""
        self._trying: dict[str, bool] = {}
        """Nodes that are logged in to now, and whether all had reported when that began."""
        self._group: list[str] = []
        """Nodes with an open login, that no MPI run has reached yet."""
        self._running: list[str] = []
        """Nodes of the MPI run that is under way."""
        self._run_final = self._run_direct = False
        """All had reported when it began; MPI logs in to its nodes by itself."""
        self._direct: list[str] = []
        """Nodes that it has logged in to."""
        self._reached: dict[int, list[str]] = {}
        """Nodes of the runs that count, by their numbers."""
        self._lines: list[str] = []
        """What the last MPI run has said."""
        self._too_early = False
        """An MPI run did not reach its nodes."""
        self._unchecked: set[str] | None = None
        """Meta packages whose checks are not done; None: they were not begun."""
        self._refused = self._wrong = False
        """Some node could not be logged in to; nothing more is to be tried."""

    def __enter__(self) -> "Prover":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hang_up()

    @property
    def output(self) -> str:
        """All that was said."""
        return self._said + (self._talk.output if self._talk is not None else "")

    def saw(self, node: str, state: NodeState) -> None:
        """A node has come so far."""
        before = self._states.get(node, state)
        if before is state:
            return
        self._states[node] = state
        if state is NodeState.STARTED:  # once more: what waits for the one that it was may hang
            self._hang_up()
            self._begin()
        if state is NodeState.READY and node == self._first.name:
            self._opens = 0.0
        if state is NodeState.READY and node in self._failed:
            del self._failed[node]
            self._left[node] = None

    def work(self, seconds: float) -> None:
        """Go on for so many seconds."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._step(left)

    def finish(self, nodes: Sequence[Node]) -> dict[str, object]:
        """Prove what is not yet proven of these nodes, which have all reported; what was found.

        Raises VclustError with what does not work.
        """
        self._settle(nodes)
        names = [node.name for node in nodes]
        timeout = proof.timeout(names)
        deadline = time.monotonic() + timeout
        while not (self._wrong or self._unchecked == set()):
            if time.monotonic() > deadline:
                raise VclustError(f"{self._cluster}: the proof is not done after {timeout:g} s")
            self._step(_LOOK)
        assert self._talk is not None  # noqa: S101 - what is done was said there
        return proof.judge(self._cluster, self._talk.output, names, self._reached, self._checks, self._direct)

    def _settle(self, nodes: Sequence[Node]) -> None:
        """From now on there are these nodes, and what fails is wrong."""
        names = {node.name: node for node in nodes}
        gone = self._nodes.keys() - names.keys()
        anew = next(iter(names)) != next(iter(self._nodes)) or bool(names.keys() - self._nodes.keys())
        # What waits for a node that has failed may hang.
        anew = anew or not gone.isdisjoint([*self._trying, *self._running])
        self._nodes, self._states = names, dict.fromkeys(names, NodeState.READY)
        self._final, self._opens = True, 0.0
        if anew:
            self._hang_up()
            self._begin()
            return
        self._left = {name: None for name in (*self._left, *self._failed) if name in names}
        self._failed = {}
        self._group = [name for name in self._group if name in names]

    def _step(self, seconds: float) -> None:
        """Say what can be said, and hear for so many seconds at most."""
        if self._talk is None and self._first_state in (NodeState.INSTALLED, NodeState.READY):
            if time.monotonic() >= self._opens:
                self._open()
            else:
                seconds = min(seconds, self._opens - time.monotonic())
        if self._talk is None:
            time.sleep(max(seconds, 0.0))
            return
        if self._talk.ended:
            self._lost()
            return
        if self._greeted and not self._running:
            self._ask(self._talk)
        if self._wrong or self._unchecked == set():  # nothing is left to hear
            return
        for line in self._talk.hear(seconds):
            if found := proof.LINE.fullmatch(line):
                self._heard(found[1], found[2])

    @property
    def _first(self) -> Node:
        return next(iter(self._nodes.values()))

    @property
    def _first_state(self) -> NodeState:
        return self._states[self._first.name]

    def _open(self) -> None:
        self._opened_final = self._final
        self._talk = self._log_in(self._first, self._first_state is not NodeState.READY)
        self._talk.say(proof.greeting(self._first.name, self._known))

    def _hang_up(self) -> None:
        if self._talk is not None:
            self._said = self.output
            self._talk.close()
            self._talk = None

    def _lost(self) -> None:
        """The login has ended by itself."""
        assert self._talk is not None  # noqa: S101 - for mypy
        lines = [plain(line, LINE) for line in self._talk.output.splitlines() if line.strip()]
        cut = self._talk.status == _CUT
        self._hang_up()
        self._lost_final += self._opened_final
        if self._opened_final and (not cut or self._lost_final == _ATTEMPTS):
            said = "\n".join(f"    {line}" for line in lines[-_SHOWN_LINES:]) or "    nothing"
            raise VclustError(
                f"{self._cluster}: the login to {self._first.name} has ended, and said:\n{said}"
            )
        if not self._final:
            self._opens = time.monotonic() + self._pause
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        else:
            self._opens = time.monotonic() + _PAUSE if self._opened_final else 0.0
        self._begin()

    def _ask(self, talk: Talk) -> None:
        """What can be tried now."""
        if self._may_direct and not self._reached and len(self._left) == len(self._nodes) - 1 > 0:
            if all(state in (NodeState.INSTALLED, NodeState.READY) for state in self._states.values()):
                self._run(talk, list(self._nodes), 1 if self._final else _ATTEMPTS_EARLY)
            return
        places = proof.GROUP - 1 - len(self._trying) - len(self._group)
        # Those that wait for a node to come take the places of others, where there are many.
        eager = len(self._nodes) <= proof.GROUP
        may = (NodeState.INSTALLED, NodeState.READY) if eager else (NodeState.READY,)
        names = [name for name in self._left if self._states[name] in may][:places]
        for name in names:
            del self._left[name]
            self._trying[name] = self._final
        if names:
            talk.say(proof.tries(names, _ATTEMPTS if self._final else _ATTEMPTS_EARLY))
        if self._trying or (self._too_early and not self._final):
            return
        if self._refused and not self._left:
            self._wrong = True
            return
        all_in = not self._left and not self._failed
        if len(self._group) == proof.GROUP - 1 or (all_in and (self._group or not self._reached)):
            self._run(talk, [self._first.name, *self._group])
        elif all_in and self._final and self._unchecked is None:
            self._unchecked = {one.name for one in self._checks}
            talk.say(proof.check_runs(self._checks, len(self._nodes)))

    def _run(self, talk: Talk, names: list[str], attempts: int = 0) -> None:
        """Begin an MPI run over these nodes; with `attempts` it logs in to them by itself."""
        self._running, self._run_final, self._run_direct = names, self._final, attempts > 0
        self._lines = []
        talk.say(proof.mpi_run(self._runs, names, attempts))

    def _heard(self, word: str, rest: str) -> None:
        first, _, said = rest.partition(" ")
        if word == "login" and first == self._first.name:
            self._greeted = True
        elif word == "login" and first in self._trying:
            final = self._trying.pop(first)
            if said.strip() == first:
                self._group.append(first)
            elif final:
                self._refused = True
            else:
                (self._left if self._final else self._failed)[first] = None
        elif word == "mpi" and first == str(self._runs):
            self._lines.append(said.strip())
        elif word == "done" and rest == f"mpi {self._runs}":
            self._ran()
        elif word == "done" and first == "check" and self._unchecked is not None:
            self._unchecked.discard(said)

    def _ran(self) -> None:
        """The MPI run has come to its end."""
        if self._run_direct:
            self._may_direct = False
            if proof.mpi_reaches(self._lines, self._running):
                self._left, self._direct = {}, self._running[1:]
                self._reached[self._runs] = self._running
            self._running = []
            self._runs += 1
            return
        reached = self._lines == ["none"] or proof.mpi_reaches(self._lines, self._running)
        self._wrong = self._run_final and not reached
        self._too_early = not reached
        if reached or self._run_final:
            self._reached[self._runs] = self._running
            self._group = []
            # The last ones end by themselves.
            if self._left and self._talk is not None:
                self._talk.say("".join(f"leave {name}\n" for name in self._running[1:]))
        self._running = []
        self._runs += 1

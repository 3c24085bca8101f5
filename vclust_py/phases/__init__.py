"""The phases of a cluster, a file each, in the order of `ORDER`; `destroy` takes away what they made.

Each file has one public function, `run(session, inputs) -> Result`.  Every phase can be taken up again after an
interruption; with `inputs.check` it says what it would do and changes nothing.
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from vclust_py.change import Change
from vclust_py.errors import VclustError

if TYPE_CHECKING:  # the command asks for the order only, and need not wait for the rest
    from vclust_py.hypervisor import Host
    from vclust_py.lock import Lock
    from vclust_py.request import Request
    from vclust_py.site.session import Session

ORDER = ("request", "resolve", "cache", "place", "image", "distribute", "create", "install", "ready")
"""From a request to a cluster that is proven to work."""


@dataclass(frozen=True)
class Inputs:
    """What a phase is given beside the session; each takes what it needs."""

    name: str
    """Of the cluster."""
    check: bool = False
    request: "Request | None" = None
    """Up to `place`; later phases take what was registered."""
    reason: str = ""
    """`request`: why the cluster is at this site."""
    local: bool = False
    """`request`: the site manager is one of the hosts itself."""
    locked: "Lock | None" = None
    """`resolve`: the lock of an earlier cluster."""
    lock: str = ""
    """`cache`, `place`: digest of the lock."""
    cache: str = ""
    """`cache`, `place`: digest of the chosen VD cache; empty: none."""
    hosts: "tuple[Host, ...]" = ()
    """`place`, `distribute`: the site's hosts."""
    again: bool = False
    """`ready`: prove a cluster that is ready once more."""
    forget: frozenset[str] = frozenset()
    """`destroy`, and healing: hosts that are done without if they do not answer."""

    @property
    def asked(self) -> "Request":
        """The request.  Raises VclustError where the caller has given none."""
        if self.request is None:
            raise VclustError(f"{self.name}: got no request, expected one")
        return self.request


@dataclass(frozen=True)
class Result:
    """What a phase found and left, and what it has to say beside that."""

    change: Change
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Plain data, as the phase's module returns it."""
    warnings: tuple[str, ...] = ()


class Phase(Protocol):
    def __call__(self, session: "Session", inputs: Inputs) -> Result: ...


def phase(name: str) -> Phase:
    """The function of the phase `name`, one of `ORDER` or `destroy`; imported when it is first asked for."""
    found: Phase = importlib.import_module(f"{__name__}.{name}").run
    return found

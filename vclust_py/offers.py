"""Which site a request goes to that leaves it open: what each site offers, and the choice among them.

A site answers from its own books and hosts and reserves nothing; whoever is late for the last space is told so by the
phase `place`, as everywhere.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from vclust_py.arguments import checked
from vclust_py.cache import lookup
from vclust_py.change import Change
from vclust_py.errors import CapacityError, RequestError, VclustError
from vclust_py.phases import Inputs, Result, phase
from vclust_py.site import clusters
from vclust_py.site.session import Session
from vclust_py.text import DETAIL, plain

_CAPACITY, _REQUEST = CapacityError.exit_code, RequestError.exit_code


def offer(session: Session, inputs: Inputs) -> Result:
    """What the site has to say to the request: that it has a cluster of that name, or what it would take to make it.

    Does what the phases up to `place` do in check mode, and raises what they raise: CapacityError without space for it.
    """
    cluster = clusters.find(session.store, inputs.name)
    if cluster is not None:
        return Result(Change({}, {}), {"offer": {"present": str(cluster.state), "estimate": {}}})
    asked = replace(inputs, check=True)
    resolved = phase("resolve")(session, asked).facts
    packages = len(resolved["packages"])
    cache = lookup.choose(lookup.Candidate.from_dict(one, packages) for one in resolved["caches"])
    asked = replace(asked, lock=resolved["lock"], cache=cache.digest if cache else "")
    plan = phase("place")(session, asked).facts["plan"]
    return Result(Change({}, {}), {"offer": {"present": "", "estimate": plan["estimate"]}})


@dataclass(frozen=True)
class Offer:
    """One site's answer; a site without an `estimate` has the cluster (`present`) or an `error`."""

    site: str
    manager: str
    """Its name in the inventory."""
    present: str = ""
    """State of the cluster of that name that the site has."""
    estimate: Mapping[str, Any] = field(default_factory=dict)
    """As `vclust_py.estimate.Estimate` has it."""
    error: str = ""
    exit_code: int = 0
    answered: bool = True

    @classmethod
    def from_result(cls, site: str, manager: str, result: Mapping[str, Any]) -> "Offer":
        """Of what the filter vclust_offers keeps of the module vclust_offer's result."""
        if "offer" in result:
            return cls(site, manager, **result["offer"])
        error = plain(str(result.get("msg") or "no word"), DETAIL, lines=True)
        code = int(result.get("exit_code") or VclustError.exit_code)
        return cls(site, manager, error=error, exit_code=code, answered=result["answered"])

    @property
    def seconds(self) -> float:
        return float(sum(self.estimate["seconds"].values()))

    @property
    def failure(self) -> str:
        return self.error if self.answered else f"does not answer: {self.error}"


@dataclass(frozen=True)
class Choice:
    """The site that takes a request, and why; `warnings` name the sites that could not be judged."""

    site: str
    manager: str
    reason: str
    warnings: tuple[str, ...]


def choose(name: str, offers: Sequence[Offer]) -> Choice:
    """The site that has a cluster of that name; else the one that can be ready first by its own estimate.

    A site that knows nothing of some phases comes after those that know of more; of equals the first of the inventory
    is taken.  Raises RequestError when two sites have the name; when none takes the request CapacityError where one
    lacks space, else RequestError where one finds a mistake, else VclustError.
    """
    checked("name", "cluster", name)
    warnings = tuple(
        f"{one.site}: {one.failure}" for one in offers if one.exit_code not in (0, _CAPACITY, _REQUEST)
    )
    having = [one for one in offers if one.present]
    if len(having) > 1:
        both = " and ".join(one.site for one in having)
        raise RequestError([f"{name}: there is one in {both}"], "say which: Site, in the request")
    if having:
        (one,) = having
        return Choice(one.site, one.manager, f"{one.site} has a cluster of that name", warnings)
    able = [one for one in offers if one.estimate]
    if not able:
        raise _refused(name, offers)
    best = min(able, key=lambda one: (len(one.estimate["unknown"]), one.seconds))
    known = not best.estimate["unknown"]
    rule = "ready first by the sites' own estimates" if known else "no site knows how long it takes"
    words = [_word(one) for one in (best, *(one for one in offers if one is not best))]
    return Choice(best.site, best.manager, f"{rule}: {', '.join(words)}", warnings)


def _word(one: Offer) -> str:
    if not one.answered:
        return f"{one.site} does not answer"
    if one.error:
        return f"{one.site} {'has no space' if one.exit_code == _CAPACITY else 'cannot'}"
    if unknown := one.estimate["unknown"]:
        return f"{one.site} has no past runs of {' and '.join(unknown)}"
    return f"{one.site} {one.seconds:.0f} s"


def _refused(name: str, offers: Sequence[Offer]) -> VclustError:
    lines = list[str]()
    for one in offers:
        first, *rest = one.failure.splitlines() or [""]
        lines += [f"  {one.site}: {first}", *(f"    {line}" for line in rest)]
    codes = {one.exit_code for one in offers}
    if _CAPACITY in codes:
        return CapacityError("\n".join([f"{name}: no site has space for it:", *lines]))
    if _REQUEST in codes:
        return RequestError([f"{name}: no site can make it:", *lines])
    return VclustError("\n".join([f"{name}: no site can make it:", *lines]))

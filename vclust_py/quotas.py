"""Who may use how much of a site: projects and quotas, and what live clusters have of them.

A cluster counts for its owner and for the project that the owner was in when it was made.  Root and administrators,
who set the quotas, have none of their own; what they make counts for their project.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from vclust_py.arguments import person
from vclust_py.errors import CapacityError, VclustError
from vclust_py.request import values
from vclust_py.request.values import Kind, Wrong, shown

ROOT = "root"
"""The site manager's own account; never a name that a controller may hand in."""

_project_name = values.cluster_name
_MOST_NODES, _MOST_BYTES = 10**9, 10**18

AMOUNTS: Mapping[str, Kind[int]] = {
    "nodes": values.whole(0, _MOST_NODES),
    "cpus": values.whole(0, _MOST_NODES),
    "memory": values.size(0, _MOST_BYTES, "64GB"),
    "disk": values.size(0, _MOST_BYTES, "500GB"),
}
"""What is summed over clusters: numbers, and bytes as nodes have them reserved."""
_LIMITS: Mapping[str, Kind[int]] = {**AMOUNTS, "lease": values.lease}


@dataclass(frozen=True)
class Quota:
    """Limits; None: none.  `lease` is the longest that one cluster may have, in seconds, the others are sums."""

    nodes: int | None = None
    cpus: int | None = None
    memory: int | None = None
    disk: int | None = None
    lease: int | None = None

    @classmethod
    def from_mapping(cls, place: str, mapping: object) -> "Quota":
        """Raises VclustError naming `place`, where the mapping is in the settings."""
        limits = {}
        for name, value in _mapping(place, mapping, _LIMITS).items():
            if value is None:
                continue
            try:
                limits[name] = _LIMITS[name](str(value))
            except Wrong as wrong:
                raise VclustError(
                    f"{place}: {name}: got {shown(str(value))}, expected {wrong.expected}"
                ) from None
        return cls(**limits)

    def to_mapping(self) -> dict[str, Any]:
        """The reverse of `from_mapping`, without what is not limited."""
        limits = {one.name: getattr(self, one.name) for one in fields(self)}
        return {name: _LIMITS[name].write(limit) for name, limit in limits.items() if limit is not None}


UNLIMITED = Quota()


@dataclass(frozen=True)
class Project:
    """A group of users, who share a quota and look after each other's clusters."""

    name: str
    users: tuple[str, ...] = ()
    quota: Quota = UNLIMITED


def projects_from(place: str, mapping: object) -> tuple[Project, ...]:
    """The projects of a mapping by their names.  Raises VclustError, also where a user is in two of them."""
    found, project_of = [], dict[str, str]()
    for name, value in _mapping(place, mapping).items():
        try:
            _project_name(name)
        except Wrong as wrong:
            raise VclustError(f"{place}: got the name {shown(name)}, expected {wrong.expected}") from None
        inside = f"{place}: {name}"
        project = _mapping(inside, value, ("users", "quota"))
        users = users_from(f"{inside}: users", project.get("users"))
        for user in users:
            if project_of.setdefault(user, name) != name:
                raise VclustError(
                    f"{place}: got {user} in {project_of[user]} and in {name}, expected each user in one project"
                )
        found.append(Project(name, users, Quota.from_mapping(f"{inside}: quota", project.get("quota"))))
    return tuple(found)


def projects_to(projects: Sequence[Project]) -> dict[str, Any]:
    """The reverse of `projects_from`."""
    return {one.name: {"users": list(one.users), "quota": one.quota.to_mapping()} for one in projects}


def users_from(place: str, value: object) -> tuple[str, ...]:
    """A list of names of users.  Raises VclustError."""
    names = [] if value is None else value
    if not isinstance(names, list | tuple):
        raise VclustError(f"{place}: got {shown(str(value))}, expected a list of users")
    try:
        return tuple(dict.fromkeys(map(person, names)))
    except Wrong as wrong:
        raise VclustError(f"{place}: got {shown(str(names))}, expected each {wrong.expected}") from None


def _mapping(place: str, value: object, keys: Collection[str] = ()) -> Mapping[str, Any]:
    """`value`, a mapping with text as keys, of `keys` alone where there are any; nothing is an empty one."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise VclustError(f"{place}: got {shown(str(value))}, expected a mapping")
    for name in value:
        if not isinstance(name, str) or (keys and name not in keys):
            expected = f"one of {', '.join(keys)}" if keys else "a name"
            raise VclustError(f"{place}: got {shown(str(name))}, expected {expected}")
    return value


# What is used --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Holding:
    """What a cluster has reserved, or asks for; memory and disk in bytes."""

    cluster: str
    owner: str
    project: str
    """Empty: none."""
    nodes: int
    cpus: int
    memory: int
    disk: int


@dataclass(frozen=True)
class Limit:
    """One limit that a cluster comes under; bytes, or seconds of a lease."""

    whose: str
    """Such as `user alice`."""
    what: str
    limit: int
    used: int
    asked: int | None
    """None: a cluster without end, where the lease is limited."""
    clusters: Mapping[str, int] = field(default_factory=dict)
    """Who uses how much, by name of the live cluster."""

    @property
    def exceeded(self) -> bool:
        return self.asked is None or self.used + self.asked > self.limit


def limits(
    wanted: Holding,
    lease: int | None,
    holdings: Sequence[Holding],
    user_quota: Quota,
    project: Project | None,
) -> list[Limit]:
    """All limits that the cluster `wanted` comes under, beside the `holdings` of other live clusters.

    `project` is the one of `wanted`, where it has one that the site still knows.
    """
    own = [one for one in holdings if one.owner == wanted.owner]
    sources = [(f"user {wanted.owner}", user_quota, own)]
    if project is not None:
        shared = [one for one in holdings if one.project == project.name]
        sources.append((f"project {project.name}", project.quota, shared))
    found = []
    for whose, quota, others in sources:
        for what in AMOUNTS:
            limit = getattr(quota, what)
            if limit is not None:
                used = {one.cluster: amount for one in others if (amount := getattr(one, what))}
                found.append(Limit(whose, what, limit, sum(used.values()), getattr(wanted, what), used))
        if quota.lease is not None:
            found.append(Limit(whose, "lease", quota.lease, 0, lease))
    return found


def require(name: str, under: Sequence[Limit]) -> None:
    """Raises CapacityError that names the limits which the cluster `name` would exceed, and who uses what of them."""
    exceeded = [one for one in under if one.exceeded]
    if not exceeded:
        return
    users = [
        f"vclust {cluster.replace(' ', ' remove ') if cluster.startswith('volume ') else f'destroy {cluster}'}"
        for one in exceeded
        for cluster in one.clusters
    ]
    smaller = "ask for less" if not users else f"ask for less, or first: {users[0]}"
    raise CapacityError(
        "\n  ".join([f"{name}: more than the quota allows:", *map(_sentence, exceeded)]),
        f"{smaller}; an administrator of the site sets quotas (vclust_site: projects, user_quota)",
    )


_NAMED = 8
"""So many clusters are named, the largest first; the others are counted."""


def _sentence(one: Limit) -> str:
    if one.what == "lease":
        asked = "no end of its lease" if one.asked is None else f"a lease of {values.lease.write(one.asked)}"
        return f"{one.whose}: got {asked}, expected {values.lease.write(one.limit)} at most (Lease)"
    ordered = sorted(one.clusters.items(), key=lambda item: (-item[1], item[0]))
    by = [f"{cluster} ({_amount(one.what, amount)})" for cluster, amount in ordered[:_NAMED]]
    if len(ordered) > _NAMED:
        by.append(f"and {len(ordered) - _NAMED} more clusters")
    used = f"{_amount(one.what, one.used)} used by {', '.join(by)}" if by else "none used"
    assert one.asked is not None  # noqa: S101 - only a lease may be without
    asked, limit = _amount(one.what, one.asked), _amount(one.what, one.limit)
    return f"{one.whose}: {one.what}: {asked} asked for, limit {limit}, {used}"


def _amount(what: str, amount: int) -> str:
    return f"{amount / 1e9:.1f} GB" if what in ("memory", "disk") else str(amount)

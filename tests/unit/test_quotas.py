"""Quotas: the settings as people write them, and what is used against a count by hand."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vclust_py import quotas
from vclust_py.errors import CapacityError, VclustError
from vclust_py.quotas import AMOUNTS, UNLIMITED, Holding, Project, Quota
from vclust_py.site import Site

GB = 10**9
SETTINGS = {
    "administrators": ["carol"],
    "projects": {
        "bio": {
            "users": ["alice", "bob@example.org"],
            "quota": {"nodes": 32, "memory": "64GB", "lease": "7d"},
        },
        "chem": {"users": ["dave"]},
    },
    "user_quota": {"nodes": 16, "cpus": "32", "disk": "1TB"},
}


def test_settings_become_values_and_come_back() -> None:
    site = Site.from_mapping(SETTINGS)
    bio = Project("bio", ("alice", "bob@example.org"), Quota(nodes=32, memory=64 * GB, lease=7 * 86400))
    assert site.projects == (bio, Project("chem", ("dave",)))
    assert site.user_quota == Quota(nodes=16, cpus=32, disk=1000 * GB)
    assert Site.from_mapping(site.to_mapping()) == site
    assert (site.project("bio"), site.project("gone")) == (bio, None)
    assert [site.project_of(user) for user in ("dave", "carol")] == ["chem", ""]
    assert [site.has_quota(user) for user in ("alice", "erin", "carol", "root")] == [True, True, False, False]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"user_quota": {"node": 1}},
            "user_quota: got 'node', expected one of nodes, cpus, memory, disk, lease",
        ),
        ({"user_quota": {"nodes": -1}}, "user_quota: nodes: got '-1', expected a whole number"),
        ({"user_quota": {"memory": 64}}, "user_quota: memory: got '64', expected a size such as 64GB"),
        ({"user_quota": {"lease": "long"}}, "user_quota: lease: got 'long', expected a time such as"),
        ({"user_quota": 4}, "user_quota: got '4', expected a mapping"),
        ({"projects": {"Bio": {}}}, "projects: got the name 'Bio', expected up to 31 of a-z"),
        (
            {"projects": {"bio": {"members": []}}},
            "projects: bio: got 'members', expected one of users, quota",
        ),
        ({"projects": {"bio": {"users": "alice"}}}, "projects: bio: users: got 'alice', expected a list"),
        (
            {"projects": {"bio": {"users": ["a b"]}}},
            "projects: bio: users: got .*a b.*, expected each the name",
        ),
        ({"administrators": [[1]]}, "administrators: got .*, expected each text"),
        (
            {"projects": {"a": {"users": ["x"]}, "b": {"users": ["x"]}}},
            "projects: got x in a and in b, expected each user in one project",
        ),
    ],
)
def test_wrong_settings_are_named_with_their_place(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(VclustError, match=f"^vclust_site: {message}"):
        Site.from_mapping(settings)


def a_holding(cluster: str, owner: str = "alice", project: str = "bio", **amounts: int) -> Holding:
    return Holding(cluster, owner, project, **{**dict.fromkeys(AMOUNTS, 0), **amounts})


def test_a_refusal_names_each_limit_what_is_used_and_by_whom() -> None:
    holdings = [
        a_holding("one", nodes=4, memory=8 * GB),
        a_holding("two", "bob", nodes=6),
        a_holding("old", project="", nodes=1),
        a_holding("far", "dave", "chem", nodes=100),
    ]
    bio = Project("bio", quota=Quota(nodes=16, memory=10 * GB, lease=3600))
    wanted = a_holding("new", nodes=8, memory=4 * GB)
    with pytest.raises(CapacityError) as raised:
        quotas.require("new", quotas.limits(wanted, None, holdings, Quota(nodes=12, disk=GB), bio))
    assert raised.value.exit_code == 3
    assert str(raised.value).splitlines() == [
        "new: more than the quota allows:",
        "  user alice: nodes: 8 asked for, limit 12, 5 used by one (4), old (1)",
        "  project bio: nodes: 8 asked for, limit 16, 10 used by two (6), one (4)",
        "  project bio: memory: 4.0 GB asked for, limit 10.0 GB, 8.0 GB used by one (8.0 GB)",
        "  project bio: got no end of its lease, expected 1h at most (Lease)",
        "  hint: ask for less, or first: vclust destroy one; an administrator of the site sets quotas"
        " (vclust_site: projects, user_quota)",
    ]


def test_a_lease_is_limited_for_each_cluster() -> None:
    user = Quota(lease=3600)
    quotas.require("new", quotas.limits(a_holding("new"), 3600, [a_holding("one")], user, None))
    with pytest.raises(CapacityError, match="user alice: got a lease of 2h, expected 1h at most"):
        quotas.require("new", quotas.limits(a_holding("new"), 7200, [], user, None))


def test_nothing_is_limited_by_default() -> None:
    assert quotas.limits(a_holding("new", nodes=10**6), None, [], UNLIMITED, Project("bio")) == []


def test_many_clusters_are_counted() -> None:
    holdings = [a_holding(f"c{number:02}", nodes=1) for number in range(12)]
    with pytest.raises(CapacityError, match=r"12 used by c00 \(1\), .*c07 \(1\), and 4 more clusters"):
        quotas.require("new", quotas.limits(a_holding("new", nodes=1), None, holdings, Quota(nodes=12), None))


USERS, PROJECTS = ("alice", "bob", "carol"), ("", "bio", "chem")
SMALL = st.integers(0, 6)
HOLDINGS = st.lists(
    st.builds(
        lambda owner, project, amounts: (owner, project, amounts),
        st.sampled_from(USERS),
        st.sampled_from(PROJECTS),
        st.fixed_dictionaries(dict.fromkeys(AMOUNTS, SMALL)),
    ),
    max_size=6,
)
QUOTAS = st.builds(Quota, **dict.fromkeys(AMOUNTS, st.none() | st.integers(0, 20)))


@given(HOLDINGS, st.sampled_from(USERS), st.sampled_from(PROJECTS), QUOTAS, QUOTAS, st.data())
def test_what_is_accepted_is_what_a_count_by_hand_accepts(
    drawn: list[tuple[str, str, dict[str, int]]],
    owner: str,
    project: str,
    user_quota: Quota,
    project_quota: Quota,
    data: st.DataObject,
) -> None:
    """The twin asks of the site as it would be then, one unit at a time, whether anybody has too much."""
    holdings = [
        a_holding(f"c{number}", one, group, **amounts) for number, (one, group, amounts) in enumerate(drawn)
    ]
    wanted = a_holding("new", owner, project, **{what: data.draw(SMALL) for what in AMOUNTS})
    left = {(f"user {owner}", what): getattr(user_quota, what) for what in AMOUNTS}
    left |= {(f"project {project}", what): getattr(project_quota, what) for what in AMOUNTS if project}
    expected = set()
    for one in (*holdings, wanted):
        for what in AMOUNTS:
            for _ in range(getattr(one, what)):
                for key in ((f"user {one.owner}", what), (f"project {one.project}", what)):
                    if left.get(key) is not None:
                        left[key] -= 1
                        expected |= {key} if left[key] < 0 else set()
    under = quotas.limits(
        wanted, None, holdings, user_quota, Project(project, quota=project_quota) if project else None
    )
    assert {(one.whose, one.what) for one in under if one.exceeded} == expected
    try:
        quotas.require("new", under)
    except CapacityError:
        assert expected
    else:
        assert not expected

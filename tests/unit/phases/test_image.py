"""What new nodes of a cluster start from, once its packages were changed; images are small files."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from cache.cachesite import an_image
from fakehost import FakeSession
from life.living import HOSTS, a_request, a_site, created
from repository import Repository, lock_of, quiet

from vclust_py.cache import retention
from vclust_py.image import Image
from vclust_py.image.base import find_base
from vclust_py.image.builder import layer_key
from vclust_py.image.manifest import records
from vclust_py.life import apply
from vclust_py.lock import Lock
from vclust_py.phases import Inputs, image
from vclust_py.relock import relock
from vclust_py.request import Request
from vclust_py.site import clusters

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the site is root's")


@pytest.fixture
def session(toy: Repository, tmp_path: Path) -> Iterator[FakeSession]:
    with a_site(toy, toy.site(tmp_path / "site", cache_every=0)) as session:
        yield session


def a_layer(session: FakeSession, lock: Lock, names: set[str], below: Image | None = None) -> Image:
    """The layer of the lock, with these of its packages over another layer or the base."""
    base = find_base(session.site, lock)
    assert base is not None
    own = [package for package in lock.packages if package.name in names]
    key = layer_key(lock, base.base)
    return an_image(session.site, "layer", key, key, backing=below or base.base, packages=records(own))


def asked(*names: str, nodes: int = 2) -> Request:
    return a_request(nodes=nodes, packages=list(names), install="once")


def applied(session: FakeSession, request: Request) -> dict[str, str]:
    apply.run(session, Inputs("one", request=request, hosts=HOSTS))
    image.run(session, Inputs("one"))
    return clusters.get(session.store, "one").images


def test_a_further_layer_for_nodes_to_come(session: FakeSession) -> None:
    lock = lock_of(session.site, "hello")
    first = a_layer(session, lock, {"hello", "libgreet"})
    made = created(session, asked("hello")).images
    assert made["root"] == first.manifest.digest
    more = relock(lock, ["hello", "full"], session.site, quiet)
    second = a_layer(session, more, {"full"}, below=first)
    # Nodes that are there have been given the package: nothing is made before another one comes.
    assert applied(session, asked("hello", "full")) == made
    assert applied(session, asked("hello", "full", nodes=3)) == {
        **made,
        "root": second.manifest.digest,
        "earlier-000": first.manifest.digest,
    }
    # Without what the first two stand on: the new one is whole in itself.
    third = a_layer(session, relock(more, ["full"], session.site, quiet), {"full"})
    last = applied(session, asked("full", nodes=4))
    assert [last["root"], last["earlier-000"], last["earlier-001"]] == [
        third.manifest.digest,
        first.manifest.digest,
        second.manifest.digest,
    ]
    # What disks of nodes stand on stays.
    retention.trim(session)
    for one in (first, second, third):
        assert one.path.exists()

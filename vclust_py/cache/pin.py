"""Pinning images: what a cluster stands on is written down, and stays as long as the cluster."""

from collections.abc import Mapping

from vclust_py.errors import VclustError
from vclust_py.site import clusters, learning
from vclust_py.site.clusters import Cluster
from vclust_py.site.session import Session


def pin(session: Session, cluster: Cluster, images: Mapping[str, str]) -> bool:
    """Write down the cluster's images (role: digest), if all of them are there still; whether that is so."""
    with session.store.transaction():
        view = session.images.look()
        try:
            chains = [view.chain(view.get(digest)) for digest in images.values()]
        except VclustError:
            return False
        clusters.update(session.store, cluster, images=dict(images))
        learning.note_use(
            session.store, sorted({image.manifest.digest for chain in chains for image in chain})
        )
    return True

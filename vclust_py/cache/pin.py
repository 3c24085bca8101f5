"""Pinning images: what a cluster stands on is written down, and stays as long as the cluster."""

from collections.abc import Mapping

from vclust_py import state
from vclust_py.cache import records
from vclust_py.errors import VclustError
from vclust_py.image import Catalogue
from vclust_py.site import Site
from vclust_py.state import Cluster


def pin(site: Site, cluster: Cluster, images: Mapping[str, str]) -> bool:
    """Write down the cluster's images (role: digest), if all of them are there still; whether that is so."""
    catalogue = Catalogue(site)
    with state.connect(site) as connection, state.transaction(connection):
        view = catalogue.look()
        try:
            chains = [view.chain(view.get(digest)) for digest in images.values()]
        except VclustError:
            return False
        records.set_images(connection, cluster.id, images)
        records.note_use(connection, sorted({image.manifest.digest for chain in chains for image in chain}))
    return True

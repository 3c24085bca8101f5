"""What the drivers do alike with a host, be it the site manager itself or another machine."""

import shutil
from functools import cached_property

from vclust_py.hypervisor import HOST_ROOT, Segment, segments
from vclust_py.hypervisor.domains import Domains
from vclust_py.hypervisor.local import LocalFiles
from vclust_py.hypervisor.remote_files import RemoteFiles
from vclust_py.hypervisor.storage import Pool
from vclust_py.site import Site


class Driver(Domains):
    """Files, segments and free disk of one host; a driver opens the connection and adds its hypervisor's own."""

    _site: Site

    def files(self, folder: str) -> LocalFiles | RemoteFiles:
        if self._host.machine is None:
            return LocalFiles(self._site, folder)
        return self.remote_files(folder)

    def remote_files(self, folder: str) -> RemoteFiles:
        """`files` of a host that is another machine."""
        known = self._remote_files.get(folder)
        return known or self._remote_files.setdefault(
            folder, RemoteFiles(self._connection, self._host, folder)
        )

    @cached_property
    def _remote_files(self) -> dict[str, RemoteFiles]:
        """By folder: each knows its pools, which are looked up once."""
        return {}

    def disk_free(self) -> int:
        """Bytes, of the file system for the nodes' disks."""
        if self._host.machine is None:
            return shutil.disk_usage(self._site.clusters).free
        return Pool(self._connection, self._host, "vclust-clusters", HOST_ROOT / "clusters").free()

    def ensure_segment(self, segment: Segment) -> None:
        if self._host.machine is not None:  # the site manager makes its own (`vclust_py.network`)
            segments.ensure(self._connection, self._host, segment)

    def remove_segment(self, name: str) -> None:
        if self._host.machine is not None:
            segments.remove(self._connection, name)

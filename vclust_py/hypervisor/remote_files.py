"""Files of a cluster on a host that is another machine."""

from collections.abc import Iterable
from pathlib import Path

from vclust_py.hypervisor import HOST_ROOT, Host
from vclust_py.hypervisor.connection import Connection
from vclust_py.hypervisor.storage import DRAFTS, Pool


class RemoteFiles:
    """`Files` on a host that is another machine."""

    def __init__(self, connection: Connection, host: Host, folder: str, root: Path = HOST_ROOT) -> None:
        self._images = Pool(connection, host, "vclust-images", root / "images")
        # Processes of the hypervisor may run as a user of their own, and walk through it.
        self._cluster = Pool(connection, host, f"vclust-{folder}", root / "clusters" / folder, mode="0711")

    def path(self, name: str) -> Path:
        return self._cluster.folder / name

    def image(self, name: str) -> Path:
        return self._images.folder / name

    def images(self) -> dict[str, int]:
        sizes = self._images.sizes(written=False)
        return {name: size for name, size in sizes.items() if not name.endswith(DRAFTS)}

    def discard_image(self, name: str) -> None:
        self._images.discard(name)

    def lacking(self, paths: Iterable[Path]) -> list[Path]:
        """Those of the files that are not there."""
        wanted = list(paths)
        return [
            pool.folder / name
            for pool in (self._images, self._cluster)
            for name in pool.lacks(path.name for path in wanted if path.parent == pool.folder)
        ]

    def put(self, source: Path) -> None:
        self._cluster.write(source.name, source)

    def overlay(self, name: str, backing: str, size: int, backing_format: str = "qcow2") -> None:
        self._cluster.make_overlay(name, self.image(backing), size, backing_format)

    def virtual_size(self, name: str) -> int:
        return self._cluster.virtual_size(name)

    def grow(self, name: str, size: int) -> None:
        self._cluster.grow(name, size)

    def blank(self, name: str, size: int) -> None:
        self._cluster.make_blank(name, size)

    def copy(self, source: str, target: str) -> None:
        self._cluster.copy(source, target)

    def length(self, name: str) -> int:
        return self._cluster.length(name)

    def read(self, name: str, position: int) -> bytes:
        return self._cluster.read(name, position)

    def make_raw(self, name: str, size: int, data: bytes = b"", owner: tuple[int, int] = (0, 0)) -> None:
        """As `Pool.make_raw`."""
        self._cluster.make_raw(name, size, data, owner)

    def overwrite(self, name: str, data: bytes) -> None:
        """As `Pool.overwrite`."""
        self._cluster.overwrite(name, data)

    def free(self) -> int:
        """As `Pool.free`."""
        return self._cluster.free()

    def stamp(self, name: str) -> str:
        """As `Pool.stamp`."""
        return self._cluster.stamp(name)

    def allocated(self) -> dict[str, int]:
        return self._cluster.sizes(written=True)

    def discard(self, *names: str) -> None:
        self._cluster.discard(*names)

    def remove(self) -> None:
        self._cluster.remove()

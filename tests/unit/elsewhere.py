"""A host that is another machine, whatever its URI: libvirt's test driver has no machines."""

from dataclasses import dataclass

from vclust_py.hypervisor import Host


@dataclass(frozen=True)
class Elsewhere(Host):
    @property
    def machine(self) -> str | None:
        return self.name

"""Leads `libvirt.open` of this process from hosts that run machines to the same hosts' test driver.

The product's drivers work as they are, on `xen+tls://HOST/system` and the like.  What the test driver lacks is made up
here: it has no contents of volumes, takes no flag with a new pool, and knows domains of type `test` only.  A console
has said all that a node says that comes up.
"""

import re
import time
from collections.abc import Callable
from typing import Any

_URI = re.compile(r"^(?:qemu|xen)(\+tls://[^/]+)/system")
_TYPE = re.compile(r'(<domain type=")\w+')
_SYSTEM = re.compile(r"<type [^>]*>\w+</type>")
_MEMORY, _CPUS, _DISK = 1 << 40, 256, 1 << 50
"""What each host has: room for any test's nodes."""
_CONSOLE = b"vclust: installer up=1\nvclust: installed\nvclust: ready up=1 packages=0\n"

_start_seconds = 0.0


class _Proxy:
    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class _Stream:
    """Takes what is sent, and keeps nothing; has what a console has said."""

    def __init__(self) -> None:
        self.contents = b""

    def recv(self, length: int) -> bytes:
        piece, self.contents = self.contents[:length], self.contents[length:]
        return piece

    def sendAll(self, read: Any, opaque: Any) -> None:
        while read(self, 1 << 16, opaque):
            pass

    def finish(self) -> None:
        pass

    def abort(self) -> None:
        pass


class _Volume(_Proxy):
    def infoFlags(self, flags: int) -> Any:
        return self._inner.info() if not flags else [0, 0, self._inner.info()[1]]

    def upload(self, stream: _Stream, offset: int, length: int, flags: int = 0) -> None:
        self._inner.info()  # a round trip, as the real one


class _Console:
    def info(self) -> list[int]:
        return [0, len(_CONSOLE), len(_CONSOLE)]

    def infoFlags(self, flags: int) -> list[int]:
        return self.info()

    def delete(self, flags: int = 0) -> None:
        pass

    def download(self, stream: _Stream, offset: int, length: int, flags: int = 0) -> None:
        stream.contents = _CONSOLE[offset : offset + length]


class _Pool(_Proxy):
    def createXML(self, xml: str, flags: int = 0) -> _Volume:
        return _Volume(self._inner.createXML(xml, flags))

    def storageVolLookupByName(self, name: str) -> _Volume | _Console:
        if name.endswith(".console"):
            return _Console()
        return _Volume(self._inner.storageVolLookupByName(name))

    def listAllVolumes(self, flags: int = 0) -> list[_Volume]:
        return [_Volume(volume) for volume in self._inner.listAllVolumes(flags)]

    def info(self) -> list[int]:
        state = self._inner.info()[0]
        return [state, _DISK, 0, _DISK]


class _Domain(_Proxy):
    def create(self) -> None:
        time.sleep(_start_seconds)
        self._inner.create()


class _Connection(_Proxy):
    def getInfo(self) -> list[Any]:
        return ["x86_64", _MEMORY >> 20, _CPUS, 3000, *self._inner.getInfo()[4:]]

    def getFreeMemory(self) -> int:
        return _MEMORY

    def getMemoryStats(self, cell: int, flags: int = 0) -> dict[str, int]:
        return {"total": _MEMORY >> 10, "free": _MEMORY >> 10}

    def getCapabilities(self) -> str:
        self._inner.getCapabilities()
        return "<capabilities><guest><arch><machine>xenpvh</machine></arch></guest></capabilities>"

    def newStream(self, flags: int = 0) -> _Stream:
        return _Stream()

    def storagePoolCreateXML(self, xml: str, flags: int = 0) -> _Pool:
        return _Pool(self._inner.storagePoolCreateXML(xml))

    def storagePoolDefineXML(self, xml: str, flags: int = 0) -> _Pool:
        return _Pool(self._inner.storagePoolDefineXML(xml, flags))

    def storagePoolLookupByName(self, name: str) -> _Pool:
        return _Pool(self._inner.storagePoolLookupByName(name))

    def lookupByName(self, name: str) -> _Domain:
        return _Domain(self._inner.lookupByName(name))

    def defineXML(self, xml: str) -> _Domain:
        xml = _SYSTEM.sub('<type arch="x86_64">hvm</type>', _TYPE.sub(r"\1test", xml, count=1), count=1)
        return _Domain(self._inner.defineXML(xml))


def opener(opened: Callable[[str], Any], start_seconds: float = 0.0) -> Callable[[str], Any]:
    """In the place of `libvirt.open`, which is `opened`.  A domain takes `start_seconds` to start, over there."""
    global _start_seconds
    _start_seconds = start_seconds

    def translated(uri: str) -> Any:
        there, found = _URI.subn(r"test\1/default", uri)
        return _Connection(opened(there)) if found else opened(uri)

    return translated

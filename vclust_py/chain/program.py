"""The hop service as one file, for hosts: a zipapp of the package `vclust_hop`."""

import io
import zipfile
from pathlib import Path

import vclust_hop

_MAIN = b"from vclust_hop.__main__ import main\n\nmain()\n"
_TIME = (1980, 1, 1, 0, 0, 0)
"""The earliest that a zip can tell: the same source makes the same bytes, whenever and wherever."""


def zipapp() -> bytes:
    """`python3 -I FILE` runs it, whatever that Python has installed."""
    package = Path(vclust_hop.__file__).parent
    content = {f"{package.name}/{path.name}": path.read_bytes() for path in sorted(package.glob("*.py"))}
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        for name, data in {"__main__.py": _MAIN, **content}.items():
            # Not compressed: what zlib makes of the same bytes differs from one release to the next.
            entry = zipfile.ZipInfo(name, _TIME)
            entry.create_system, entry.external_attr = 3, 0o644 << 16
            archive.writestr(entry, data)
    return written.getvalue()

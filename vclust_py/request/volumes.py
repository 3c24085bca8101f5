"""`Volume` of a request: a data disk of the cluster, on its first node."""

import re
from dataclasses import dataclass

from vclust_py.request import values
from vclust_py.request.values import Kind, Wrong

_SIZE = values.size(100 * 10**6, values.MAX_DISK, "20GB")
_NAME = "[a-z]([a-z0-9-]{0,29}[a-z0-9])?"
_FORM = re.compile(rf"({_NAME}) +(\S+( [A-Za-z]+)??)( +[kK][eE][eE][pP])?")


@dataclass(frozen=True)
class Volume:
    """`size` in bytes; `keep`: it outlives the cluster."""

    name: str
    size: int
    keep: bool


def _parse(text: str) -> Volume:
    found = _FORM.fullmatch(text)
    if found is None:
        raise Wrong("NAME SIZE, with keep where it is to outlive the cluster, such as data 20GB keep")
    try:
        return Volume(found[1], _SIZE(found[3]), found[5] is not None)
    except Wrong as wrong:
        raise Wrong(f"NAME SIZE, SIZE being {wrong.expected}") from None


def _write(volume: Volume) -> str:
    return f"{volume.name} {_SIZE.write(volume.size)}{' keep' if volume.keep else ''}"


def _restore(form: str) -> Volume:
    name, size, *keep = form.split(" ")
    return Volume(name, _SIZE.restore(size), bool(keep))


volume = Kind(_parse, {"type": "string", "pattern": f"^({_FORM.pattern})$"}, _write, _restore)

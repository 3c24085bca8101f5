"""What a hop may say to the head: a host that has gone mad shall cost itself only."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vclust_hop.wire import Message

_MOST = 1 << 60
"""More bytes than any hop has received."""


def kind_of(message: Message) -> str:
    """done, ready, fault or failed; else it is a result."""
    return next((kind for kind in ("done", "ready", "fault", "failed") if kind in message), "result")


@dataclass(frozen=True)
class Expected:
    """What may be said in one transfer."""

    sizes: Mapping[str, int]
    """Of the files, by name, in bytes."""
    dry: bool

    def allows(self, message: Message, tagged: int) -> bool:
        """`tagged`: bytes that the head has given out so far, if only as tags."""
        kind = kind_of(message)
        if kind == "done":
            return _counts(message, "done", tagged) and _counts(message, "received", _MOST)
        if kind == "ready":
            return True
        if kind == "fault":
            return _texts(message, "fault", "source") and isinstance(message.get("rubbish"), bool)
        if kind == "failed":
            return _texts(message, "failed")
        if not _counts(message, "received", _MOST):
            return False
        if self.dry:
            return self._files(message, "lacks") is not None
        whole = tagged == sum(self.sizes.values())
        return whole and len(self._files(message, "arrived", "had") or ()) == len(self.sizes)

    def _files(self, message: Message, *names: str) -> list[str] | None:
        """The files of these fields, each once; None where that is not what is there."""
        files: list[str] = []
        for name in names:
            value = message.get(name)
            if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
                return None
            files += value
        return files if len(set(files)) == len(files) and self.sizes.keys() >= set(files) else None


def _counts(message: Message, name: str, most: int) -> bool:
    value: Any = message.get(name)
    return type(value) is int and 0 <= value <= most


def _texts(message: Message, *names: str) -> bool:
    return all(isinstance(message.get(name), str) for name in names)

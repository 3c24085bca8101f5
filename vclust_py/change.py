"""What an operation found and what it left."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Change:
    """What an operation found and what it left (or would leave): the pair behind Ansible's `changed` and diff."""

    before: dict[str, Any]
    after: dict[str, Any]

    @property
    def changed(self) -> bool:
        return self.before != self.after

"""VD caches that learn (paper 3.2): which sets of packages a site keeps installed, and which one a request gets.

traces    request traces in files, for replay
history   past requests as sets of packages
learn     clusters of alike requests and their rank, as the paper has it
choose    filling a space with caches, one after another by what they save for what they cost
policies  which caches to keep: `paper`, `nested` (our default) and others, all behind one function
lookup    the cache a request starts from, and why the others were refused
simulate  the replay of a trace under a policy
describe  the caches of a site as plain data
outline   what past requests have in common, as lines
plot      pictures of what past requests have in common, and of the caches' use

Sizes are bytes as installed.  NumPy and SciPy are imported by what computes only: this file and `lookup` are light.
"""

from dataclasses import dataclass


@dataclass(frozen=True, eq=False)
class Cache:
    """A set of packages to keep installed in a disk layer over the base, or over the parent's layer."""

    packages: frozenset[str]
    """All that is in it, the parents' included, each `name=version`."""
    size: int
    """Installed bytes of the packages."""
    bytes: int
    """What storing it takes beyond its parent, as foretold."""
    parent: "Cache | None" = None
    requests: int = 0
    """Past requests that start from it, of those it was chosen by."""
    saves: int = 0
    """Installed bytes it saved them beyond what the other chosen caches would."""

    @property
    def depth(self) -> int:
        """Layers of caches down to the base."""
        return 1 if self.parent is None else self.parent.depth + 1

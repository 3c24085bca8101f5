"""VD caches that learn (paper 3.2): which sets of packages a site keeps installed, and which one a request gets.

What a cluster starts from
stored      the VD caches that a site has, as data
lookup      the cache a request starts from, and why the others were refused
matching    the caches that a package closure could start from, and what that saves
pin         what a cluster stands on written down, so that it stays

What to keep
history     past requests as sets of packages; past: those of a site, at today's versions
learn       clusters of alike requests and their rank, as the paper has it
grow        growth chains: the sets that our own policy chooses among
choose      filling a space with caches, one after another by what they save for what they cost
policies    which caches to keep: `paper`, `nested` (our default) and others, all behind one function
rebuild     recomputing: choosing and building them; background: as a process of its own; priority: the least
renewal     base images made anew for security updates
package_space  the package store and the package indices within their spaces
retention   which images may stay, and which go; upkeep: that and the recomputing, when systemd's timer says so
status      the last recomputation, and what past requests started from

For people
describe    the caches of a site as plain data
outline     what past requests have in common, as lines; plot: as pictures
traces      request traces in files; simulate: their replay under a policy

Sizes are bytes as installed.  NumPy is imported by what computes only: this file and `lookup` are light.  SciPy is
used by tests alone: its linkage knows neither intersections nor forests, and its sparse product of 2,601 real requests
(4% of the table is set) took 1.8 times as long as NumPy's dense one, after an import of 0.8 s.
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
    """What storing it takes beyond its parent, as estimated."""
    parent: "Cache | None" = None
    requests: int = 0
    """Past requests that start from it, of those it was chosen by."""
    saves: int = 0
    """Installed bytes it saved them beyond what the other chosen caches would."""

    @property
    def depth(self) -> int:
        """Layers of caches down to the base."""
        return 1 if self.parent is None else self.parent.depth + 1

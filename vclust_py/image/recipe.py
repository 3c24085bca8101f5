"""What images are made from: a version for the recipe of each kind, and the keys that hold it.

An image is found by its kind and key.  A key names what goes in (packages, the image below, answers) and the version
of the recipe, which is raised by hand when the recipe's output changes.  Source text is not part of it: a changed
comment must not make the images of every site useless.  `tests/unit/image/test_recipe.py` compares each recipe's output
with its version.
"""

import re
from collections.abc import Iterable

RECIPES = {
    "base": "4",  # MPI is tried by a compiled program where there is a compiler
    "kernel": "973bb9b2444c",
    "installer": "7",  # may be suspended on Xen too; mounts what systemd would; accounts by one process
    "cache": "2",  # packed with zlib
    "layer": "1 7a39fc5e5a7b27312f5adc198f83248a3d4f5aa8a326e8a1c810288a2e2b24ff",
    "template": "4",  # the journal starts ten seconds late
    "suspended": "3",  # a port for the agent
    "bundle": "1 7a39fc5e5a7b27312f5adc198f83248a3d4f5aa8a326e8a1c810288a2e2b24ff",
}
"""The version of each kind's recipe.

The first one of each is what keys held before recipes had versions, so that images of that time stay valid.  The second
one is "2".  A new base makes all caches, layers and learnt choices over the old one useless: raise it only for what a
node would notice.
"""


BASES = {"trixie": "5"}
"""By suite the version of its base's recipe, where that has moved on and the others' bases have not changed."""


def base_key(suite: str, architecture: str, kernel: str, packages: Iterable[str] = ()) -> str:
    """The key of the base image with the kernel package `kernel`, and the site's own `packages` beside ours."""
    version = BASES.get(suite, RECIPES["base"])
    return " ".join([suite, architecture, kernel, version, *sorted(packages)])


def kernel_key(packages: Iterable[str]) -> str:
    """The key of the kernel of a base with these packages, each `name=version`."""
    return _boot_key(packages, "kernel")


def installer_key(packages: Iterable[str]) -> str:
    """The key of the installer of a base with these packages, each `name=version`."""
    return _boot_key(packages, "installer")


def _boot_key(packages: Iterable[str], kind: str) -> str:
    """Bases with the same kernel and busybox share kernel and installer."""
    made_from = re.compile(r"(linux-image-\d|busybox-static=)")
    return " ".join([*sorted(package for package in packages if made_from.match(package)), RECIPES[kind]])

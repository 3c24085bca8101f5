"""Images: files that never change once made, each with a manifest beside it; a graph of what a node can start from.

manifest   what an image says of itself, and how earlier forms of it are read
snapshot   what is in a folder of images, read once a process; index what the last process has read of it
catalogue  the images of a site: found, taken in, removed
recipe     the version of each kind's recipe, and the keys that images are found by
base       the base image with its kernel and installer, by mmdebstrap; tuning: what it has otherwise than Debian's
unsynced   a command that need not wait for the disk
ahead      base image and packages of a site's first create, in a process that begins before their phase
installer  the initramfs that prepares a node
store      every .deb once, as signed, and a fast copy
builder    VD caches, request layers (strategy `once`) and package bundles (strategy `each`); sandbox confines it
watching   progress of tools that tell none
space      a full disk is one clear error; files: digests

An image without a valid manifest does not exist: the manifest is written last, and a file that is not what
its manifest says is refused and taken away.  What a newer version of vclust wrote is kept, and not used.
"""

from collections.abc import Callable

from vclust_py.image.catalogue import Catalogue
from vclust_py.image.files import file_digest, sync
from vclust_py.image.manifest import RETIRED, Image, Manifest, PackageRecord, Place
from vclust_py.image.recipe import base_key

__all__ = [
    "RETIRED",
    "Catalogue",
    "Image",
    "Manifest",
    "PackageRecord",
    "Place",
    "Report",
    "base_key",
    "file_digest",
    "sync",
]

Report = Callable[[str, int, int], None]
"""(what is being done, how much is done, of how much); a total of 0 means that it is not known."""

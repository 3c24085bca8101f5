"""What shells complete: names of clusters and nodes from the stores on this machine, and files.

argcomplete has the shells' sides.  It runs the command at every press of the key: nothing here asks Ansible or another
machine.
"""

import argparse
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from vclust_py.cli import sites
from vclust_py.errors import VclustError

if TYPE_CHECKING:
    from vclust_py.site.store import Store

SHELLS = ("bash", "zsh", "fish")

_REQUESTS = (".ini", ".yml", ".yaml")


def completion(arguments: argparse.Namespace) -> int:
    """Print the code that a shell evaluates to complete `vclust` and `./vclust`.

    Raises VclustError where this command lies in a folder that the code cannot name.
    """
    from argcomplete.shell_integration import shellcode

    # The command itself, not the checkout's wrapper: that would install packages at a press of the key.
    script = str(Path(sys.argv[0]).resolve())
    if not re.fullmatch(r"[\w/.+@-]+", script):  # argcomplete does not quote it
        raise VclustError(
            f"{script}: got a path that shells' code cannot have, expected letters, digits and /.+@-_"
        )
    print(shellcode(["vclust"], use_defaults=False, shell=arguments.shell, argcomplete_script=script))
    return 0


def answer(parser: argparse.ArgumentParser) -> None:
    """Tell argcomplete's part in the shell, which has set _ARGCOMPLETE, what fits; ends the process."""
    import argcomplete
    from argcomplete.completers import ChoicesCompleter

    words = os.environ.get("COMP_LINE", "").split()
    command = "ssh" in words and "--" in words  # what follows the dashes is on the node
    for action in () if command else _actions(parser):
        if completer := _COMPLETERS.get(str(action.metavar)):
            setattr(action, "completer", completer)  # noqa: B010 - argcomplete's interface
    # argcomplete's own completer of files hands names to a shell.
    argcomplete.autocomplete(parser, always_complete_options=False, default_completer=ChoicesCompleter({}))


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Of the parser and all its commands."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _actions(command)


def _stores(arguments: argparse.Namespace) -> "Iterator[tuple[str, Store]]":
    """The sites whose state is on this machine, where an earlier command has found that out."""
    try:
        for place in sites.places_here(arguments):
            from vclust_py.site import Site
            from vclust_py.site.store import Store

            yield place.site, Store(Site.from_mapping(place.where["settings"]))
    except VclustError:
        return  # the command itself will say what is wrong


def _clusters(prefix: str, parsed_args: argparse.Namespace, **_: object) -> list[str]:
    """Names of clusters; with their sites where two sites have one, or a site is being typed."""
    from vclust_py.site import clusters

    found = [(site, name) for site, store in _stores(parsed_args) for name in clusters.names(store)]
    names = [name for _, name in found]
    return [f"{site}/{name}" if "/" in prefix or names.count(name) > 1 else name for site, name in found]


def _nodes(prefix: str, parsed_args: argparse.Namespace, **_: object) -> list[str]:
    """Names of the nodes of the cluster that has been typed."""
    from vclust_py.site import clusters

    wanted: Mapping[str, str] | None = getattr(parsed_args, "cluster", None)
    if wanted is None:
        return []
    found = [
        clusters.find(store, wanted["name"])
        for site, store in _stores(parsed_args)
        if wanted["site"] in ("any", site)
    ]
    return [node.name for cluster in found if cluster is not None for node in cluster.nodes]


def _files(*endings: str) -> Callable[..., list[str]]:
    """A completer of files whose names end so (all files, without endings) and of the folders on the way to them."""

    def complete(prefix: str, **_: object) -> list[str]:
        folder, slash, begin = prefix.rpartition("/")
        found = []
        try:
            with os.scandir(os.path.expanduser(folder + slash) or ".") as entries:
                for entry in entries:
                    if entry.name.startswith(".") and not begin.startswith("."):
                        continue
                    if entry.is_dir():
                        found.append(f"{folder}{slash}{entry.name}/")
                    elif entry.name.endswith(endings or ("",)):
                        found.append(f"{folder}{slash}{entry.name}")
        except OSError:
            pass  # no such folder
        return sorted(found)

    return complete


def _paths(prefix: str, parsed_args: argparse.Namespace, **_: object) -> list[str]:
    """Of `vclust scp`: files here, and clusters; what is on a node is not known here."""
    if ":" in prefix:
        return []
    return [*(f"{name}:" for name in _clusters(prefix, parsed_args)), *_files()(prefix)]


_COMPLETERS: Mapping[str, Callable[..., list[str]]] = {
    "NAME": _clusters,
    "NODE": _nodes,
    "REQUEST": _files(*_REQUESTS),
    "FILE": _files(),
    "INVENTORY": _files(),
    "PATH": _paths,
}
"""By what the help calls an argument."""

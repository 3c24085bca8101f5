"""Meta packages: named bundles of packages, debconf answers and configuration steps (Lucie's, Rocks' rolls).

One YAML file each, `NAME.yml`:

    description: one line
    packages: [slurm-wlm, munge]
    debconf: ["munge munge/question boolean true"]     # lines for debconf-set-selections(1)
    secrets: [{name: munge.key, bytes: 1024}]          # random, made once for each cluster
    steps: [{nodes: all, run: "…"}]                    # sh scripts, for all nodes or the first
    check: srun -N "$VCLUST_NODES" hostname            # the cluster is ready when this succeeds
    change: systemctl restart slurmd                   # sh, in nodes that run, when the cluster has other nodes
    leave: scontrol …                                  # sh, on the first node, before nodes go
    resume: scontrol …                                 # sh, in a node that was restarted, after `change`

A step runs as root, in a chroot of the installed node, after the packages are configured and before systemd
starts: it writes configuration and enables units, daemons then start with it.  Its environment:

    VCLUST_NODES       number of nodes
    VCLUST_NODE_NAMES  their names, separated by blanks
    VCLUST_FIRST       name of the first node
    VCLUST_NODE        name of this node
    VCLUST_CPUS        virtual CPUs of a node
    VCLUST_RAM_MB      memory of a node in MiB
    VCLUST_SECRETS     folder with the secrets, a file each, of all the cluster's meta packages

The check runs as the cluster's first user on the first node, with VCLUST_NODES (their number) set.

A bundle with steps and a `change` can be in a cluster that gets more or fewer nodes: in each node that runs the steps
are run again, then `change`, both as root with the environment above.  `leave` has VCLUST_LEAVING, the names of nodes
that go with commas between; they are not taken away before it has ended well.

A node that is restarted for other CPUs or memory goes in the same way where there is a `resume`.  That is run in it
when it is back, after its steps and `change`, to take back what `leave` has done.
"""

import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

from vclust_py.errors import RequestError, VclustError
from vclust_py.request import Request, values
from vclust_py.request.model import SITE_HOMES
from vclust_py.request.parsing import MAX_TEXT
from vclust_py.request.yaml_form import beyond_plain
from vclust_py.site import PROJECT, Site

T = TypeVar("T")

SHIPPED = PROJECT / "metapackages"
"""The directory of the meta packages that come with vclust."""


@dataclass(frozen=True)
class Step:
    nodes: str
    """`all` nodes or the `first`."""
    run: str


@dataclass(frozen=True)
class Secret:
    name: str
    bytes: int


@dataclass(frozen=True)
class MetaPackage:
    name: str
    description: str
    packages: tuple[str, ...]
    debconf: tuple[str, ...] = ()
    steps: tuple[Step, ...] = ()
    secrets: tuple[Secret, ...] = ()
    check: str | None = None
    change: str | None = None
    leave: str | None = None
    resume: str | None = None


SHARED_HOMES = "home"
_BY_HOME = {"shared": SHARED_HOMES, "site": SITE_HOMES}


def expand(request: Request, site: Site) -> tuple[MetaPackage, ...]:
    """The meta packages of `request`, in its order, and the one that `Home` stands for.

    Raises RequestError naming all unknown or malformed, and where the site keeps no homes that the request wants;
    VclustError where a folder of the site's is not there.
    """
    for folder in site.metapackages:
        if not folder.is_dir():
            raise VclustError(
                f"vclust_site: metapackages: got {folder}, which is not there, expected a folder"
            )
    found: list[MetaPackage] = []
    problems: list[str] = []
    names = list(request.software.meta_packages)
    name = _BY_HOME.get(request.software.home or "")
    if name is not None and name not in names:
        names.append(name)
    if {SHARED_HOMES, SITE_HOMES} <= set(names):
        problems.append(
            f"MetaPackages: got {SHARED_HOMES} and {SITE_HOMES}, expected one of them: there is one /home"
        )
    if SITE_HOMES in names and site.homes is None:
        problems.append(
            "Home: got 'site', but this site keeps no homes (its setting vclust_site.homes), expected local or shared"
        )
    for name in names:
        try:
            found.append(load(name, (*site.metapackages, SHIPPED)))
        except RequestError as error:
            problems += error.problems
    if problems:
        raise RequestError(problems)
    return tuple(found)


def names(site: Site) -> set[str]:
    """Of all meta packages that the site knows."""
    return {path.stem for folder in (*site.metapackages, SHIPPED) for path in folder.glob("*.yml")}


def load(name: str, directories: Sequence[Path]) -> MetaPackage:
    """The meta package of the first directory that has one called `name`."""
    for directory in directories:
        path = directory / f"{name}.yml"
        if path.is_file():
            return _parse(name, path)
    known = sorted({path.stem for directory in directories for path in directory.glob("*.yml")})
    near = difflib.get_close_matches(name, known, n=1)
    expected = f"{near[0]} (the nearest known one)" if near else f"one of {', '.join(known)}"
    raise RequestError([f"MetaPackages: got '{name}', which this site does not know, expected {expected}"])


def _parse(name: str, path: Path) -> MetaPackage:
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(MAX_TEXT + 1)
        if len(text) > MAX_TEXT:
            raise RequestError([f"{path}: got more than {MAX_TEXT} characters, expected a meta package"])
        for _, what in beyond_plain(text):
            raise RequestError([f"{path}: got {what}"])
        content = yaml.safe_load(text)
    except (OSError, ArithmeticError, LookupError, TypeError, ValueError, yaml.YAMLError) as error:
        # YAML's own errors have several lines.
        why = values.shown(" ".join(str(error).split()), 200)
        raise RequestError([f"{path}: got {why}, expected a YAML file"]) from error
    if not isinstance(content, dict):
        raise RequestError([f"{path}: got no mapping, expected one with description, packages, …"])
    return _Parser(path).meta_package(name, content)


class _Parser:
    """Checks a meta package's file; the mistakes of a file are told together."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problems: list[str] = []

    def meta_package(self, name: str, content: dict[Any, Any]) -> MetaPackage:
        self._keys(
            "",
            content,
            {"description", "packages", "debconf", "steps", "secrets", "check", "change", "leave", "resume"},
        )
        made = MetaPackage(
            name=name,
            description=self._text("description", content.get("description"), "one line", r".+"),
            packages=tuple(self._package(item) for item in self._list("packages", content)),
            debconf=tuple(
                self._text("debconf", item, "'package question type value'", r"\S+ \S+ \S+( .*)?")
                for item in self._list("debconf", content)
            ),
            steps=tuple(self._each("steps", content, {"nodes", "run"}, self._step)),
            secrets=tuple(self._each("secrets", content, {"name", "bytes"}, self._secret)),
            check=self._text("check", content["check"], "a line of shell", r".+")
            if "check" in content
            else None,
            change=self._script("change", content),
            leave=self._script("leave", content),
            resume=self._script("resume", content),
        )
        if self.problems:
            raise RequestError(self.problems)
        return made

    def _wrong(self, key: str, got: object, expected: str) -> None:
        self.problems.append(f"{self.path}: {key}: got {values.shown(_said(got))}, expected {expected}")

    def _keys(self, where: str, mapping: dict[Any, Any], known: set[str]) -> None:
        for key in mapping:
            if key not in known:
                self._wrong(where or "key", key, f"one of {', '.join(sorted(known))}")

    def _text(self, key: str, got: object, expected: str, pattern: str) -> str:
        if isinstance(got, str) and re.fullmatch(pattern, got.strip()):
            return got.strip()
        self._wrong(key, got, expected)
        return ""

    def _script(self, key: str, content: dict[Any, Any]) -> str | None:
        """Lines of shell, where there are any."""
        return self._text(key, content[key], "lines of shell", r"[\s\S]+") if key in content else None

    def _list(self, key: str, mapping: dict[Any, Any]) -> list[Any]:
        got = mapping.get(key, [])
        if isinstance(got, list):
            return got
        self._wrong(key, got, "a list")
        return []

    def _package(self, got: object) -> str:
        try:
            return values.package(_said(got))
        except values.Wrong as wrong:
            self._wrong("packages", got, wrong.expected)
            return ""

    def _each(
        self, key: str, content: dict[Any, Any], names: set[str], make: Callable[[dict[Any, Any]], T]
    ) -> list[T]:
        made = []
        for item in self._list(key, content):
            if isinstance(item, dict) and set(item) == names:
                made.append(make(item))
            else:
                self._wrong(key, item, f"mappings with {' and '.join(sorted(names))}")
        return made

    def _step(self, item: dict[Any, Any]) -> Step:
        script = item["run"]
        if not isinstance(script, str) or not script.strip():
            self._wrong("steps", script, "a shell script")
        return Step(
            self._text("steps", item["nodes"], "nodes: all or nodes: first", r"all|first"), str(script)
        )

    def _secret(self, item: dict[Any, Any]) -> Secret:
        size = item["bytes"]
        if not isinstance(size, int) or not 16 <= size <= 4096:
            self._wrong("secrets", size, "bytes: from 16 to 4096")
        return Secret(self._text("secrets", item["name"], "a file name", r"[a-z][a-z0-9._-]{0,60}"), size)


def _said(got: object) -> str:
    try:
        return str(got)
    except ValueError:  # a number longer than Python writes
        return "a number"

"""Private apt roots: one for each suite and architecture, below `Site.apt`.

The machine's apt configuration (proxy, certificates, credentials) stays in force there; its sources, lists,
cache, preferences, hooks and dpkg status do not, and its own apt state is never touched.

Sources and control files are read by expressions of a line or two.  python-debian was measured for both: it takes 8
times as long for the records of a closure, 0.03 s to be imported, and would leave the one-line form of sources to us.
"""

import contextlib
import math
import os
import re
import shutil
import time
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from vclust_py.errors import VclustError
from vclust_py.image import Report
from vclust_py.image.space import naming_full_disk
from vclust_py.run import CommandError, run
from vclust_py.site import Site

MACHINE = Path("/etc/apt")
_REFUSED = re.compile(
    r"NO_PUBKEY|BADSIG|EXPKEYSIG|REVKEYSIG|is not signed|signatures? (were|was|could)"
    r"|is expired|is not valid yet|Hash Sum mismatch|has unexpected size|changed its '"
)
"""apt's words for an index that was reached and is not what it should be."""
_USERINFO = re.compile(r"^([a-z+]+://)([^/@\s]*)@([^/\s]*)(\S*)$")
"""A URI with a user, and perhaps a password, in it."""
# One-line sources name their options otherwise than deb822 ones do: sources.list(5).
_OPTIONS = {"arch": "Architectures", "lang": "Languages", "target": "Targets"}

Stanza = Mapping[str, str]
"""One deb822 source: field names as in sources.list(5), values with their continuation lines."""


def sources(site: Site, suite: str) -> str:
    """The apt sources of `suite`, in deb822 form: the site's file, or Debian's among the machine's own.

    A release counts as the suite's when it is named like it or begins with its name and a dash (`-updates`,
    `-security`); the machine's own are taken for another suite by putting that name in the place of the
    machine's. A repository of the site's file without suites (`./`) counts for all.  Signing keys stay as
    they are given.  Users and passwords in URIs are left out: nodes get these sources (see `_credentials`).
    """
    return _written(_chosen(site, suite))


def _written(stanzas: Iterable[Stanza]) -> str:
    return "\n".join(
        "".join(
            f"{name}: {' '.join(map(_public, value.split())) if name == 'URIs' else value}\n"
            for name, value in stanza.items()
        )
        for stanza in stanzas
    )


def _credentials(stanzas: Iterable[Stanza]) -> str:
    """What the URIs of sources say of users and passwords, and the machine's own auth.conf, as apt_auth.conf(5).

    Raises VclustError on a URI with a user whose name or password apt could not read there.
    """
    lines = []
    for uri in (uri for stanza in stanzas for uri in stanza["URIs"].split()):
        found = _USERINFO.match(uri)
        if found:
            user, _, password = found[2].partition(":")
            words = [urllib.parse.unquote(word) for word in (user, password)]
            if not all(re.fullmatch(r"[!-~]+", word) for word in words):
                raise VclustError(
                    f"{_public(uri)}: got a user without a password, or blanks in them, expected USER:PASSWORD@",
                    "give them in /etc/apt/auth.conf instead (apt_auth.conf(5))",
                )
            lines.append(f"machine {_public(uri)} login {words[0]} password {words[1]}\n")
    own = MACHINE / "auth.conf"
    return "".join(lines) + (own.read_text(encoding="utf-8") if own.exists() else "")


def _public(uri: str) -> str:
    """The URI without user and password."""
    return _USERINFO.sub(r"\1\3\4", uri)


def _chosen(site: Site, suite: str) -> list[Stanza]:
    given = bool(site.sources)
    paths = (
        [Path(site.sources)]
        if given
        else [
            MACHINE / "sources.list",
            *sorted((MACHINE / "sources.list.d").glob("*.list")),
            *sorted((MACHINE / "sources.list.d").glob("*.sources")),
        ]
    )
    own = suite if given else Site().default_suite  # the machine's own
    foreign = frozenset() if given else _foreign()
    chosen: list[Stanza] = []
    seen: set[str] = set()
    for stanza in (stanza for path in paths for stanza in _stanzas(path)):
        names = stanza["Suites"].split()
        seen.update(names)
        uris = [
            uri
            for uri in stanza["URIs"].split()
            if foreign.isdisjoint((uri.rstrip("/"), name) for name in names)
        ]
        picked = [
            suite + name.removeprefix(own) for name in names if name == own or name.startswith(f"{own}-")
        ] + [name for name in names if given and name.endswith("/")]
        if uris and picked:
            chosen.append({**stanza, "URIs": " ".join(uris), "Suites": " ".join(picked)})
    if not chosen:
        where = site.sources or f"{MACHINE}/sources.list*"
        raise VclustError(
            f"{where}: no package source for suite '{suite}', only for: {', '.join(sorted(seen)) or 'none'}",
            "name another suite in the request, or give the site a `sources` file",
        )
    return chosen


def _foreign() -> frozenset[tuple[str, str]]:
    """(URI, release) of the machine's repositories not of Debian's origin; one never fetched says nothing."""
    text = run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(ORIGIN)", "Created-By: Packages"]
    )
    words = (line.split(maxsplit=2) for line in text.splitlines())
    return frozenset((line[0].rstrip("/"), line[1]) for line in words if len(line) < 3 or line[2] != "Debian")


def _stanzas(path: Path) -> Iterator[Stanza]:
    """The binary package sources of one file, either form of sources.list(5)."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return
    except OSError as error:
        raise VclustError(f"{path}: {error.strerror}") from error
    if path.suffix == ".sources" or re.search(r"^URIs:", text, re.MULTILINE | re.IGNORECASE):
        yield from _deb822(text)
    else:
        yield from _one_line(text)


def _deb822(text: str) -> Iterator[Stanza]:
    lines = (line for line in text.splitlines() if not line.startswith("#"))
    for block in re.split(r"\n\s*\n", "\n".join(lines)):
        fields: dict[str, str] = {}
        for name, value in re.findall(r"^([^\s:]+):[ \t]*(.*(?:\n[ \t].*)*)", block, re.MULTILINE):
            known = {"uris": "URIs", "types": "Types", "suites": "Suites", "enabled": "Enabled"}
            fields[known.get(name.lower(), name)] = value.rstrip()
        if "deb" in fields.get("Types", "").split() and fields.pop("Enabled", "yes").lower() not in (
            "no",
            "false",
        ):
            yield {"Suites": "", "URIs": "", **fields, "Types": "deb"}


def _one_line(text: str) -> Iterator[Stanza]:
    for line in text.splitlines():
        found = re.match(r"deb\s+(?:\[([^\]]*)\]\s+)?(\S+)\s+(\S+)\s*([^#]*)", line.strip())
        if found:
            options, uri, suite, components = found.groups()
            stanza = {"Types": "deb", "URIs": uri, "Suites": suite}
            if components.strip():
                stanza["Components"] = components.strip()
            for name, _, value in (word.partition("=") for word in (options or "").split()):
                stanza[_OPTIONS.get(name, name.title())] = value.replace(",", " ")
            yield stanza


@dataclass(frozen=True)
class AptRoot:
    """The private apt root of one suite and architecture (Debian's name of it)."""

    site: Site
    suite: str
    architecture: str

    @property
    def path(self) -> Path:
        return self.site.apt / f"{self.suite}-{self.architecture}"

    @property
    def names(self) -> Path:
        """Every package name of the index, virtual ones too, one a line, a line break before the first."""
        return self.path / "names"

    @contextlib.contextmanager
    def file_lock(self) -> Iterator[None]:
        with self.site.file_lock(self._lock_name):
            yield

    @property
    def _lock_name(self) -> str:
        return f"apt-{self.suite}-{self.architecture}"

    def ensure_index(self, report: Report, *, max_age: float = math.inf) -> None:
        """Fetch the package index where it is missing, old, or from other sources.  Call it under `file_lock`.

        Old is what the site's `index_max_age` says, or older than `max_age` seconds where that is less.
        Where the sources cannot be reached an older index serves, and `report` is told; an index that was reached and
        has a wrong signature, has expired or is not what its signature covers is an error in any case.
        """
        self.note_use()
        if self._is_current(max_age):
            return
        self.make()
        report(f"fetching the package index of {self.suite}", 0, 0)
        try:
            with naming_full_disk(self.path):
                self.run("apt-get", "-q", "-o", "APT::Update::Error-Mode=any", "update")
        except CommandError as error:
            if not self.names.exists() or _REFUSED.search(error.output):
                raise VclustError(
                    f"{self.suite}: cannot fetch the package index\n{_complaints(error.output)}",
                    "check the network, the apt sources and their keys",
                ) from error
            age = time.strftime("%Y-%m-%d %H:%M", time.localtime(self.names.stat().st_mtime))
            report(f"{self.suite}: package sources not reached, going on with the index of {age}", 0, 0)
            return
        text = self.run("apt-cache", "pkgnames", "-o", "APT::Cache::AllNames=true")
        draft = self.names.with_suffix(".tmp")
        draft.write_text("\n" + text, encoding="utf-8")
        os.replace(draft, self.names)
        self._stamp.write_text(self._settings, encoding="utf-8")

    @property
    def _stamp(self) -> Path:
        """Written when the index has been fetched: from which sources, and when."""
        return self.path / "fetched"

    @property
    def _settings(self) -> str:
        return f"{self.site.sources}\n{self.site.apt_proxy}\n"

    def _is_current(self, max_age: float = math.inf) -> bool:
        with contextlib.suppress(FileNotFoundError):
            fetched = self._stamp.stat().st_mtime
            return (
                time.time() - fetched < min(self.site.index_max_age, max_age)
                and self._stamp.read_text(encoding="utf-8") == self._settings
                and not self._sources_newer_than(fetched)
            )
        return False

    def note_use(self) -> None:
        """Its index is used now: the least recently used ones go when there is no space for them."""
        with contextlib.suppress(FileNotFoundError):
            (self.path / "used").touch()

    def clear(self, *, timeout: float) -> None:
        """Take the index away, which is fetched again when it is needed; what people have put there stays.

        Raises BusyError when somebody still fetches or reads it after `timeout` seconds.
        """
        with self.site.file_lock(self._lock_name, timeout=timeout):
            self.expire()
            self.names.unlink(missing_ok=True)
            for name in ("lists", "cache"):
                shutil.rmtree(self.path / name, ignore_errors=True)

    def state(self) -> list[list[str | int]]:
        """What apt's answers depend on, as files with times and sizes; empty when the index must be fetched first."""
        if not self._is_current():
            return []
        machine = sorted((MACHINE / "apt.conf.d").glob("*"))
        own = [
            self._stamp,
            self.names,
            self.path / "apt.conf",
            *sorted((self.path / "preferences.d").glob("*")),
        ]
        found = [(path, path.stat()) for path in (*own, MACHINE / "apt.conf", *machine) if path.exists()]
        return [[str(path), status.st_mtime_ns, status.st_size] for path, status in found]

    def expire(self) -> None:
        """The archive no longer has what the index names: the next resolve looks again."""
        self._stamp.unlink(missing_ok=True)

    def run(self, tool: str, *words: str | Path, status: Path | None = None) -> str:
        """Run an apt tool in this root; `status` is the dpkg status file to start from (default: empty)."""
        start: list[str | Path] = [
            "-c",
            self.path / "apt.conf",
            "-o",
            f"Dir::State::status={status or self.path / 'empty'}",
        ]
        return run([tool, *start, *words], env={**os.environ, "LC_ALL": "C", "APT_CONFIG": ""})

    def sources(self) -> list[Stanza]:
        """The sources that its index is fetched from, without users and passwords; none before the first time."""
        try:
            return list(_deb822(self._sources.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return []

    @property
    def _sources(self) -> Path:
        return self.path / "sources.d" / "vclust.sources"

    def settings(self, *names: str) -> dict[str, str]:
        """What apt's configuration says in this root, by name; empty where it says nothing."""
        text = self.run("apt-config", "dump", "--format", "%F %v%n", *names)
        said = dict(line.split(" ", 1) for line in text.splitlines() if " " in line)
        return {name: said.get(name, "") for name in names}

    def transport(self) -> str:
        """How packages are got (proxies, passwords), in the form of apt.conf(5), for an apt with another root."""
        text = self.run("apt-config", "dump", "--format", '%F "%v";%n')
        proxies = re.findall(r"^Acquire::[a-z]+::Proxy.*$", text, re.MULTILINE | re.IGNORECASE)
        netrc = [
            f'Dir::Etc::netrc "{self.path}/auth.conf";',
            f'Dir::Etc::netrcparts "{MACHINE}/auth.conf.d";',
        ]
        return "".join(f"{line}\n" for line in [*proxies, *netrc])

    def is_fetched_from(self, listed: str) -> bool:
        """Whether there is an index, and it is that of the sources `listed` (deb822)."""
        return self._stamp.exists() and self._sources.read_text(encoding="utf-8") == listed

    def _sources_newer_than(self, moment: float) -> bool:
        paths = (
            [Path(self.site.sources)]
            if self.site.sources
            else [
                MACHINE / "sources.list",
                MACHINE / "sources.list.d",
                *(MACHINE / "sources.list.d").glob("*"),
            ]
        )
        return any(path.stat().st_mtime > moment for path in paths if path.exists())

    def make(self) -> None:
        """Write the root's folders, sources and configuration, where they are not there or say something else."""
        for folder in ("lists/partial", "cache/archives/partial", "sources.d", "preferences.d"):
            (self.path / folder).mkdir(parents=True, exist_ok=True)
        (self.path / "empty").touch()
        proxy = self.site.apt_proxy
        if "@" in proxy:
            # The site's settings are in what Ansible logs.
            raise VclustError(
                "vclust_site: apt_proxy: got a URL with a user in it, expected one without",
                "set Acquire::http::Proxy in /etc/apt/apt.conf.d of the site manager, in a file for root only",
            )
        if re.search(r'[\s";]', proxy):
            raise VclustError(f"vclust_site: apt_proxy: got '{proxy}', expected a URL")
        chosen = _chosen(self.site, self.suite)
        _write(self._sources, _written(chosen))
        _write(self.path / "auth.conf", _credentials(chosen))
        # Read after the machine's own configuration, so what stands here wins over it.
        _write(
            self.path / "apt.conf",
            f"""\
Dir::State "{self.path}";
Dir::State::lists "lists";
Dir::State::extended_states "extended_states";
Dir::Cache "{self.path}/cache";
Dir::Cache::archives "archives";
Dir::Cache::pkgcache "pkgcache.bin";
Dir::Cache::srcpkgcache "srcpkgcache.bin";
Dir::Etc::netrc "{self.path}/auth.conf";
Dir::Etc::sourcelist "/dev/null";
Dir::Etc::sourceparts "{self.path}/sources.d";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "{self.path}/preferences.d";
Dir::Log "{self.path}";
APT::Architecture "{self.architecture}";
#clear APT::Architectures;
APT::Architectures:: "{self.architecture}";
APT::Install-Recommends "false";
APT::Install-Suggests "false";
APT::Get::Assume-Yes "true";
APT::Default-Release "";
APT::Sandbox::User "root";
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear APT::Update::Pre-Invoke;
Acquire::Languages "none";
Acquire::PDiffs "false";
Acquire::GzipIndexes "true";
Acquire::ForceHash "SHA256";
Acquire::Retries "2";
Acquire::http::Timeout "20";
Acquire::https::Timeout "20";
Debug::NoLocking "true";
"""
            + (f'Acquire::http::Proxy "{proxy}";\n' if proxy else ""),
        )


def apt_roots(site: Site) -> list[AptRoot]:
    """Those of the site that have an index."""
    names = sorted(path.parent.name for path in site.apt.glob("*-*/names"))
    return [AptRoot(site, *name.rpartition("-")[::2]) for name in names]


def _write(path: Path, text: str) -> None:
    """Whole or not at all, and nothing when it says so already: other processes' apt may be reading it."""
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return
    # apt passes over files that do not end in .sources.
    draft = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    draft.unlink(missing_ok=True)
    draft.touch(mode=0o600)  # passwords may be in it
    draft.write_text(text, encoding="utf-8")
    os.replace(draft, path)


def _complaints(output: str) -> str:
    """apt's own errors and warnings, without its log of what it fetched."""
    lines = [line for line in output.splitlines() if line.startswith(("E:", "W:"))]
    return "\n".join(lines[:8]) or output.strip()

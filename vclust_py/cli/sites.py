"""What the sites of an inventory say of themselves, for the commands that only read.

Sites whose state is on this machine are read from their stores, once the playbook `status.yml` has told where these
are.  That is remembered for as long as nothing has changed that the inventory is made of.
"""

import argparse
import hashlib
import json
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vclust_py.cli import messages
from vclust_py.errors import RequestError, VclustError
from vclust_py.module import this_machine
from vclust_py.site import PROJECT, Site, settings

if TYPE_CHECKING:
    from vclust_py.site.session import Session

MEMORY = Path("/run/vclust/sites")
"""A file for each inventory; root's alone, as settings may hold a proxy's password."""

_MAX_BYTES = 4 << 20
_MAX_FILES = 1000
"""An inventory of more than these is read by Ansible each time."""

_VARIABLE = re.compile(r"\{\{\s*[A-Za-z_][A-Za-z0-9_]*\s*\}\}")
"""A template that has the same value as long as the inventory's files have."""
_DYNAMIC = re.compile(
    r"\{\{|\{%|\{#|!vault|\$ANSIBLE_VAULT|\bplugin[\"']?\s*[:=](?!\s*vclust\s*$)", re.MULTILINE
)


@dataclass(frozen=True)
class Place:
    """A site, its manager's name in the inventory, and where its state is (`vclust_py.module.site_manager`)."""

    site: str
    manager: str
    where: Mapping[str, Any]


@dataclass(frozen=True)
class Answer:
    """What one site said: the result of the module that reads it."""

    site: str
    manager: str
    result: Mapping[str, Any]


@dataclass
class Answers:
    """What the sites said, in the order of their managers' names; `failures` are the errors of others, by manager."""

    sites: list[Answer] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    exit_code: int = 0
    """That of the first failure."""

    def rows(self, key: str) -> list[dict[str, Any]]:
        """What all sites have under that key, each row with its site."""
        return [{"site": answer.site, **row} for answer in self.sites for row in answer.result[key]]

    def warn(self) -> None:
        """Say which sites did not answer."""
        for manager, error in self.failures.items():
            where = f"{manager}: " if len(self.sites) + len(self.failures) > 1 else ""
            messages.error(f"{where}{error}")


def clusters(arguments: argparse.Namespace, name: str | None = None) -> Answers:
    """The clusters of all sites, or those of that name, as they are now."""

    def read(session: "Session") -> dict[str, Any]:
        from vclust_py.life.look import look
        from vclust_py.site.describe import describe

        return {"clusters": describe(session.store, name, look(session.store, name))}

    return ask(arguments, "vclust_info", "clusters", {} if name is None else {"name": name}, read)


def volumes(arguments: argparse.Namespace) -> Answers:
    """The volumes of all sites that are for whom the command works for."""

    def read(session: "Session") -> dict[str, Any]:
        from vclust_py.site.describe import describe_volumes

        return {"volumes": describe_volumes(session.store)}

    return ask(arguments, "vclust_info", "clusters", {}, read)


def homes(arguments: argparse.Namespace) -> Answers:
    """The homes that all sites keep for whom the command works for."""

    def read(session: "Session") -> dict[str, Any]:
        from vclust_py.site.describe import describe_homes

        return {"homes": describe_homes(session.store)}

    return ask(arguments, "vclust_info", "clusters", {}, read)


def caches(arguments: argparse.Namespace, digest: str = "", *, history: bool = False) -> Answers:
    """The VD caches of all sites, as `vclust_py.cache.describe` has them."""

    def read(session: "Session") -> dict[str, Any]:
        from vclust_py.cache.describe import describe

        return describe(session, digest, history=history)

    variables = {**({"digest": digest} if digest else {}), **({"history": True} if history else {})}
    return ask(arguments, "vclust_caches", "caches", variables, read)


def overview(arguments: argparse.Namespace, *, metrics: bool = False) -> Answers:
    """What all sites have and did, as `vclust_py.report.read` has it."""

    def read(session: "Session") -> dict[str, Any]:
        from vclust_py import report

        return report.read(session, metrics=metrics)

    return ask(arguments, "vclust_report", "report", {"metrics": True} if metrics else {}, read)


def cluster(arguments: argparse.Namespace) -> tuple[str, Mapping[str, Any]]:
    """The site that has the cluster `arguments.cluster`, and the cluster.

    Raises RequestError when none has it, or two and no site was said; VclustError when none has it and one did not
    answer.
    """
    site, name = arguments.cluster["site"], arguments.cluster["name"]
    answers = clusters(arguments, name)
    known = [answer.site for answer in answers.sites]
    if site not in ("any", *known) and not answers.failures:
        raise RequestError([f"{site}/{name}: got site '{site}', expected one of {', '.join(known)}"])
    found = [
        (answer.site, one)
        for answer in answers.sites
        if site in ("any", answer.site)
        for one in answer.result["clusters"]
    ]
    if len(found) > 1:
        both = " and ".join(other for other, _ in found)
        words = " or ".join(f"{other}/{name}" for other, _ in found)
        raise RequestError([f"{name}: there is one in {both}"], f"say which: {words}")
    if answers.failures and not found:
        raise _failed(answers)
    answers.warn()
    if not found:
        raise no_such_cluster(arguments)
    return found[0]


def no_such_cluster(arguments: argparse.Namespace) -> RequestError:
    """What a command says whose cluster is nowhere: with the nearest name of those there are."""
    from vclust_py.request.reading import nearest

    site, name = arguments.cluster["site"], arguments.cluster["name"]
    where = name if site == "any" else f"{site}/{name}"
    near = nearest(
        where,
        [
            one["name"] if site == "any" else f"{one['site']}/{one['name']}"
            for one in clusters(arguments).rows("clusters")
        ],
    )
    found = f"; the nearest: {near}" if near else ""
    return RequestError([f"{where}: no such cluster{found}"], "vclust list shows those there are")


def only_site(answers: Answers, having: Iterable[str], problem: str) -> str:
    """The one site of `having`, which may name it often; the first that answered where it names none.

    Raises RequestError, which begins with `problem`, where there are two.
    """
    found = list(dict.fromkeys(having))
    if len(found) > 1:
        raise RequestError([f"{problem} {' and '.join(found)}"], "say which: --site")
    return found[0] if found else answers.sites[0].site


def known_sites(arguments: argparse.Namespace) -> list[str]:
    """The names of the inventory's sites, where they are remembered; else none."""
    path = _inventory_path(arguments)
    return [place.site for place in _recall(path, _fingerprint(path)) or ()]


def places_here(arguments: argparse.Namespace) -> list[Place]:
    """The inventory's sites whose state is on this machine, where they are remembered; Ansible is not asked."""
    path = _inventory_path(arguments)
    return [place for place in _recall(path, _fingerprint(path)) or () if is_here(place.where)]


def is_here(where: Mapping[str, Any]) -> bool:
    """Whether a site's state is on this machine, and may be read by this user."""
    return os.geteuid() == 0 and all(where.get(key) == value for key, value in this_machine().items())


def inventory(arguments: argparse.Namespace) -> Path | None:
    """The inventory that was named, if any.  Raises RequestError when it cannot be one."""
    path: Path | None = arguments.inventory
    if path is None:
        return None
    if os.path.expandvars(whole := str(path.resolve())) != whole:
        # Ansible takes it for a variable of the environment.
        raise RequestError([f"{path}: got a name with a $, expected one without"])
    try:
        if path.exists():
            return path
        why = "no such file or folder"
    except OSError as error:
        why = error.strerror or str(error)
    raise RequestError([f"{path}: got {why}, expected an inventory"])


def _inventory_path(arguments: argparse.Namespace) -> Path:
    return (inventory(arguments) or PROJECT / "inventories/local").resolve()


def ask(
    arguments: argparse.Namespace,
    module: str,
    tag: str,
    variables: Mapping[str, Any],
    read: Callable[["Session"], Mapping[str, Any]],
) -> Answers:
    """Ask every site.  Raises VclustError when none has answered, with the exit code of the first failure."""
    path = _inventory_path(arguments)
    mark = _fingerprint(path)
    places = _recall(path, mark)
    if places and all(is_here(place.where) for place in places):
        answers = _read(places, read)
    else:
        answers = _play(arguments, module, tag, variables)
        if not answers.failures and mark is not None and mark == _fingerprint(path):
            _remember(path, mark, answers)
    if not answers.sites:
        raise _failed(answers)
    return answers


def _failed(answers: Answers) -> VclustError:
    """One error of all failures."""
    several = len(answers.sites) + len(answers.failures) > 1
    error = VclustError(
        "\n".join(f"{host}: {why}" if several else why for host, why in answers.failures.items())
    )
    error.exit_code = answers.exit_code
    return error


def _read(places: list[Place], read: Callable[["Session"], Mapping[str, Any]]) -> Answers:
    answers = Answers()
    for place in places:
        try:
            from vclust_py.site.session import Session

            with Session(Site.from_mapping(place.where["settings"])) as session:
                result = read(session)
        except VclustError as error:
            answers.failures[place.manager] = str(error)
            answers.exit_code = answers.exit_code or error.exit_code
        else:
            answers.sites.append(Answer(place.site, place.manager, result))
    return answers


def _play(arguments: argparse.Namespace, module: str, tag: str, variables: Mapping[str, Any]) -> Answers:
    from vclust_py.cli.runner import play

    outcome = play(
        "status.yml", variables, inventory=inventory(arguments), tags=(tag,), verbosity=arguments.verbose
    )
    if outcome.exit_code == 130:
        raise KeyboardInterrupt
    answers = Answers(failures=outcome.failures, exit_code=outcome.exit_code)
    for manager, results in sorted(outcome.hosts.items()):
        if module in results:
            site = results[module]["site_manager"]["site"]
            answers.sites.append(Answer(site, manager, results[module]))
    if outcome.exit_code and not outcome.failures:
        error = VclustError(outcome.error)
        error.exit_code = outcome.exit_code
        raise error
    if not answers.sites and not answers.failures:
        path = arguments.inventory or "inventories/local"
        raise RequestError([f"{path}: no site, expected a group site_<name> with a host of site_managers"])
    return answers


# What is remembered of an inventory ------------------------------------------------------------------------------


def _fingerprint(inventory: Path) -> str | None:
    """Digest of all that says which sites the inventory has and how they are set; None where no file tells.

    That is a program, a plugin other than ours, a template of more than a variable's name, a vault.
    """
    digest = hashlib.sha256()
    size = count = 0
    try:
        for path in _files(inventory):
            status = path.stat()
            size, count = size + status.st_size, count + 1
            # A pipe must be left to Ansible: it can be read once.
            if not stat.S_ISREG(status.st_mode) or size > _MAX_BYTES or count > _MAX_FILES:
                return None
            data = path.read_bytes()
            if inventory in (path, *path.parents) or path.parent.name in ("group_vars", "host_vars"):
                dynamic = _DYNAMIC.search(_VARIABLE.sub("", data.decode()))
                if dynamic or os.access(path, os.X_OK, effective_ids=True):
                    return None
            digest.update(f"{path}\0{len(data)}\0".encode() + data)
    except (OSError, UnicodeError):
        return None
    environment = sorted(item for item in os.environ.items() if item[0].startswith("ANSIBLE_"))
    digest.update(json.dumps(environment).encode())
    return digest.hexdigest()


def _files(inventory: Path) -> Iterator[Path]:
    """The files of an inventory, those with variables beside it and beside the playbooks, and those of ours."""
    # What settings mean, and their defaults, may change with vclust.
    yield from (PROJECT / "ansible.cfg", Path(settings.__file__))
    folders = [PROJECT / "playbooks/group_vars", PROJECT / "playbooks/host_vars"]
    if inventory.is_dir():
        folders.append(inventory)
    else:
        yield inventory
        folders += [inventory.parent / "group_vars", inventory.parent / "host_vars"]
    for folder in folders:
        for root, folders_in, names in os.walk(folder, onerror=_raise, followlinks=True):
            folders_in.sort()
            yield from (Path(root, name) for name in sorted(names))


def _raise(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


def _memory(inventory: Path) -> Path:
    return MEMORY / f"{hashlib.sha256(os.fsencode(inventory)).hexdigest()[:32]}.json"


def _recall(inventory: Path, mark: str | None) -> list[Place] | None:
    """The sites of the inventory, all of them; None where they are not known."""
    if mark is None or os.geteuid() != 0:
        return None
    try:
        told = json.loads(_memory(inventory).read_bytes())
        if told["fingerprint"] == mark:
            return [Place(**place) for place in told["sites"]]
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None


def _remember(inventory: Path, mark: str, answers: Answers) -> None:
    """Best effort: the next command asks again where nothing is remembered."""
    if os.geteuid() != 0:
        return
    sites = [
        {"site": answer.site, "manager": answer.manager, "where": answer.result["site_manager"]}
        for answer in answers.sites
    ]
    try:
        MEMORY.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in MEMORY.glob("*.json"):
            if not os.path.lexists(json.loads(path.read_bytes())["inventory"]):
                path.unlink()
        draft = _memory(inventory).with_suffix(f".{os.getpid()}")
        text = json.dumps({"inventory": str(inventory), "fingerprint": mark, "sites": sites})
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(text)
        draft.replace(_memory(inventory))
    except (OSError, ValueError, KeyError, TypeError):
        pass

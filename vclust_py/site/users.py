"""Whom this process works for, and what they may do with a cluster.

The account is the one that sudo was called from, else the process's own.  Whoever needs no sudo owns the state, as root
does, and is an administrator.  Administrators may also act for others: so a controller such as AWX hands on who has
launched a job.
"""

import contextlib
import os
import pwd
from collections.abc import Iterator
from dataclasses import dataclass

from vclust_py.errors import RequestError
from vclust_py.quotas import ROOT
from vclust_py.request.values import shown
from vclust_py.site.settings import Site


@dataclass(frozen=True)
class User:
    """Who acts; `via` is the account that acts for them, where it is another."""

    name: str
    project: str = ""
    administrator: bool = False
    via: str = ""

    def may(self, owner: str, project: str) -> bool:
        """Whether they may change or destroy a cluster of that owner and project, and see its keys."""
        return self.administrator or self.name == owner or bool(project and self.project == project)


def acting(site: Site, who: str = "") -> User:
    """The user that this process works for: `who`, else the account behind it.

    Raises RequestError where `who` is root's name, or the account may not act for others.
    """
    uid = os.geteuid()
    # sudo sets it itself, whatever its caller had there; only root's processes are asked to believe it.
    sudo = os.environ.get("SUDO_USER", "") if uid == 0 else ""
    account = sudo or _account(uid)
    trusted = sudo in ("", ROOT, *site.administrators)
    if who == ROOT:  # a controller's user of that name must not become the site manager's
        raise RequestError(["who: got 'root', expected a person: root is the site manager's own account"])
    if not who or who == account:
        return User(account, site.project_of(account), trusted)
    if not trusted:
        raise RequestError(
            [f"who: got {shown(who)} from {shown(account)}, expected nobody else"],
            "root without sudo and the users of vclust_site.administrators may act for others",
        )
    return User(who, site.project_of(who), who in site.administrators, via=account)


@contextlib.contextmanager
def reading_as_caller() -> Iterator[None]:
    """Around what opens files that the caller of sudo has named: with their rights, not root's."""
    uid, gid = (int(os.environ.get(name, "0")) for name in ("SUDO_UID", "SUDO_GID"))
    if os.geteuid() != 0 or uid == 0:
        yield
        return
    groups = os.getgroups()
    os.setgroups(os.getgrouplist(os.environ.get("SUDO_USER", ""), gid))
    os.setegid(gid)
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


def _account(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:  # a container may have no name for it
        return ROOT if uid == 0 else str(uid)

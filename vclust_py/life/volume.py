"""The end of a volume."""

from vclust_py.change import Change
from vclust_py.errors import RequestError, VclustError
from vclust_py.hypervisor import Host
from vclust_py.phases import Result
from vclust_py.site import volumes
from vclust_py.site.session import Session
from vclust_py.site.volumes import Volume


def remove(
    session: Session, name: str, *, owner: str = "", forget: bool = False, check: bool = False
) -> Result:
    """Remove the volume with all that is on it; one that is not there changes nothing.

    `owner`: whose it is; default: one's own, or the only one of that name that one may remove.  `forget`: also where
    its host does not answer; what may still be there is warned of.  Raises RequestError when a cluster has it, it is
    somebody else's, or several owners have one; VclustError when the host does not answer.
    """
    volume = _found(session, name, owner)
    change = Change({} if volume is None else {"name": name, "owner": volume.owner, "host": volume.host}, {})
    if volume is None:
        return Result(change)
    if volume.user:
        raise RequestError(
            [f"{name}: is in use by the cluster {volume.user}"], f"first: vclust destroy {volume.user}"
        )
    if check:
        return Result(change)
    drivers, errors = session.drivers([Host(volume.host, volume.uri)])
    if errors and not forget:
        raise VclustError(
            "\n".join(map(str, errors.values())),
            "again when it answers; with --forget if it never will",
        )
    if not errors:
        drivers[volume.host].files(volume.folder).remove()
    volumes.drop(session.store, volume)
    left = f"{volume.host} does not answer: there may still be the folder clusters/{volume.folder}"
    return Result(change, {}, (left,) if errors else ())


def _found(session: Session, name: str, owner: str) -> Volume | None:
    user = session.store.user
    named = [one for one in volumes.every(session.store) if one.name == name and owner in ("", one.owner)]
    found = [one for one in named if user.may(one.owner, one.project)]
    if named and not found:
        raise RequestError([f"{name}: belongs to {named[0].owner}: got {user.name}, expected its owner"])
    own = [one for one in found if one.owner == user.name]
    if len(found) > 1 and not own:
        owners = ", ".join(one.owner for one in found)
        raise RequestError([f"{name}: {owners} each have one"], "say whose: --owner")
    return next(iter([*own, *found]), None)

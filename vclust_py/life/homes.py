"""The end of an owner's homes."""

from vclust_py import homes
from vclust_py.change import Change
from vclust_py.errors import RequestError
from vclust_py.phases import Result
from vclust_py.site import clusters
from vclust_py.site.session import Session
from vclust_py.site.store import Store, audit


def using(store: Store, owner: str) -> list[str]:
    """Names of the owner's live clusters that have these homes."""
    return [one.name for one in clusters.live(store) if one.owner == owner and one.request.has_site_homes]


def remove(session: Session, owner: str, *, check: bool = False) -> Result:
    """Remove all homes of the owner, with all that is in them; where there are none nothing changes.

    Raises RequestError when clusters have them, or they are for somebody else.
    """
    store = session.store
    if not store.user.may(owner, ""):
        raise RequestError([f"{owner}: got {store.user.name}, expected the owner of these homes"])
    found = next((one for one in homes.every(session.site) if one.owner == owner), None)
    change = Change({} if found is None else {"owner": owner, "users": sorted(found.users)}, {})
    if found is None:
        return Result(change)
    if check:
        homes.require_unused(owner, using(store, owner))
    else:
        homes.remove(session.site, owner, lambda: using(store, owner))
        audit(store, "remove homes", "", owner)
    return Result(change)

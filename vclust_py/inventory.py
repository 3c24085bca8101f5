"""The sites of an Ansible inventory: groups `site_<name>` with a member of `site_managers`."""

from collections.abc import Mapping

from vclust_py.errors import RequestError


def sites(groups: Mapping[str, list[str]]) -> dict[str, str]:
    """Site name → its manager, in the order of the inventory."""
    managers = groups.get("site_managers", [])
    found = {}
    for group, members in groups.items():
        mine = [host for host in managers if host in members]
        if group.startswith("site_") and group != "site_managers" and mine:
            found[group.removeprefix("site_")] = mine[0]
    return found


def site_name(manager: str, groups: Mapping[str, list[str]]) -> str:
    """The site that the machine manages; its own name where no group says so."""
    return next((name for name, other in sites(groups).items() if other == manager), manager)


def site_managers(site: str, groups: Mapping[str, list[str]]) -> list[str]:
    """The manager of that site; of each site, in the order of the inventory, for `any`.

    Raises RequestError where the inventory has no such site.
    """
    known = sites(groups)
    if not known:
        raise RequestError(["inventory: no site, expected a group site_<name> with a host of site_managers"])
    if site == "any":
        return list(dict.fromkeys(known.values()))
    if site not in known:
        raise RequestError([f"Site: got '{site}', expected any or one of {', '.join(known)}"])
    return [known[site]]

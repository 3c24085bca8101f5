# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Questions that the playbooks ask of the inventory: which machine manages the site, which hosts it has."""

from collections.abc import Callable, Mapping
from typing import Any

from ansible.errors import AnsibleFilterError


def sites(groups: Mapping[str, list[str]]) -> dict[str, str]:
    """Site name → its manager, in the order of the inventory."""
    managers = groups.get("site_managers", [])
    found = {}
    for group, members in groups.items():
        mine = [host for host in managers if host in members]
        if group.startswith("site_") and group != "site_managers" and mine:
            found[group.removeprefix("site_")] = mine[0]
    return found


def site_manager(request: Mapping[str, Any] | None, groups: Mapping[str, list[str]]) -> str:
    """The manager of the request's site; the first site for `any` and where there is no request."""
    known = sites(groups)
    if not known:
        raise AnsibleFilterError(
            "inventory: no site, expected a group site_<name> with a host of site_managers"
        )
    software = (request or {}).get("software") or {}
    wanted = str(software.get("site") or "any")
    if wanted == "any":
        return next(iter(known.values()))
    if wanted not in known:
        raise AnsibleFilterError(f"Site: got '{wanted}', expected any or one of {', '.join(known)}")
    return known[wanted]


def site_hosts(
    manager: str, groups: Mapping[str, list[str]], hostvars: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """The machines that are in `vm_hosts` and in the manager's site, with what the inventory says of each."""
    members = {
        host for name, one in sites(groups).items() if one == manager for host in groups[f"site_{name}"]
    }
    chosen = [host for host in groups.get("vm_hosts", []) if host in members]
    return [
        {"name": host, "uri": hostvars[host].get("vclust_libvirt_uri", "qemu:///system")} for host in chosen
    ]


class FilterModule:
    """What Ansible asks a filter plugin for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"vclust_site_manager": site_manager, "vclust_site_hosts": site_hosts}

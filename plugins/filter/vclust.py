# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Questions that the playbooks ask of the inventory: managers of sites, their hosts, who has a cluster."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit, urlunsplit

from ansible.errors import AnsibleFilterError

from vclust_py import inventory
from vclust_py.errors import VclustError
from vclust_py.hypervisor import Host
from vclust_py.site import Site


def site_managers(site: str, groups: Mapping[str, list[str]]) -> list[str]:
    """The manager of that site; of each site for `any`."""
    try:
        return inventory.site_managers(site, groups)
    except VclustError as error:
        raise AnsibleFilterError(str(error)) from error


def cluster_manager(
    managers: Sequence[str],
    name: str,
    groups: Mapping[str, list[str]],
    hostvars: Mapping[str, Mapping[str, Any]],
) -> str:
    """The one of the managers whose variable `vclust_found`, of vclust_info, has the cluster; empty for none.

    Where there is but one, it is that.
    """
    if len(managers) == 1:
        return managers[0]
    having = [host for host in managers if hostvars[host].get("vclust_found", {}).get("clusters")]
    if len(having) > 1:
        both = " and ".join(inventory.site_name(host, groups) for host in having)
        raise AnsibleFilterError(f"{name}: there is one in {both}; say which: -e name=SITE/{name}")
    return having[0] if having else ""


def offers(
    managers: Sequence[str], groups: Mapping[str, list[str]], hostvars: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """What the managers have answered (their variable `choose_offer`), each with its site."""
    return [
        {
            "site": inventory.site_name(host, groups),
            "manager": host,
            "result": _answer(hostvars[host].get("choose_offer") or {}),
        }
        for host in managers
    ]


def _answer(result: Mapping[str, Any]) -> dict[str, Any]:
    """What matters of a registered result; not all of it, some of Ansible's own keys warn when they are read."""
    kept = {name: result[name] for name in ("offer", "msg", "exit_code") if name in result}
    return kept | {"answered": "timedout" not in result and not result.get("unreachable", not result)}


def site_hosts(
    manager: str, groups: Mapping[str, list[str]], hostvars: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """The machines that are in `vm_hosts` and in the manager's site, with what the inventory says of each.

    Those whose `vclust_host_state` is `absent` are left out: they are no hosts any more.
    """
    members = {
        host
        for name, one in inventory.sites(groups).items()
        if one == manager
        for host in groups[f"site_{name}"]
    }
    # Once for each host: Ansible puts its variables together anew with every look.
    said = {host: hostvars[host] for host in groups.get("vm_hosts", []) if host in members}
    try:
        site = Site.from_mapping(hostvars.get(manager, {}).get("vclust_site") or {})
    except VclustError as error:
        raise AnsibleFilterError(f"{manager}: {error}") from error
    return [
        {
            "name": host,
            "uri": with_certificates(its.get("vclust_libvirt_uri", Host.uri), str(site.pki)),
            "guest": its.get("vclust_xen_guest", ""),
            "rack": its.get("vclust_rack", ""),
            "state": its.get("vclust_host_state", Host.state),
            "cpu_overcommit": its.get("vclust_cpu_overcommit", 0),
        }
        for host, its in said.items()
        if its.get("vclust_host_state") != "absent"
    ]


def with_certificates(uri: str, folder: str) -> str:
    """The URI, told where libvirt finds the site's certificates if it is of a TLS connection."""
    parts = urlsplit(uri)
    if not parts.scheme.endswith("+tls") or "pkipath" in parse_qs(parts.query):
        return uri
    option = f"pkipath={quote(folder, safe='/')}"
    return urlunsplit(parts._replace(query=f"{parts.query}&{option}" if parts.query else option))


def host_manager(host: str, groups: Mapping[str, list[str]]) -> str:
    """The manager of the site that the host is in."""
    for name, manager in inventory.sites(groups).items():
        if host in groups[f"site_{name}"]:
            return manager
    raise AnsibleFilterError(f"inventory: {host}: in no site, expected a group site_<name> with a manager")


def site_name(manager: str, groups: Mapping[str, list[str]]) -> str:
    """The name of the site that the machine manages."""
    return inventory.site_name(manager, groups)


class FilterModule:
    """What Ansible asks a filter plugin for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {
            "vclust_cluster_manager": cluster_manager,
            "vclust_offers": offers,
            "vclust_site_managers": site_managers,
            "vclust_site_hosts": site_hosts,
            "vclust_host_manager": host_manager,
            "vclust_site_name": site_name,
        }

"""Files to a site's hosts, as state: what they lack before and after."""

from collections.abc import Sequence

from vclust_py.chain import File, Hop, Outcome, lacking, send
from vclust_py.distribute import explained, keys
from vclust_py.errors import VclustError
from vclust_py.hypervisor import Host
from vclust_py.site import Site
from vclust_py.state import Change


def bring(site: Site, files: Sequence[File], hosts: Sequence[Host], check: bool = False) -> Change:
    """Bring the files to those of the hosts that are other machines and lack them.

    Raises VclustError naming each host that has not all of them in the end; all the others have.
    """
    hops = [Hop(host.name, host.machine, rack=host.rack) for host in hosts if host.machine is not None]
    if check:
        lacks, errors = lacking(files, hops, keys(site))
        failures = [Outcome(name, (), (), error) for name, error in errors.items()]
    else:
        with site.hold("distribute"):
            outcomes = send(files, hops, keys(site))
        lacks = {outcome.host: outcome.arrived for outcome in outcomes}
        failures = [outcome for outcome in outcomes if outcome.failed]
    if failures:
        raise VclustError("\n".join(map(explained, failures)))
    before = {host: sorted(names) for host, names in lacks.items()}
    return Change({"lacks": before}, {"lacks": {host: [] for host in before}})

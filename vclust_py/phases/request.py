"""Phase `request`: the checked request is written down, so that nothing that was accepted is lost."""

import time

from vclust_py.phases import Inputs, Result
from vclust_py.site import clusters, records
from vclust_py.site.session import Session


def run(session: Session, inputs: Inputs) -> Result:
    """Register the request.  Raises RequestError when a cluster of that name has another one.

    Where the site manager is a host, its libvirt is started for the phases to come, if it does not run.
    """
    begun, store = time.time(), session.store
    if inputs.local and not inputs.check:
        session.start_daemons()
    change = clusters.register(store, inputs.asked, reason=inputs.reason, check=inputs.check)
    if change.changed and not inputs.check:
        # There is no cluster to record a phase of before it is registered.
        records.add(
            store, [], [(clusters.get(store, inputs.name).id, "request", "", begun, time.time(), 0, "done")]
        )
    return Result(change, {"name": inputs.name})

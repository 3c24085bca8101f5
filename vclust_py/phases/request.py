"""Phase `request`: the checked request is written down, so that nothing that was accepted is lost."""

from vclust_py.phases import Inputs, Result
from vclust_py.site import clusters
from vclust_py.site.session import Session


def run(session: Session, inputs: Inputs) -> Result:
    """Register the request.  Raises RequestError when a cluster of that name has another one."""
    return Result(clusters.register(session.store, inputs.asked, check=inputs.check), {"name": inputs.name})

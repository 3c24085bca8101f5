"""Phase `distribute`: a cluster's images to those of its hosts that are other machines, by the chain."""

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from vclust_py import chain, templates, timing
from vclust_py.chain import File, Hop, Progress, Report
from vclust_py.chain.report import explained, keys, rows, warnings
from vclust_py.change import Change
from vclust_py.errors import VclustError
from vclust_py.hypervisor import Files
from vclust_py.image import Catalogue, Image
from vclust_py.nodes import drivers_of, require_min_nodes
from vclust_py.phases import Inputs, Result
from vclust_py.site import clusters
from vclust_py.site.clusters import Cluster
from vclust_py.site.session import Session


def run(session: Session, inputs: Inputs) -> Result:
    """Send every image of a placed cluster, with all it stands on, to the cluster's hosts that lack it.

    What these hosts were sent once and the site has no more is removed from them before.  The result warns of hosts
    that have the images and had trouble with each other.  Raises VclustError naming each host that does not get all of
    them; the others have them then, and what has arrived need not be sent again.
    """
    name = inputs.name
    racks = {host.name: host.rack for host in inputs.hosts}
    said: list[str] = []
    with clusters.locked(session.store, name) as cluster:
        machines = {node.host: node.machine for node in cluster.nodes if node.machine is not None}
        if not machines:
            return Result(Change({}, {}))
        if not cluster.images:
            raise VclustError(f"{name}: its images are not made", "run the phase `image` first")
        images = _images(session.images, cluster)
        drivers, errors = drivers_of(session, cluster)
        require_min_nodes(cluster, errors)
        folder = clusters.folder(session.store, cluster).name
        files = {host: drivers[host].files(folder) for host in machines if host in drivers}
        hosts = list(files)
        there = dict(zip(hosts, session.side_by_side(lambda host: files[host].images(), hosts), strict=True))
        old = _superseded(session, there)
        none: dict[str, list[str]] = {host: [] for host in files}
        left = none if inputs.check else _discard(session, files, old)
        lacking = {
            host: [image for image in images if has.get(image.path.name) != image.manifest.bytes]
            for host, has in there.items()
        }
        lacks = {host: sorted(image.path.name for image in lacking[host]) for host in lacking}
        if not inputs.check and any(lacks.values()):
            hops = [Hop(host, machines[host], rack=racks.get(host, "")) for host in lacking if lacking[host]]
            wanted = [image for image in images if any(image in lacking[host] for host in lacking)]
            clusters.record_sent(
                session.store,
                [
                    (host, image.path.name, image.manifest.digest, image.manifest.backing)
                    for host in lacking
                    for image in lacking[host]
                ],
            )
            said = _send(session, cluster, wanted, hops)
    change = Change({"lacks": lacks, "superseded": old}, {"lacks": none, "superseded": left})
    return Result(change, warnings=tuple(said))


def _images(catalogue: Catalogue, cluster: Cluster) -> list[Image]:
    """Each once, and before what stands on it: one that is there can be used."""
    found: dict[str, Image] = {}
    for role, digest in cluster.images.items():
        if role.startswith(templates.ROLE):  # it stays on the machine that has made it
            continue
        for image in reversed(catalogue.chain(catalogue.get(digest))):
            found.setdefault(image.manifest.digest, image)
    return list(found.values())


def _superseded(session: Session, there: Mapping[str, Mapping[str, int]]) -> dict[str, list[str]]:
    """By host, images that are there, were sent by this site, are none of its images any more, and in no use.

    In use they may be though the site's own copy is gone: one that was damaged, for instance.
    """
    view = session.images.look()
    images = view.images
    known = {image.path.stem for image in images}
    known |= {refusal.path.stem for refusal in view.refusals if refusal.newer}
    sent = clusters.sent_images(session.store)
    below = {row["digest"]: row["backing"] for row in sent}
    below |= {image.manifest.digest: image.manifest.backing for image in images}
    old: dict[str, list[str]] = {host: [] for host in there}
    used = set()
    for digests in clusters.images_in_use(session.store).values():
        for digest in digests:
            one: str | None = digest
            while one and one not in used:
                used.add(one)
                if one not in below:  # nobody knows what it stands on
                    return old
                one = below[one]
    for row in sent:
        if (
            row["name"] in there.get(row["host"], ())
            and Path(row["name"]).stem not in known
            and row["digest"] not in used
        ):
            old[row["host"]].append(row["name"])
    return {host: sorted(names) for host, names in old.items()}


def _discard(
    session: Session, files: Mapping[str, Files], old: Mapping[str, Sequence[str]]
) -> dict[str, list[str]]:
    """Remove these images; those that are left, by host: they take room, and are no reason to fail."""

    def left(host: str) -> list[str]:
        found = []
        for name in old[host]:
            try:
                files[host].discard_image(name)
            except VclustError:
                found.append(name)
        return found

    return dict(zip(old, session.side_by_side(left, list(old)), strict=True))


def _send(session: Session, cluster: Cluster, images: Sequence[Image], hops: Sequence[Hop]) -> list[str]:
    """What hosts that have the images now had to say of each other."""
    site = session.site
    with timing.phase(session.store, cluster, "distribute") as record:
        record.facts = {"hosts": len(hops)}

        # Creates that run side by side mostly want the same images: the second finds them there.
        record.report("wait for another transfer")
        with site.file_lock("distribute"), _telling(record) as tell:
            begun = time.time()
            files = [File(image.path, digest=image.manifest.digest) for image in images]
            outcomes = chain.send(files, hops, keys(site), report=tell)
        for outcome in outcomes:
            said = outcome.failed or "; ".join(("done", *outcome.warnings))
            record.node(outcome.host, begun, begun + outcome.seconds, said, outcome.received)
        record.bytes = sum(outcome.received for outcome in outcomes)
        failures = [explained(outcome) for outcome in outcomes if outcome.failed]
        if failures:
            raise VclustError("\n".join(failures))
    return warnings(outcomes)


@contextlib.contextmanager
def _telling(record: timing.Recorder) -> Iterator[Report]:
    """Writes down the last progress once a second, in a thread of its own: the head must not wait for the database."""
    last: list[Progress] = []
    over = threading.Event()

    def write() -> None:
        while not over.wait(1.0):
            if last:
                with contextlib.suppress(VclustError):  # only the display is the poorer for it
                    record.report_all(rows(last.pop()))
                last.clear()

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    try:
        yield last.append
    finally:
        over.set()
        thread.join()

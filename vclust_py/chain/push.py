"""Files to a site's hosts, as state: what they lack before and after."""

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vclust_py.chain import File, Hop, Options, Outcome, Progress, Report, lacking, send
from vclust_py.chain.report import explained, keys, rows
from vclust_py.change import Change
from vclust_py.errors import VclustError
from vclust_py.hypervisor import Host
from vclust_py.site import Site


def push(
    site: Site, files: Sequence[File], hosts: Sequence[Host], check: bool = False
) -> tuple[Change, tuple[Outcome, ...]]:
    """Send the files to those of the hosts that are other machines and lack them; without `check`, what came to each.

    Raises VclustError naming each host that has not all of them in the end; all the others have.
    """
    outcomes: tuple[Outcome, ...] = ()
    hops = [Hop(host.name, host.machine, rack=host.rack) for host in hosts if host.machine is not None]
    if check:
        lacks, errors = lacking(files, hops, keys(site))
        failures = [Outcome(name, (), (), error) for name, error in errors.items()]
    else:
        with site.file_lock("distribute"), _progress(site) as report:
            outcomes = send(files, hops, keys(site), Options(), report)
        lacks = {outcome.host: outcome.arrived for outcome in outcomes}
        failures = [outcome for outcome in outcomes if outcome.failed]
    if failures:
        raise VclustError("\n".join(map(explained, failures)))
    before = {host: sorted(names) for host, names in lacks.items()}
    return Change({"lacks": before}, {"lacks": {host: [] for host in before}}), outcomes


@contextlib.contextmanager
def _progress(site: Site) -> Iterator[Report]:
    """Keeps the progress in a file, for `progress`, while the body works."""
    path = _file(site)

    def report(progress: Progress) -> None:
        draft = path.with_suffix(".tmp")
        with contextlib.suppress(OSError):  # only the display is the poorer for it
            draft.write_text(json.dumps(rows(progress)), encoding="utf-8")
            os.replace(draft, path)

    try:
        yield report
    finally:
        path.unlink(missing_ok=True)


def progress(site: Site) -> list[dict[str, Any]]:
    """What `push` is doing now on this site, as displays take it; nothing when it does nothing."""
    try:
        reported: list[dict[str, Any]] = json.loads(_file(site).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    return [{"phase": "send", **row} for row in reported]


def _file(site: Site) -> Path:
    return site.root / "send.json"

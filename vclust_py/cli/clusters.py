"""The commands for clusters: create and plan, list, show, destroy."""

import argparse
import json
import shlex
import time
from typing import Any

from vclust_py.arguments import reference
from vclust_py.cli import messages, playbooks, sites
from vclust_py.cli.progress import Follow, cluster_progress


def create(arguments: argparse.Namespace) -> int:
    begun = time.monotonic()
    name, variables = playbooks.request(arguments)
    outcome = playbooks.create(name, variables, arguments)
    where = name
    if "vclust_choose" in outcome.results:
        where = f"{outcome.results['vclust_choose']['site']}/{name}"
    if outcome.exit_code:
        # Nothing of it is kept where the request was refused or found no space.
        unfinished = outcome.exit_code not in (2, 3) and "vclust_request" in outcome.results
        if outcome.exit_code == 130:
            messages.error(f"interrupted in phase {outcome.phase or 'request'}")
        if unfinished:
            again = f"vclust create {shlex.quote(str(arguments.request))}"
            messages.note(
                f"{where} is left unfinished: `{again}` takes it up, `vclust destroy {where}` clears it"
            )
        return playbooks.failed(outcome, arguments, name=name, unfinished=unfinished)
    lost = outcome.results["vclust_ready"]["lost"]
    if arguments.json:
        seconds = time.monotonic() - begun
        arguments.cluster = reference(where)
        site, cluster = sites.cluster(arguments)
        done = {"name": name, "site": site, "lost": lost, "seconds": round(seconds, 3), "cluster": cluster}
        print(json.dumps({"exit_code": 0, **done}, indent=2))
    else:
        without = f" without {', '.join(lost)}, which failed" if lost else ""
        print(messages.as_called(f"{where} is ready{without}: vclust ssh {where}"))
    return 0


def plan(arguments: argparse.Namespace) -> int:
    name, variables = playbooks.request(arguments)
    outcome = playbooks.create(name, variables, arguments, last="place")
    if outcome.exit_code:
        return playbooks.failed(outcome, arguments)
    choice = outcome.results.get("vclust_choose", {})
    plan = outcome.results["vclust_place"]["plan"] | {
        name: choice.get(name, "") for name in ("site", "reason")
    }
    plan |= {name: outcome.results["vclust_cache"][name] for name in ("verdicts", "requests")}
    if arguments.json:
        print(json.dumps(plan, indent=2))
    else:
        from vclust_py.cli.tables import show_plan

        show_plan(plan)
    return 0


def list_all(arguments: argparse.Namespace) -> int:
    answers = sites.clusters(arguments)
    found = answers.rows("clusters")
    if arguments.json:
        print(json.dumps(found, indent=2))
    else:
        from vclust_py.cli.tables import show_list

        show_list(found, sites=len(answers.sites) + len(answers.failures) > 1)
    answers.warn()
    return answers.exit_code


def show(arguments: argparse.Namespace) -> int:
    site, cluster = sites.cluster(arguments)
    if arguments.json:
        print(json.dumps({"site": site, **cluster}, indent=2))
    else:
        from vclust_py.cli.tables import show_cluster

        show_cluster(cluster, site if len(sites.known_sites(arguments)) != 1 else "")
    return 0


def destroy(arguments: argparse.Namespace) -> int:
    begun = time.monotonic()
    name = arguments.cluster["name"]
    known = sites.known_sites(arguments)
    if arguments.cluster["site"] == "any" and len(known) == 1:
        (site,), where = known, name
    else:
        site, _ = sites.cluster(arguments)
        where = f"{site}/{name}"
    variables: dict[str, Any] = {"name": where}
    if arguments.forget_host:
        variables["vclust_forget_hosts"] = arguments.forget_host
    follow = Follow(cluster_progress(name))
    outcome = playbooks.run("destroy_vcluster.yml", variables, arguments, phases=("destroy",), follow=follow)
    if outcome.exit_code:
        return playbooks.failed(outcome, arguments, name=name, site=site)
    result = outcome.results.get("vclust_cluster", {})
    playbooks.warn(result)
    if not result.get("changed"):
        raise sites.no_such_cluster(arguments)
    if arguments.json:
        done = {"name": name, "site": site, "seconds": round(time.monotonic() - begun, 3)}
        print(json.dumps({"exit_code": 0, **done}, indent=2))
    else:
        print(f"{name} is destroyed")
    return 0

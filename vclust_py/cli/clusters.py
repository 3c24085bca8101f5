"""The commands for clusters: create and plan, list, show, ssh, destroy."""

import argparse
import json
import os
import shlex
import sys
from pathlib import Path
from typing import Any

from vclust_py.cli import playbooks, sites
from vclust_py.cli.progress import Follow, cluster_progress
from vclust_py.errors import RequestError, VclustError
from vclust_py.text import MESSAGE, plain


def create(arguments: argparse.Namespace) -> int:
    name, variables = playbooks.request(arguments)
    outcome = playbooks.create(name, variables, arguments)
    playbooks.warn(outcome.results.get("vclust_distribute", {}))
    if "vclust_choose" in outcome.results:
        name = f"{outcome.results['vclust_choose']['site']}/{name}"
    if outcome.exit_code == 0:
        lost = outcome.results["vclust_ready"]["lost"]
        without = f" without {', '.join(lost)}, which failed" if lost else ""
        print(f"{name} is ready{without}: vclust ssh {name}")
        return 0
    if outcome.exit_code == 130:
        print(f"vclust: interrupted in phase {outcome.phase or 'request'}", file=sys.stderr)
    if outcome.exit_code not in (2, 3) and "vclust_request" in outcome.results:
        again = f"vclust create {shlex.quote(str(arguments.request))}"
        unfinished = f"{name} is left unfinished: `{again}` takes it up, `vclust destroy {name}` clears it"
        print(plain(unfinished, MESSAGE), file=sys.stderr)
    return outcome.exit_code


def plan(arguments: argparse.Namespace) -> int:
    name, variables = playbooks.request(arguments)
    outcome = playbooks.create(name, variables, arguments, last="place")
    if outcome.exit_code == 0:
        from vclust_py.cli.tables import show_plan

        choice = outcome.results.get("vclust_choose", {})
        plan = outcome.results["vclust_place"]["plan"] | {
            name: choice.get(name, "") for name in ("site", "reason")
        }
        if arguments.json:
            print(json.dumps(plan, indent=2))
        else:
            show_plan(plan)
    return outcome.exit_code


def list_all(arguments: argparse.Namespace) -> int:
    answers = sites.clusters(arguments)
    found = [
        {"site": answer.site, **cluster} for answer in answers.sites for cluster in answer.result["clusters"]
    ]
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


def ssh(arguments: argparse.Namespace) -> int:
    _, cluster = sites.cluster(arguments)
    if not cluster["nodes"]:
        raise VclustError(f"{cluster['name']}: no nodes yet, its state is {cluster['state']}")
    nodes = {node["name"]: node for node in cluster["nodes"]}
    working = [node for node in cluster["nodes"] if node["state"] != "failed"] or cluster["nodes"]
    node = nodes.get(arguments.node) if arguments.node else working[0]
    if node is None:
        raise RequestError(
            [f"{arguments.node}: no such node of {cluster['name']}; there are: {', '.join(nodes)}"]
        )

    from vclust_py.access import keys_of, ssh_options

    access = keys_of(cluster)
    if not Path("/run/netns", access["netns"]).exists():
        raise VclustError(
            f"{cluster['name']}: its network is not there; was this machine restarted?",
            "`vclust create` with its request starts its nodes again",
        )
    key = access["admin_key" if access["user"] == "root" else "key"]
    argv = ["ssh", "-F", "/dev/null", *ssh_options(cluster, node), "-i", key, "-l", access["user"]]
    argv += [f"{node['name']}.{cluster['name']}", *arguments.remote]
    sys.stdout.flush()
    os.execvp(argv[0], argv)  # noqa: S606 - an argument list, no shell


def destroy(arguments: argparse.Namespace) -> int:
    name = arguments.cluster["name"]
    where = name
    if arguments.cluster["site"] != "any" or len(sites.known_sites(arguments)) != 1:
        site, _ = sites.cluster(arguments)
        where = f"{site}/{name}"
    variables: dict[str, Any] = {"name": where}
    if arguments.forget_host:
        variables["vclust_forget_hosts"] = arguments.forget_host
    follow = Follow(cluster_progress(name))
    outcome = playbooks.run("destroy_vcluster.yml", variables, arguments, phases=("destroy",), follow=follow)
    if outcome.exit_code:
        return outcome.exit_code
    playbooks.warn(outcome.results.get("vclust_cluster", {}))
    if not outcome.results.get("vclust_cluster", {}).get("changed"):
        raise RequestError([f"{name}: no such cluster"], "vclust list shows those there are")
    print(f"{name} is destroyed")
    return 0

"""The commands for the life of a cluster: apply and resize, upgrade, stop and start, renew, heal, snapshot,
restore, capture.
"""

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vclust_py.arguments import file, reference, typed
from vclust_py.cli import messages, playbooks, sites
from vclust_py.cli.progress import Follow, cluster_progress
from vclust_py.errors import RequestError
from vclust_py.request.ini_form import written
from vclust_py.text import MESSAGE, plain, when

if TYPE_CHECKING:
    from vclust_py.cli.runner import Outcome


def add_commands(
    add: Callable[[str, Callable[[argparse.Namespace], int], str], argparse.ArgumentParser],
) -> None:
    """Add them with `add`, which takes a name, the command and a text for people."""
    applying = add("apply", _apply, "make a cluster as its request says now")
    applying.add_argument("request", type=file, metavar="REQUEST", help="request file, INI or YAML")
    applying.set_defaults(locked=None)
    applying.add_argument(
        "--restart",
        action="store_true",
        help="nodes may be restarted, one after the other, for other CPUs, RAM and Disk",
    )
    resizing = add("resize", _resize, "give a cluster more or fewer nodes")
    upgrading = add(
        "upgrade", _upgrade, "bring a cluster's packages to the versions that the archives have today"
    )
    stopping = add("stop", _stop, "shut the nodes of a cluster down; places, disks and keys stay")
    starting = add("start", _start, "start a cluster again that was stopped")
    renewing = add("renew", _renew, "prolong the lease of a cluster")
    healing = add("heal", _heal, "start nodes of a cluster again that have ended")
    keeping = add(
        "snapshot", _snapshot, "keep copies of a cluster's disks under a tag, or list those there are"
    )
    restoring = add(
        "restore", _restore, "give a cluster the disks of a snapshot; what was on them since is lost"
    )
    capturing = add("capture", _capture, "print a request for what packages a running cluster has")
    capturing.add_argument("--meta", action="store_true", help="print a meta package with them instead")
    for one in (resizing, upgrading, stopping, starting, renewing, healing, keeping, restoring, capturing):
        one.add_argument(
            "cluster",
            type=typed("reference"),
            metavar="NAME",
            help="name of the cluster; SITE/NAME where two sites have one",
        )
    renewing.add_argument(
        "duration", type=_duration, metavar="TIME", help="how long from now it goes on at least, as 4h or 2d"
    )
    resizing.add_argument("number", type=typed("count"), metavar="N", help="how many nodes it is to have")
    for one in (applying, resizing):
        one.add_argument(
            "--nodes",
            type=typed("nodes"),
            metavar="NODE,...",
            help="these go where there are to be fewer (default: those with the highest numbers)",
        )
        one.add_argument("--check", action="store_true", help="only say what would change")
    upgrading.add_argument(
        "--at-once",
        action="store_true",
        help="all nodes side by side (default: each when the one before has it and its services run again)",
    )
    upgrading.add_argument("--security", action="store_true", help="only what is there for security")
    upgrading.add_argument("--check", action="store_true", help="only say what would come")
    healing.add_argument(
        "--forget-host",
        action="append",
        default=[],
        type=typed("machines"),
        metavar="HOST",
        help="this host is off: make its nodes anew on others; may be repeated",
    )
    healing.add_argument("--check", action="store_true", help="only say which have ended")
    keeping.add_argument(
        "tag",
        nargs="?",
        type=typed("tag"),
        metavar="TAG",
        help="what the copies are called (default: list them)",
    )
    keeping.add_argument("--remove", action="store_true", help="remove those of that tag")
    restoring.add_argument("tag", type=typed("tag"), metavar="TAG", help="of the snapshot")
    for one in (keeping, restoring):
        one.add_argument("--check", action="store_true", help="only say whether it can be done")
    for one in (
        *(applying, resizing, upgrading, stopping, starting),
        *(renewing, healing, keeping, restoring, capturing),
    ):
        one.add_argument("--json", action="store_true", help="print JSON, of an error too")


def _duration(text: str) -> str:
    """As it was typed, where it is one."""
    typed("duration")(text)
    return text


_CHANGE = ("image", "distribute", "create", "teach", "install", "ready")
"""Phases that do what a change of the spec asks of nodes."""


_PLANNED = ("add", "remove", "differences", "packages", "restart")
"""Of what modules tell before a change."""


def _apply(arguments: argparse.Namespace) -> int:
    name, variables = playbooks.request(arguments)
    arguments.cluster = reference(name)
    allowed = {"vclust_restart": True} if arguments.restart else {}
    return _changed("apply", {**variables, **allowed}, arguments)


def _resize(arguments: argparse.Namespace) -> int:
    return _changed("resize", {"name": _where(arguments), "number": arguments.number}, arguments)


def _changed(word: str, variables: Mapping[str, Any], arguments: argparse.Namespace) -> int:
    """Say what changes, which takes a run of its own, then do it."""
    name, playbook, module = _name(arguments), f"{word}_vcluster.yml", f"vclust_{word}"
    if arguments.nodes:
        variables = {**variables, "nodes": arguments.nodes}
    follow = Follow(cluster_progress(arguments.cluster["name"]))
    outcome = playbooks.run(
        playbook, variables, arguments, phases=(word,), follow=follow, check=True, tags=(word,)
    )
    if outcome.exit_code:
        return playbooks.failed(outcome, arguments, name=name)
    if module not in outcome.results:
        raise sites.no_such_cluster(arguments)
    plan = {key: outcome.results[module][key] for key in _PLANNED}
    if not arguments.json:
        for line in _plan(plan):
            print(plain(f"{name}: {line}", MESSAGE), flush=True)
    if arguments.check:
        return _done(
            arguments,
            plan,
            f"{name}: that would change" if any(plan.values()) else f"{name}: as it should be",
        )
    follow = Follow(cluster_progress(arguments.cluster["name"]))
    phases = (word, *(("restart",) if plan["restart"] else ()), *_CHANGE)
    outcome = playbooks.run(playbook, variables, arguments, phases=phases, follow=follow)
    playbooks.warn(outcome.results.get("vclust_teach", {}))
    if outcome.exit_code:
        again = "say it again to go on where it was left"
        messages.note(again)
        return playbooks.failed(outcome, arguments, name=name)
    late = outcome.results.get("vclust_teach", {}).get("late", [])
    code = _done(arguments, {**plan, "late": late}, f"{name} is as its request says")
    return 4 if late else code


def _plan(plan: Mapping[str, Any]) -> list[str]:
    """What changes, in sentences."""
    lines = list(plan["differences"])
    packages = plan["packages"]
    for key, text in (("install", "packages that come"), ("remove", "packages that go")):
        if packages.get(key):
            lines.append(f"{text}: {', '.join(packages[key])}")
    if plan["restart"]:
        lines.append(f"these nodes restart, one after the other: {', '.join(plan['restart'])}")
    if plan["remove"]:
        lines.append(f"these nodes go: {', '.join(plan['remove'])}")
    if plan["add"]:
        lines.append(f"new nodes: {', '.join(f'{node} on {host}' for node, host in plan['add'].items())}")
    return lines


def _upgrade(arguments: argparse.Namespace) -> int:
    """Say what comes, which takes a run of its own, then do it."""
    name = _name(arguments)
    variables = {f"vclust_{word}": True for word in ("at_once", "security") if getattr(arguments, word)}
    outcome = _run("upgrade_vcluster.yml", arguments, ("upgrade",), variables, check=True)
    if outcome.exit_code:
        return playbooks.failed(outcome, arguments, name=name)
    result = outcome.results["vclust_upgrade"]
    plan = {key: result[key] for key in ("packages", "kept", "kernel", "absent")}
    if not arguments.json:
        for line in _upgrade_plan(plan):
            print(plain(f"{name}: {line}", MESSAGE), flush=True)
    if arguments.check:
        text = "that would come" if plan["packages"] else "nothing would come"
        return _done(arguments, plan, f"{name}: {text}")
    outcome = _run("upgrade_vcluster.yml", arguments, ("upgrade", "teach", "ready"), variables)
    for module in ("vclust_upgrade", "vclust_teach"):
        playbooks.warn(outcome.results.get(module, {}))
    if outcome.exit_code:
        messages.note("say it again to go on where it was left")
        return playbooks.failed(outcome, arguments, name=name)
    late = [*outcome.results["vclust_teach"]["late"], *outcome.results["vclust_upgrade"]["absent"]]
    text = f"has not come to all nodes: {', '.join(late)}" if late else "its nodes have what its lock says"
    code = _done(arguments, {**plan, "late": late}, f"{name}: {text}")
    return 4 if late else code


def _upgrade_plan(plan: Mapping[str, Any]) -> list[str]:
    """What comes, and what does not, in sentences."""
    lines = [f"packages that come: {', '.join(plan['packages'])}"] if plan["packages"] else []
    if plan["kept"]:
        lines.append(f"cannot come without the removal of others: {', '.join(plan['kept'])}")
    if plan["kernel"]:
        lines.append(
            f"the archives have {plan['kernel']}: nodes boot the kernel of their base image, a restart brings no other;"
            " a new cluster has it once the base image is renewed"
        )
    return lines


def _stop(arguments: argparse.Namespace) -> int:
    outcome = _run("stop_vcluster.yml", arguments, ("stop",))
    if outcome.exit_code:
        return playbooks.failed(outcome, arguments, name=_name(arguments))
    changed = outcome.results["vclust_cluster"]["changed"]
    text = f"{_name(arguments)} is stopped: vclust start {_name(arguments)}"
    return _done(
        arguments, {"changed": changed}, text if changed else f"{_name(arguments)} was stopped already"
    )


def _start(arguments: argparse.Namespace) -> int:
    outcome = _run("start_vcluster.yml", arguments, ("create", "install", "ready"))
    if outcome.exit_code:
        return playbooks.failed(outcome, arguments, name=_name(arguments))
    lost = outcome.results["vclust_ready"]["lost"]
    without = f" without {', '.join(lost)}, which failed" if lost else ""
    text = f"{_name(arguments)} is ready{without}: vclust ssh {_name(arguments)}"
    return _done(arguments, {"lost": lost}, text)


def _renew(arguments: argparse.Namespace) -> int:
    outcome = _run("renew_vcluster.yml", arguments, ("renew",), {"duration": arguments.duration})
    if outcome.exit_code:
        return playbooks.failed(outcome, arguments, name=_name(arguments))
    result = outcome.results["vclust_lease"]
    told = {key: result[key] for key in ("changed", "ends", "state")}
    text = f"the lease of {_name(arguments)} ends {when(result['ends'])}"
    if not result["changed"]:
        text += ", as before"
    if result["state"] == "stopped":
        text += f"; it is stopped: vclust start {_name(arguments)}"
    return _done(arguments, told, text)


def _heal(arguments: argparse.Namespace) -> int:
    lost = {"vclust_forget_hosts": arguments.forget_host} if arguments.forget_host else {}
    outcome = _run("heal_vcluster.yml", arguments, ("heal",), lost, check=arguments.check)
    if outcome.exit_code:
        return playbooks.failed(outcome, arguments, name=_name(arguments))
    result = outcome.results["vclust_heal"]
    playbooks.warn(result)
    started, failed = result["started"], result["not_ready"]
    would = "would be " if arguments.check else ""
    lines = [f"{node} {would}moved to {host}" for node, host in result["moved"].items()]
    lines += [f"{would}started again: {', '.join(started)}"] if started else []
    if failed:
        lines.append(f"started again, and not ready: {', '.join(failed)}; vclust show {_name(arguments)}")
    text = "; ".join(lines) or "all its nodes run, as far as its hosts tell"
    code = _done(
        arguments,
        {"started": started, "not_ready": failed, "moved": result["moved"]},
        f"{_name(arguments)}: {text}",
    )
    return 4 if failed else code


def _snapshot(arguments: argparse.Namespace) -> int:
    if arguments.tag is None:
        if arguments.remove:
            raise RequestError(["--remove: got no TAG"], f"vclust snapshot {_name(arguments)} lists them")
        return _list_snapshots(arguments)
    removed = {"vclust_remove": True} if arguments.remove else {}
    word = "is removed" if arguments.remove else "is there"
    again = f"vclust restore {_name(arguments)} {arguments.tag} goes back to it"
    return _on_disks(
        "snapshot_vcluster.yml", arguments, removed, word, "" if arguments.remove else again, "was not there"
    )


def _restore(arguments: argparse.Namespace) -> int:
    return _on_disks("restore_vcluster.yml", arguments, {}, "is restored", "", "")


def _on_disks(
    playbook: str,
    arguments: argparse.Namespace,
    variables: Mapping[str, Any],
    done: str,
    then: str,
    unchanged: str,
) -> int:
    """Run a playbook of snapshots, and say what has become of this one."""
    name, tag = _name(arguments), arguments.tag
    outcome = _run(playbook, arguments, ("snapshot",), {"tag": tag, **variables}, check=arguments.check)
    if outcome.exit_code:
        return playbooks.failed(outcome, arguments, name=name, tag=tag)
    result = outcome.results["vclust_snapshot"]
    told = {"tag": tag, "changed": result["changed"], "restarted": result["restarted"]}
    if arguments.check and result["changed"]:
        shut = ", and its nodes would be shut down for it" if result["restarted"] else ""
        return _done(arguments, told, f"{name}: snapshot {tag}: that can be done{shut}")
    words = [f"snapshot {tag} {done if result['changed'] else unchanged}"]
    if result["changed"]:
        words += [then] if then else []
        words += ["its nodes run again"] if result["restarted"] else []
    return _done(arguments, told, f"{name}: {'; '.join(words)}")


def _list_snapshots(arguments: argparse.Namespace) -> int:
    _, cluster = sites.cluster(arguments)
    if arguments.json:
        print(json.dumps(cluster["snapshots"], indent=2))
    else:
        from vclust_py.cli.tables import show_snapshots

        show_snapshots(cluster)
    return 0


def _capture(arguments: argparse.Namespace) -> int:
    outcome = _run("capture_vcluster.yml", arguments, ("capture",))
    if outcome.exit_code:
        return playbooks.failed(outcome, arguments, name=_name(arguments))
    result = outcome.results["vclust_capture"]
    playbooks.warn(result)
    if arguments.json:
        keys = ("request", "node", "added", "removed", "without_hash")
        return _done(arguments, {key: result[key] for key in keys}, "")
    packages = result["request"]["software"].get("packages", [])
    if arguments.meta:
        print(f"description: As in {_name(arguments)}\npackages: {json.dumps(packages)}")
        return 0
    print(f"# What {result['node']} of {_name(arguments)} has, on {when(time.time())}")
    for what in ("added", "removed"):
        if result[what]:
            print(f"# {what} since it was made: {' '.join(result[what])}")
    if result["without_hash"]:
        print(f"# without the password hashes of: {' '.join(result['without_hash'])}")
    print(written(result["request"]), end="")
    return 0


def _name(arguments: argparse.Namespace) -> str:
    """As it was typed."""
    site, name = arguments.cluster["site"], arguments.cluster["name"]
    return name if site == "any" else f"{site}/{name}"


def _run(
    playbook: str,
    arguments: argparse.Namespace,
    phases: Sequence[str],
    variables: Mapping[str, Any] | None = None,
    *,
    check: bool = False,
) -> "Outcome":
    return playbooks.run(
        playbook,
        {"name": _where(arguments), **(variables or {})},
        arguments,
        phases=phases,
        follow=Follow(cluster_progress(arguments.cluster["name"])),
        check=check,
    )


def _where(arguments: argparse.Namespace) -> str:
    """The cluster with its site, where the inventory may have several."""
    name: str = arguments.cluster["name"]
    if arguments.cluster["site"] == "any" and len(sites.known_sites(arguments)) == 1:
        return name
    site, _ = sites.cluster(arguments)
    return f"{site}/{name}"


def _done(arguments: argparse.Namespace, told: Mapping[str, Any], text: str) -> int:
    if arguments.json:
        print(json.dumps({"exit_code": 0, "name": arguments.cluster["name"], **told}, indent=2))
    else:
        print(plain(text, MESSAGE))
    return 0

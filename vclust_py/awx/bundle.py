"""The bundle that `awx import` reads: lists of objects by their kind, each with its natural key (form of AWX 24.6.1).

An object names others by their natural keys; `related` holds what belongs to it alone.  There is no credential in it:
to import one without its secrets would wipe these.
"""

from dataclasses import dataclass
from typing import Any

from vclust_py.awx import surveys
from vclust_py.awx.surveys import Question
from vclust_py.request.values import MAX_NODES

Object = dict[str, Any]
Bundle = dict[str, list[Object]]

URL = "https://git.example.org/vclust.git"
"""Stands for the repository that AWX takes the project from, which this one cannot know."""
IMAGE = "localhost/vclust-ee:latest"
"""What awx/execution-environment/build makes."""


@dataclass(frozen=True)
class Template:
    """A job template; `playbook` without its folder."""

    name: str
    playbook: str
    description: str
    survey: tuple[Question, ...] = ()
    check: bool = False
    together: bool = True
    """Whether several of it may run at once."""


_NAME = surveys.text(
    "name", "Name of the cluster", "SITE/NAME where two sites have one of that name", required=True
)
_NODES = surveys.text(
    "nodes",
    "Nodes that go",
    "Where there are to be fewer: names with commas between; blank: those with the highest numbers",
)
_TAG = surveys.text("tag", "Tag", "What the snapshot is called, within its cluster", required=True)

TEMPLATES = (
    Template("vclust create", "create_vcluster.yml", "Create a virtual cluster", surveys.of_request()),
    Template(
        "vclust plan",
        "create_vcluster.yml",
        "Show where a cluster would run, from which cache, and how long its creation takes; nothing is made",
        surveys.of_request(),
        check=True,
    ),
    Template(
        "vclust destroy",
        "destroy_vcluster.yml",
        "Remove a virtual cluster, whatever state it is in",
        (
            _NAME,
            surveys.text(
                "vclust_forget_hosts",
                "Hosts that will never answer again",
                "Names with commas between; blank: wait for all",
            ),
        ),
    ),
    Template(
        "vclust apply",
        "apply_vcluster.yml",
        "Make a cluster as its request says now: nodes, users, keys, lease",
        (
            *surveys.of_request(),
            _NODES,
            surveys.yes_or_no(
                "vclust_restart", "Restart nodes", "One after the other, for other CPUs, RAM and Disk"
            ),
        ),
    ),
    Template(
        "vclust resize",
        "resize_vcluster.yml",
        "Give a cluster more or fewer nodes",
        (_NAME, surveys.number("number", "Nodes", "How many it is to have", 1, MAX_NODES), _NODES),
    ),
    Template(
        "vclust upgrade",
        "upgrade_vcluster.yml",
        "Bring the packages of a running cluster to the versions that the site's archives have today",
        (
            _NAME,
            surveys.yes_or_no("vclust_at_once", "All at once", "Not one node after the other"),
            surveys.yes_or_no("vclust_security", "Security", "Only what is there for security"),
        ),
    ),
    Template(
        "vclust stop",
        "stop_vcluster.yml",
        "Shut the nodes of a cluster down; their places and disks stay",
        (_NAME,),
    ),
    Template("vclust start", "start_vcluster.yml", "Start a cluster that was stopped", (_NAME,)),
    Template(
        "vclust renew",
        "renew_vcluster.yml",
        "Prolong the lease of a cluster",
        (
            _NAME,
            surveys.text(
                "duration", "Time", "How long from now it goes on at least, such as 8h or 2d", required=True
            ),
        ),
    ),
    Template(
        "vclust heal",
        "heal_vcluster.yml",
        "Start nodes of a cluster again that have ended",
        (
            _NAME,
            surveys.text(
                "vclust_forget_hosts",
                "Hosts that are off",
                "Names with commas between: nodes there are made anew on others; blank: none",
            ),
        ),
    ),
    Template(
        "vclust snapshot",
        "snapshot_vcluster.yml",
        "Keep copies of a cluster's disks; nodes that run are shut down for it, and started again",
        (_NAME, _TAG, surveys.yes_or_no("vclust_remove", "Remove it", "That snapshot, instead")),
    ),
    Template(
        "vclust restore",
        "restore_vcluster.yml",
        "Give a cluster the disks of a snapshot; what was on them since is lost",
        (_NAME, _TAG),
    ),
    Template(
        "vclust capture",
        "capture_vcluster.yml",
        "Show a request for what packages a running cluster has",
        (_NAME,),
    ),
    Template(
        "vclust volume-remove",
        "remove_volume.yml",
        "Remove a data disk that outlives clusters, with all that is on it",
        (
            surveys.text("volume", "Volume", "Its name", required=True),
            surveys.text("owner", "Owner", "Blank: your own, or the only one of that name"),
            surveys.text("site", "Site", "Where the inventory has several; blank: the only one"),
        ),
    ),
    Template(
        "vclust home-remove",
        "remove_homes.yml",
        "Remove the homes that a site keeps for an owner's clusters, with all that is in them",
        (
            surveys.text("owner", "Owner", "Whose they are", required=True),
            surveys.text("site", "Site", "Where the inventory has several; blank: the only one"),
        ),
    ),
    Template(
        "vclust clusters",
        "status.yml",
        "Show the virtual clusters and the caches of all sites",
    ),
    Template("vclust hosts", "site_status.yml", "Show how the hosts of all sites are"),
    Template(
        "vclust caches",
        "rebuild_caches.yml",
        "Learn from past requests: choose, build and drop the caches of all sites",
        together=False,
    ),
    Template(
        "vclust rollout",
        "site.yml",
        "Make the machines of the sites ready: site managers and hosts",
        (
            surveys.yes_or_no("vclust_reboot", "Restart hosts", "Those that do not run Xen yet"),
            surveys.yes_or_no("vclust_rotate_keys", "Replace all keys", "The authority's among them"),
        ),
        together=False,
    ),
    Template(
        "vclust backup",
        "backup.yml",
        "Write the state of a site to a file on its site manager; it holds keys and hashes",
        (
            surveys.text(
                "there",
                "File",
                "On the site manager; one that is there is replaced",
                default="/var/backups/vclust.tar.gz",
            ),
            surveys.text("site", "Site", "Where the inventory has several; blank: the only one"),
        ),
        together=False,
    ),
)

_CREATED, _PLANNED, _CACHES = "vclust create", "vclust plan", "vclust caches"
_WORKFLOW = "vclust create when approved"
_NIGHTLY = "vclust caches every night"

_ORGANIZATION = {"name": "vclust", "type": "organization"}
_ENVIRONMENT = {"name": "vclust", "type": "execution_environment"}


def _key(kind: str, name: str = "vclust") -> Object:
    """Of an object of the organization."""
    return {"organization": _ORGANIZATION, "name": name, "type": kind}


def bundle(url: str = URL, branch: str = "", image: str = IMAGE) -> Bundle:
    """`url` and `branch` of the git repository that AWX takes the project from; empty for its default branch.

    What people set in AWX is not in it, as the inventory's variables and whether the schedule is on: importing again
    leaves that alone.
    """
    return {
        "organizations": [
            {
                "name": "vclust",
                "description": "Virtual clusters on the fly",
                "natural_key": _ORGANIZATION,
            }
        ],
        "credential_types": [_credential_type()],
        "execution_environments": [
            {
                "name": "vclust",
                "description": "Ansible and what vclust needs beside itself",
                "organization": _ORGANIZATION,
                "image": image,
                "pull": "missing",
                "natural_key": _ENVIRONMENT,
            }
        ],
        "projects": [
            {
                "name": "vclust",
                "description": "Virtual clusters on the fly",
                "organization": _ORGANIZATION,
                "scm_type": "git",
                "scm_url": url,
                "scm_branch": branch,
                "scm_clean": True,
                "scm_update_on_launch": True,
                "scm_update_cache_timeout": 60,
                "default_environment": _ENVIRONMENT,
                "natural_key": _key("project"),
            }
        ],
        "inventory": [
            {
                "name": "vclust",
                "description": "The sites",
                "organization": _ORGANIZATION,
                "kind": "",
                "natural_key": _key("inventory"),
            }
        ],
        "inventory_sources": [
            {
                "name": "vclust",
                "description": "From the project",
                "inventory": _key("inventory"),
                "source": "scm",
                "source_project": _key("project"),
                "source_path": "inventories/awx/site.yml",
                "execution_environment": _ENVIRONMENT,
                "update_on_launch": True,
                "update_cache_timeout": 60,
                "overwrite": True,
                "overwrite_vars": False,
                "natural_key": {**_key("inventory_source"), "inventory": _key("inventory")},
            }
        ],
        "job_templates": [_job_template(template) for template in TEMPLATES],
        "workflow_job_templates": [_workflow()],
        "schedules": [
            {
                "name": _NIGHTLY,
                "description": "",
                "unified_job_template": _key("job_template", _CACHES),
                "rrule": "DTSTART:20260101T023000Z RRULE:FREQ=DAILY;INTERVAL=1",
                "natural_key": {
                    "unified_job_template": _key("job_template", _CACHES),
                    "name": _NIGHTLY,
                    "type": "schedule",
                },
            }
        ],
    }


def _credential_type() -> Object:
    """The ssh key, and whom to believe that he is the site manager: a container knows no machine."""
    return {
        "name": "vclust site manager",
        "description": "How Ansible logs in to site managers and hosts",
        "kind": "cloud",
        "inputs": {
            "fields": [
                {
                    "id": "key",
                    "label": "Private ssh key, without a passphrase",
                    "type": "string",
                    "format": "ssh_private_key",
                    "multiline": True,
                    "secret": True,
                },
                {
                    "id": "known_hosts",
                    "label": "Host keys of the machines, as ssh-keyscan has them",
                    "type": "string",
                    "multiline": True,
                },
            ],
            "required": ["key", "known_hosts"],
        },
        # AWX refuses variables of the environment that are Ansible's.
        "injectors": {
            "file": {"template.key": "{{ key }}\n", "template.known_hosts": "{{ known_hosts }}\n"},
            "extra_vars": {
                "ansible_ssh_private_key_file": "{{ tower.filename.key }}",
                "ansible_ssh_common_args": "-o StrictHostKeyChecking=yes"
                " -o UserKnownHostsFile={{ tower.filename.known_hosts }}",
            },
        },
        "natural_key": {"name": "vclust site manager", "kind": "cloud", "type": "credential_type"},
    }


def _job_template(template: Template) -> Object:
    survey = surveys.survey(template.name, *template.survey)
    return {
        "name": template.name,
        "description": template.description,
        "job_type": "check" if template.check else "run",
        "project": _key("project"),
        "playbook": f"playbooks/{template.playbook}",
        "inventory": _key("inventory"),
        "execution_environment": _ENVIRONMENT,
        "ask_inventory_on_launch": True,
        # Whoever may give any variable may give Ansible's own as well.
        "ask_variables_on_launch": False,
        "allow_simultaneous": template.together,
        "survey_enabled": bool(template.survey),
        "related": {"survey_spec": survey} if template.survey else {},
        "natural_key": _key("job_template", template.name),
    }


def _workflow() -> Object:
    """A plan, somebody who approves of it, and the creation; both jobs get the answers of the workflow's survey."""
    approval = {
        "name": "Create this cluster?",
        "description": "The output of the job before shows the plan",
        "timeout": 86400,
    }
    return {
        "name": _WORKFLOW,
        "description": "Plan a virtual cluster, and create it when somebody has approved",
        "organization": _ORGANIZATION,
        "ask_inventory_on_launch": True,
        "ask_variables_on_launch": False,
        "allow_simultaneous": True,
        "survey_enabled": True,
        "related": {
            "survey_spec": surveys.survey(_WORKFLOW, *surveys.of_request()),
            "workflow_nodes": [
                _node("plan", "approve", _key("job_template", _PLANNED)),
                _node("approve", "create", approval=approval),
                _node("create", "", _key("job_template", _CREATED)),
            ],
        },
        "natural_key": _key("workflow_job_template", _WORKFLOW),
    }


def _node(name: str, then: str, template: Object | None = None, approval: Object | None = None) -> Object:
    """A step of the workflow; `then`: the next one, when this one has succeeded."""
    return {
        "identifier": name,
        **({"unified_job_template": template} if template else {}),
        "related": {
            **({"create_approval_template": approval} if approval else {}),
            **({"success_nodes": [_node_key(then)]} if then else {}),
        },
        "natural_key": _node_key(name),
    }


def _node_key(name: str) -> Object:
    return {
        "workflow_job_template": _key("workflow_job_template", _WORKFLOW),
        "identifier": name,
        "type": "workflow_job_template_node",
    }

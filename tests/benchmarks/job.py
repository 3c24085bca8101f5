#!/usr/bin/env python3
"""Seconds that a job takes more than plain `ansible-playbook`: by ansible-runner, and in the execution environment.

    .venv/bin/python tests/benchmarks/job.py [--image IMAGE] [--runs 5] [--json]

Each run is *vclust plan* of two nodes (`create_vcluster.yml --check`) with the same files: the project without .git, an
inventory that is a program, variables in a file, a site manager behind a real sshd on this machine, with a package
archive of its own.  With --image also in a container of it, by podman.  Medians.  Root; needs openssh-server.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

UNIT = Path(__file__).resolve().parents[1] / "unit"
# In the place of this folder, which has another module `cache`.
sys.path[:1] = [str(UNIT.parents[1]), str(UNIT)]

from repository import KERNEL, a_repository  # noqa: E402
from sshd import PROGRAM, Sshd, sshd  # noqa: E402

from vclust_py.site import PROJECT, Site  # noqa: E402

BIN = Path(sys.executable).parent
PLAYBOOK = "playbooks/create_vcluster.yml"
TEXT = f"[Hardware]\nNumberOfNodes: 2\nRAM: 256MB\n[Software]\nName: pair\nSuite: toy\nKernel: {KERNEL}\n"


def a_job(folder: Path, manager: Sshd, site: Site) -> None:
    """In the form of ansible-runner; a container has the folder as /runner."""
    for name in ("env", "inventory", "project"):
        (folder / name).mkdir(parents=True)
    files = subprocess.run(["git", "ls-files", "-z"], cwd=PROJECT, capture_output=True, text=True, check=True)
    for name in files.stdout.rstrip("\0").split("\0"):
        (folder / "project" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(PROJECT / name, folder / "project" / name)
    for name, path in (("key", manager.key), ("known_hosts", manager.known_hosts)):
        shutil.copy(path, folder / "env" / name)
    manager_only = {"hosts": ["far"]}
    variables = {
        "ansible_host": "127.0.0.1",
        "ansible_port": manager.port,
        "ansible_user": "root",
        "ansible_python_interpreter": sys.executable,
        "vclust_site": site.to_mapping(),
    }
    listed = {
        "site_main": manager_only,
        "site_managers": manager_only,
        "vm_hosts": manager_only,
        "_meta": {"hostvars": {"far": variables}},
    }
    program = folder / "inventory/hosts"
    program.write_text(f"#!/usr/bin/env python3\nprint({json.dumps(listed)!r})\n")
    program.chmod(0o755)


def seconds(argv: list[str | Path], folder: Path, place: str) -> float:
    """Of one run; `place` is the job's folder as Ansible sees it there."""
    variables = {
        "vclust_request": TEXT,
        "ansible_ssh_private_key_file": f"{place}/env/key",
        "ansible_ssh_common_args": f"-o UserKnownHostsFile={place}/env/known_hosts",
        # Every run makes its own connection.
        "ansible_ssh_args": "-C -o ControlMaster=auto -o ControlPersist=5s",
        "ansible_control_path_dir": tempfile.mkdtemp(dir=folder),
    }
    (folder / "env/extravars").write_text(json.dumps(variables))
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "PYTHONPATH": str(folder / "project")}
    environment["PATH"] = f"{BIN}:{environment['PATH']}"
    begun = time.monotonic()
    done = subprocess.run(
        argv, cwd=folder / "project", env=environment, capture_output=True, text=True, check=False
    )
    taken = time.monotonic() - begun
    if done.returncode:
        sys.exit(f"{argv}:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--image", help="an image of awx/execution-environment/build")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if PROGRAM is None:
        sys.exit("no sshd: apt-get install openssh-server")

    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="vclust-job-") as name:
        folder, job = Path(name), Path(name, "job")
        with a_repository(folder / "repository") as repository, sshd(folder / "sshd") as manager:
            a_job(job, manager, repository.site(folder / "site"))
            plain = ["-i", job / "inventory/hosts", "-e", f"@{job}/env/extravars", "--check", PLAYBOOK]
            runner = [BIN / "ansible-runner", "run", job, "-p", PLAYBOOK, "--cmdline=--check", "-q"]
            ways: dict[str, tuple[list[str | Path], str]] = {
                "ansible-playbook": ([BIN / "ansible-playbook", *plain], str(job)),
                "ansible-runner": (runner, str(job)),
            }
            if arguments.image:
                isolated = ["--process-isolation", "--process-isolation-executable=podman"]
                image = [f"--container-image={arguments.image}", "--container-option=--user=root"]
                ways["in a container"] = ([*runner, *isolated, *image], "/runner")
            taken: dict[str, list[float]] = {way: [] for way in ways}
            for run in range(arguments.runs + 1):
                for way, (argv, place) in ways.items():
                    spent = seconds(argv, job, place)
                    if run:  # the first fills the caches
                        taken[way].append(spent)
    machine = f"{os.cpu_count()} CPUs, {platform.machine()}, load {load:.1f}"
    medians = {way: round(statistics.median(values), 2) for way, values in taken.items()}
    if arguments.json:
        print(json.dumps({"runs": arguments.runs, "machine": machine, "seconds": medians}, indent=1))
        return
    print(f"medians of {arguments.runs} runs; {machine} at the start")
    least = medians["ansible-playbook"]
    for way, value in medians.items():
        print(f"{way:18} {value:6.2f} s  {value - least:+.2f} s")


if __name__ == "__main__":
    main()

"""Podman with a folder of its own, so that it works for a root that is confined itself, and leaves nothing."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from shared.debian import BOOKWORM, install

_STORAGE = """\
[storage]
driver = "overlay"
graphroot = "{folder}/storage"
runroot = "{folder}/run"
"""
# Limits and networks as they are: a confined root may not give a container others.
_CONFIG = """\
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]
netns = "host"
[engine]
events_logger = "none"
"""
_BASE = "localhost/debian:test"


@dataclass(frozen=True)
class Podman:
    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """For podman and for what calls it."""
        return {
            **os.environ,
            "CONTAINERS_STORAGE_CONF": str(self.folder / "storage.conf"),
            "CONTAINERS_CONF": str(self.folder / "containers.conf"),
            "BUILDAH_ISOLATION": "chroot",
        }

    def __call__(self, *words: str | Path) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            ["podman", *words], env=self.environment, capture_output=True, text=True, check=False
        )

    def why_not(self) -> str:
        """What it says when it cannot run a container of the base; empty where it can."""
        done = self("run", "--rm", _BASE, "true")
        return "" if done.returncode == 0 else done.stderr.strip().rpartition("\n")[2]

    def remove(self) -> None:
        self("system", "reset", "--force")
        # Podman leaves this mounted.
        subprocess.run(["umount", "-q", self.folder / "storage/overlay"], check=False)


def podman(folder: Path) -> Podman:
    """Podman that keeps everything in `folder`."""
    config = _CONFIG
    if shutil.which("runc", path="/usr/sbin:/usr/bin"):
        # crun, Debian's default, refuses a machine with both versions of control groups.
        config += 'runtime = "runc"\n'
    (folder / "storage.conf").write_text(_STORAGE.format(folder=folder))
    (folder / "containers.conf").write_text(config)
    return Podman(folder)


def debian(podman: Podman) -> str:
    """An image of Debian from the machine's apt sources, which finds Python's packages as the machine does."""
    work, root = podman.folder / "work", podman.folder / "root"
    work.mkdir()
    install(BOOKWORM, ["ca-certificates", "python3", "python3-pip"], work, root)
    if Path("/etc/pip.conf").exists():
        shutil.copy("/etc/pip.conf", root / "etc")
    authorities = Path("usr/local/share/ca-certificates")
    shutil.copytree("/" / authorities, root / authorities, dirs_exist_ok=True)
    subprocess.run(["chroot", root, "update-ca-certificates"], check=True, capture_output=True)
    with subprocess.Popen(["tar", "-C", root, "-c", "."], stdout=subprocess.PIPE) as tar:
        done = subprocess.run(
            ["podman", "import", "--quiet", "-", _BASE],
            env=podman.environment,
            stdin=tar.stdout,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    shutil.rmtree(root)
    return _BASE

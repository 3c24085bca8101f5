"""Debian as hosts have it: made by mmdebstrap from this machine's apt sources, kept until recipe or packages change."""

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

from shared.places import IMAGES
from vclust_py.apt import sources
from vclust_py.run import run
from vclust_py.site import Site

BOOKWORM, TRIXIE = "bookworm", "trixie"
"""Debian 12 and 13."""

_LEFT_OVER = (
    # Identity: every host brings its own.
    "etc/ssh/ssh_host_*",
    "etc/hostname",
    "etc/machine-id",
    "etc/resolv.conf",
    "var/lib/dbus/machine-id",
    # What only the build needed.
    "etc/apt/apt.conf.d/99mmdebstrap",
    "var/cache/apt/archives/*.deb",
    "var/cache/apt/*.bin",
    "var/lib/apt/lists/*_*",
    "var/log/*.log",
)


def kept(
    name: str,
    suite: str,
    packages: Sequence[str],
    recipe: Sequence[Path],
    used: Callable[[], Collection[str]],
    build: Callable[[Path, Path], None],
) -> Path:
    """The folder in IMAGES that `build(work, result)` filled for this recipe and the package versions this machine's
    apt now knows.

    `recipe`: files of source text on which the result depends.  Older ones of the same name go, but those that `used`
    names.
    """
    IMAGES.mkdir(mode=0o755, parents=True, exist_ok=True)
    with _only_one():
        for folder in IMAGES.glob(".build-*"):  # of a build that was killed
            shutil.rmtree(folder)
        target = IMAGES / f"{name}-{_key(suite, packages, recipe)}"
        if not target.exists():
            work = Path(tempfile.mkdtemp(prefix=".build-", dir=IMAGES))
            try:
                work.chmod(0o755)
                (work / "result").mkdir()
                build(work, work / "result")
                os.sync()
                os.replace(work / "result", target)
            finally:
                shutil.rmtree(work)
            for folder in IMAGES.glob(f"{name}-*"):
                if folder != target and folder.name not in used():
                    shutil.rmtree(folder)
        return target


def _key(suite: str, packages: Sequence[str], recipe: Sequence[Path]) -> str:
    """Digest of the recipe, the apt sources, and the candidate versions of the packages in this machine's index.

    Where the machine is of another suite these are that suite's versions; they change when it has updates, which
    serves.
    """
    digest = hashlib.sha256()
    for path in (Path(__file__), *recipe):
        digest.update(path.read_bytes())
    digest.update(sources(Site(), suite).encode())
    policy = run(["apt-cache", "policy", *packages])
    digest.update("".join(re.findall(r"^\S.*\n|^  Candidate: .*\n", policy, re.MULTILINE)).encode())
    return digest.hexdigest()[:16]


def install(suite: str, packages: Sequence[str], work: Path, root: Path) -> None:
    """A root with the packages, without documentation and without identity; `work` is a folder for what is needed.

    mmdebstrap runs in namespaces of its own: killed, it leaves neither processes nor mounts behind.
    """
    listed = work / "testbed.sources"
    listed.write_text(sources(Site(), suite), encoding="utf-8")
    apt = (
        *('APT::Install-Recommends "false"', 'APT::Sandbox::User "root"'),
        *('Acquire::Languages "none"', 'Acquire::Retries "2"'),
    )
    left_out = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*")
    run(
        [
            *("unshare", "--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child", "--mount-proc"),
            *("mmdebstrap", "--mode=root", "--variant=minbase", "--format=directory"),
            *("--architectures=amd64", f"--include={','.join(packages)}", "--dpkgopt=force-unsafe-io"),
            *(f"--aptopt={option}" for option in apt),
            *(f"--dpkgopt=path-exclude={pattern}" for pattern in left_out),
            *(suite, root, listed),
        ],
        env={
            "PATH": os.environ["PATH"],
            "LC_ALL": "C.UTF-8",
            "INITRD": "No",
            "TMPDIR": str(work),
            "HOME": "/root",
        },
    )
    remove(root, _LEFT_OVER)


def remove(root: Path, patterns: Sequence[str]) -> None:
    """Files of the root that fit one of the patterns."""
    for pattern in patterns:
        for path in root.glob(pattern):
            path.unlink()


@contextlib.contextmanager
def _only_one() -> Iterator[None]:
    with open(IMAGES / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield

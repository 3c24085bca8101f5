"""The way into hosts: root, with the testbeds' key, to a host whose own key is known."""

from collections.abc import Mapping
from pathlib import Path

from shared.places import KEY, MARK
from vclust_py.run import run


def ensure_key() -> None:
    if not KEY.exists():
        KEY.parent.mkdir(parents=True, exist_ok=True)
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", MARK, "-f", KEY])


def public_key() -> str:
    """For authorized_keys."""
    return KEY.with_suffix(".pub").read_text(encoding="ascii")


def make_host_key(path: Path, name: str) -> None:
    path.unlink(missing_ok=True)
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", path])


def host_key(path: Path) -> str:
    """The public part, as in known_hosts."""
    words = path.with_suffix(".pub").read_text(encoding="ascii").split()
    return " ".join(words[:2])


def command(address: str, known_hosts: Path, options: Mapping[str, str], *words: str) -> list[str]:
    """ssh(1) to root, with these options besides."""
    every = {
        "UserKnownHostsFile": str(known_hosts),
        "GlobalKnownHostsFile": "/dev/null",
        "StrictHostKeyChecking": "yes",
        "IdentitiesOnly": "yes",
        "ServerAliveInterval": "30",
        "LogLevel": "ERROR",
        **options,
    }
    given = [word for name, value in every.items() for word in ("-o", f"{name}={value}")]
    return ["ssh", "-F", "/dev/null", "-i", str(KEY), *given, f"root@{address}", *words]

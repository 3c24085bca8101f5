"""The site's gateway: one port of the site manager, by which users of clusters come to their nodes from other machines.

It is an sshd of its own that is nobody's shell.  All of it runs as an account without rights (`access.ACCOUNT`), in
process and mount namespaces of its own.  It takes the keys of requests, and only these; whoever has logged in gets
`gateway_jump`, which leads to port 22 of a node of a cluster whose request has this key.  There the user logs in once
more, from end to end: the gateway sees nothing of it.

It runs while the site has the setting `gateway` and a cluster whose request has keys.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vclust_py import gateway_jump, ingress
from vclust_py.access import ACCOUNT
from vclust_py.errors import VclustError
from vclust_py.guest import trust
from vclust_py.site import clusters
from vclust_py.site.settings import Gateway, Site
from vclust_py.site.store import Store

_TIMEOUT = 10.0
_PLAIN = re.compile(r"[A-Za-z0-9_./-]+")
_SETTINGS = """\
# Made by vclust anew, with each change of the site's clusters.
Port {port}
{listen}HostKey {folder}/host_key
AuthorizedKeysFile {folder}/authorized_keys
AllowUsers {account}
AuthenticationMethods publickey
PubkeyAuthentication yes
PasswordAuthentication no
KbdInteractiveAuthentication no
HostbasedAuthentication no
UsePAM no
UseDNS no
PidFile none
# No shell, no forwarding of any kind: each key has its one command.
DisableForwarding yes
PermitTTY no
PermitTunnel no
PermitUserRC no
PermitUserEnvironment no
MaxSessions 1
LoginGraceTime 20
MaxStartups 20:30:60
PerSourceMaxStartups 20
ClientAliveInterval 30
"""


@dataclass(frozen=True)
class Admitted:
    """A cluster whose users may come in: its name and segment, and the public keys of its request."""

    name: str
    segment: str
    keys: tuple[str, ...]


def admitted(store: Store) -> list[Admitted]:
    """The clusters whose users may come in: live ones whose requests have keys."""
    return [
        Admitted(cluster.name, cluster.segment, tuple(key.key for key in cluster.request.software.ssh_keys))
        for cluster in clusters.live(store)
        if cluster.request.software.ssh_keys
    ]


def refresh(site: Site, admit: Callable[[], Sequence[Admitted]]) -> tuple[str, ...]:
    """Let in the users of exactly the clusters of `admit`; with none, or without the setting, it does not run.

    Warnings say why it is not open; clusters are ones without it too.
    """
    folder = site.gateway_folder
    try:
        if site.gateway is None and not folder.exists():
            return ()
        with site.file_lock("gateway", timeout=60):
            # Asked in here: of two processes the later one must not write what was before.
            if site.gateway is None or not (now := admit()):
                _stop(folder)
                (folder / "authorized_keys").unlink(missing_ok=True)
                return ()
            _run(site.gateway, folder, now)
    except (VclustError, OSError) as error:
        return (f"gateway: nobody comes in from other machines: {' '.join(str(error).split())}",)
    return ()


def _run(gateway: Gateway, folder: Path, now: Sequence[Admitted]) -> None:
    program = shutil.which("sshd", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")
    if program is None:
        raise VclustError("sshd is not installed on the site manager", "apt-get install openssh-server")
    if not _PLAIN.fullmatch(str(folder)):
        raise VclustError(f"{folder}: got a path with blanks or signs, expected letters, digits and _ . / -")
    _, gid = ingress.account()
    folder.mkdir(mode=0o750, exist_ok=True)
    os.chown(folder, 0, gid)
    folder.chmod(0o750)
    if not (folder / "host_key.pub").exists():
        key = trust.new_key()
        _write(folder / "host_key", key.private, gid)
        _write(folder / "host_key.pub", f"{key.public}\n", gid)
    lines, reach = _keys(folder, now)
    _write(folder / "jump", Path(gateway_jump.__file__).read_text(encoding="utf-8"), gid)
    # First what a key is good for, then the key.
    _write(folder / "keys.json", json.dumps(reach), gid)
    _write(folder / "authorized_keys", lines, gid)
    listen = "".join(f"ListenAddress {address}\n" for address in gateway.listen)
    settings = _SETTINGS.format(port=gateway.port, listen=listen, folder=folder, account=ACCOUNT)
    config = folder / "sshd_config"
    same = config.exists() and config.read_text(encoding="ascii") == settings
    if same and _processes(folder):
        return
    _stop(folder)
    _write(config, settings, gid)
    _start(gateway, folder, program)


def _keys(folder: Path, now: Sequence[Admitted]) -> tuple[str, dict[str, dict[str, str]]]:
    """The lines of authorized_keys, and which clusters each key is for, by its digest."""
    lines, reach = dict[str, str](), dict[str, dict[str, str]]()
    for cluster in now:
        for key in cluster.keys:
            plain = " ".join(key.split()[:2])  # a comment is nothing to sshd
            digest = hashlib.sha256(plain.encode("ascii")).hexdigest()
            command = f"/usr/bin/python3 -IS {folder}/jump {folder}/keys.json {digest}"
            lines[digest] = f'restrict,command="{command}" {plain}\n'
            reach.setdefault(digest, {})[cluster.name] = cluster.segment
    return "".join(lines.values()), reach


def _command(folder: Path, program: str) -> list[str]:
    return [
        *("unshare", "--pid", "--mount", "--ipc", "--mount-proc", "--fork", "--kill-child"),
        *("setpriv", "--reuid", ACCOUNT, "--regid", ACCOUNT, "--clear-groups"),
        # Of unshare's own, which a change of the account takes away.
        *("--pdeathsig", "KILL"),
        *("--no-new-privs", "--inh-caps=-all", "--bounding-set=-all", "--"),
        *(program, "-D", "-f", f"{folder}/sshd_config"),
    ]


def _start(gateway: Gateway, folder: Path, program: str) -> None:
    port, addresses = gateway.port, gateway.listen or ("0.0.0.0",)  # noqa: S104 - sshd's default
    for address in addresses:
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
            except OSError as error:
                raise VclustError(f"port {port} of {address}: {error.strerror}") from error
    process = subprocess.Popen(
        _command(folder, program),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"},
        cwd="/",
        start_new_session=True,
        text=True,
    )
    assert process.stderr  # noqa: S101 - for mypy
    deadline = time.monotonic() + _TIMEOUT
    target = "127.0.0.1" if addresses[0] == "0.0.0.0" else addresses[0]  # noqa: S104
    with process.stderr:
        while process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection((target, port), 1) as probe:
                if probe.recv(4) == b"SSH-":
                    process.returncode = 0  # it stays: nobody waits for it
                    return
            time.sleep(0.02)
        if process.poll() is None:
            process.kill()
        said = process.stderr.read().splitlines() or ["it does not answer"]
    raise VclustError(f"sshd: {said[-1]}")


def _processes(folder: Path) -> list[int]:
    """Root's processes that keep this gateway's namespaces: with them, all in it ends."""
    last = f"-D\0-f\0{folder}/sshd_config\0".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (path / "cmdline").read_bytes()
            if words.startswith(b"unshare\0") and words.endswith(last) and path.stat().st_uid == 0:
                found.append(int(path.name))
    return found


def _stop(folder: Path) -> None:
    """Raises VclustError where it takes too long."""
    ending = list[int]()
    for process in _processes(folder):
        with contextlib.suppress(OSError):
            # The first process of its namespace goes last: then all in it have ended.
            children = Path(f"/proc/{process}/task/{process}/children").read_text(encoding="ascii").split()
            ending += [process, *map(int, children)]
            os.kill(process, signal.SIGKILL)
    deadline = time.monotonic() + _TIMEOUT
    while left := [process for process in ending if Path(f"/proc/{process}").exists()]:
        if time.monotonic() > deadline:
            raise VclustError(f"process {left[0]} does not end")
        time.sleep(0.01)


def _write(path: Path, text: str, gid: int) -> None:
    """Root's, for the gateway's account to read; whole or not at all."""
    draft = path.with_name(f".{path.name}")
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
        os.fchown(file.fileno(), 0, gid)
        os.fchmod(file.fileno(), 0o640)
    draft.replace(path)

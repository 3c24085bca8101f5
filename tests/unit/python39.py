"""Python 3.9, the oldest that hosts have: Debian 11's, from the mirror that this machine's apt uses."""

import re
import subprocess
from pathlib import Path

PACKAGES = (
    "python3.9-minimal", "libpython3.9-minimal", "libpython3.9-stdlib", "libssl1.1", "libffi7", "libmpdec3",
)  # fmt: skip
"""With OpenSSL 1.1.1, which the hop has to do with as well."""
_SUITE = "bullseye"
_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


def fetched(folder: Path) -> Path:
    """The program, unpacked below the folder and installed nowhere.

    Raises FileNotFoundError where apt knows no mirror of Debian, CalledProcessError where that one has it not.
    """
    for name in ("lists/partial", "archives/partial", "debs", "root"):
        (folder / name).mkdir(parents=True)
    (folder / "status").touch()
    (folder / "sources").write_text(f"deb [signed-by={_KEYRING}] {mirror()} {_SUITE} main\n")
    options = {
        "Dir::Etc::sourcelist": folder / "sources", "Dir::Etc::sourceparts": "/nonexistent",
        "Dir::State::lists": folder / "lists", "Dir::State::status": folder / "status", "Dir::Cache": folder,
        "APT::Sandbox::User": "root", "Acquire::Languages": "none", "Acquire::Retries": "1",
    }  # fmt: skip
    apt = ["apt-get", "-qq", *(word for name, value in options.items() for word in ("-o", f"{name}={value}"))]
    subprocess.run([*apt, "update"], check=True, capture_output=True, timeout=120)
    subprocess.run(
        [*apt, "download", *PACKAGES], check=True, capture_output=True, timeout=120, cwd=folder / "debs"
    )
    for package in sorted((folder / "debs").glob("*.deb")):
        subprocess.run(["dpkg-deb", "-x", package, folder / "root"], check=True)
    (library,) = (folder / "root/usr/lib").glob("*-linux-gnu")
    program = folder / "python3.9"
    program.write_text(f'#!/bin/sh\nLD_LIBRARY_PATH={library} exec {folder}/root/usr/bin/python3.9 "$@"\n')
    program.chmod(0o755)
    return program


def mirror() -> str:
    """That of the first source of Debian's own packages."""
    lists = [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))]
    for path in lists:
        if path.is_file() and (found := re.search(r"(https?://\S+/debian)/?\s", path.read_text())):
            return found[1]
    raise FileNotFoundError("apt has no source of Debian's packages")

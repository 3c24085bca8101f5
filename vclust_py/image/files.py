"""Digests of files, files that are safely on the disk, and folders that are open to everybody."""

import hashlib
import os
from pathlib import Path


def file_digest(path: Path) -> str:
    """sha256 of the file, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Wait until the file (or folder) `path` is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_folder(path: Path) -> None:
    """Make the folder, and those above it that are not there, for everybody to read, whatever the umask."""
    for folder in (*reversed(path.parents), path):
        if not folder.exists():
            folder.mkdir()
            folder.chmod(0o755)

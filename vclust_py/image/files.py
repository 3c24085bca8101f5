"""Digests of files, and files that are safely on the disk."""

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

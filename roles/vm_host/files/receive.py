#!/usr/bin/python3
"""Take one image from the site manager: the only thing that its ssh key may do on a host (authorized_keys).

`ssh vclust@HOST receive NAME BYTES SHA256` with the file, compressed by zstd, on standard input.  Ends with one line
of JSON: {"bytes": …} or {"error": …}.  Python's standard library only, 3.9 or newer, and zstd.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import select
import subprocess
import sys

IMAGES = "/var/lib/vclust/images"
NAME = re.compile(r"(base|layer|cache|kernel|installer|bundle)-[a-z0-9.-]+\.(qcow2|img)")
DIGEST = re.compile(r"[0-9a-f]{64}")
CHUNK = 1 << 20
PATIENCE = 120  # seconds without a byte after which the sender is given up


class Refused(Exception):
    """What the sender is told."""


def asked(command):
    """Name, bytes and digest of a `receive` command."""
    words = command.split(" ")
    if len(words) != 4 or words[0] != "receive":
        raise Refused("expected: receive NAME BYTES SHA256")
    _, name, size, digest = words
    if not NAME.fullmatch(name):
        raise Refused(f"{name!r}: not the name of an image")
    if not (size.isascii() and size.isdigit()) or not DIGEST.fullmatch(digest):
        raise Refused(f"{name}: expected its bytes and its sha256")
    return name, int(size), digest


def claim(part):
    """The file `part`, empty and locked; what a dead transfer has left in it is gone."""
    while True:
        # Not emptied by the opening: another transfer may be writing it.
        file = os.fdopen(os.open(part, os.O_RDWR | os.O_CREAT, 0o600), "r+b")
        fcntl.flock(file, fcntl.LOCK_EX)
        # Whoever held it before may have given it its name, or removed it.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), os.stat(part)):
                file.truncate(0)
                return file
        file.close()


def clear(folder):
    """Remove the leftovers of other dead transfers."""
    for entry in os.scandir(folder):
        if entry.name.endswith(".part"):
            with contextlib.suppress(OSError), open(entry.path, "rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(entry.path)


def pour(source, target, size):
    """Write the stream into `target`, with holes for zeros.  Returns its digest."""
    digest, count = hashlib.sha256(), 0
    zeros = bytes(CHUNK)
    while True:
        if not select.select([source], [], [], PATIENCE)[0]:
            raise Refused(f"nothing came for {PATIENCE} s, after {count} bytes")
        chunk = os.read(source, CHUNK)
        if not chunk:
            break
        digest.update(chunk)
        count += len(chunk)
        if count > size:
            raise Refused(f"more than the {size} bytes that were announced")
        if chunk == zeros[: len(chunk)]:
            target.seek(len(chunk), os.SEEK_CUR)
        else:
            target.write(chunk)
    target.truncate(size)
    if count != size:
        raise Refused(f"{count} bytes came, {size} were announced")
    return digest.hexdigest()


def receive(folder, name, size, digest, stream):
    """Raises Refused and OSError; nothing but the whole file is ever there under its name."""
    path = os.path.join(folder, name)
    part = f"{path}.part"
    clear(folder)
    with claim(part) as target:
        try:
            if os.path.exists(path) and os.path.getsize(path) == size:
                return  # came by another transfer while this one waited
            unpack = subprocess.Popen(["zstd", "-dcq"], stdin=stream, stdout=subprocess.PIPE)
            try:
                found = pour(unpack.stdout.fileno(), target, size)
            finally:
                unpack.kill()
                unpack.wait()
            if found != digest:
                raise Refused(f"its sha256 is {found}, not {digest}")
            target.flush()
            os.fchmod(target.fileno(), 0o644)
            os.fsync(target.fileno())
            os.rename(part, path)
            handle = os.open(folder, os.O_RDONLY)
            os.fsync(handle)
            os.close(handle)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(part)


def main():
    name = ""
    try:
        name, size, digest = asked(os.environ.get("SSH_ORIGINAL_COMMAND", ""))
        receive(IMAGES, name, size, digest, sys.stdin.buffer)
    except (Refused, OSError) as error:
        print(json.dumps({"error": error.strerror if isinstance(error, OSError) else str(error)}))
        return 1
    print(json.dumps({"bytes": size}))
    return 0


if __name__ == "__main__":
    sys.exit(main())

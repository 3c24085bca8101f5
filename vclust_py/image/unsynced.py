"""Runs a command, and all that it starts, without waiting for the disk: `python unsynced.py COMMAND...`.

What it makes is thrown away if the machine stops, while dpkg waits for the disk after every step it writes down.  The
calls that do that (fsync(2) and its like) succeed at once, by a system-call filter.  A script by itself: it is run by
its path.
"""

import os
import sys

CALLS = ("fdatasync", "fsync", "msync", "sync", "sync_file_range", "syncfs")


def main() -> None:
    import seccomp  # Debian's python3-seccomp

    filters = seccomp.SyscallFilter(seccomp.ALLOW)
    # For root this needs no promise that nobody gains privileges; packages' programs may.
    filters.set_attr(seccomp.Attr.CTL_NNP, 0)
    for call in CALLS:
        filters.add_rule(seccomp.ERRNO(0), call)
    filters.load()
    os.execvp(sys.argv[1], sys.argv[1:])  # noqa: S606 -- what the caller has named


if __name__ == "__main__":
    main()

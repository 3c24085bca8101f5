"""A small FAT file system, in memory: no process for each disk, and a few KB where ISO 9660 begins with 32 KB of zeros.

Only what the two disks of a node need: read-only, one folder, one copy of the table.  The format is that of Microsoft's
"FAT: General Overview of On-Disk Format" 1.03.
"""

import os
import struct
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from vclust_py.image import sync

SECTOR = 512
_CLUSTERS_MAX = 4084
"""Of FAT12: a reader takes a file system with more for FAT16."""
_LFN_CHARACTERS = 13
_VOLUME_LABEL, _ARCHIVE, _LONG_NAME = 0x08, 0x20, 0x0F
_DATE = 0x0021
"""1 January 1980, FAT's first day: the same files always give the same bytes."""


def image(label: str, files: Mapping[str, bytes]) -> bytes:
    """A file system called `label` (at most 11 characters of ASCII) with `files` in its root folder.

    Names are ASCII; raises ValueError when the files take more than 255 MB.
    """
    entries, size = 1 + sum(1 + _long_entries(name) for name in files), 1
    while sum(_clusters(data, size) for data in files.values()) > _CLUSTERS_MAX:
        size *= 2  # sectors of a cluster
    if size > 128:
        raise ValueError(f"{label}: files of {sum(map(len, files.values()))} bytes do not fit")
    folder = [_entry(label.encode("ascii").ljust(11), _VOLUME_LABEL)]
    table, content = [0xFF8, 0xFFF], []
    for number, (name, data) in enumerate(files.items(), 1):
        alias = b"%08d   " % number
        count = _clusters(data, size)
        folder += _long_name(name, alias)
        folder.append(_entry(alias, _ARCHIVE, len(table) if count else 0, len(data)))
        table += [*range(len(table) + 1, len(table) + count), 0xFFF] if count else []
        content.append(data.ljust(count * size * SECTOR, b"\0"))
    packed_table, packed_folder = _padded(_twelve_bits(table)), _padded(b"".join(folder))
    clusters = len(table) - 2
    sectors = 1 + (len(packed_table) + len(packed_folder)) // SECTOR + clusters * size
    boot = _boot_sector(label, size, -(-entries // 16) * 16, sectors, len(packed_table) // SECTOR)
    return b"".join((boot, packed_table, packed_folder, *content))


def write_all(files: Mapping[Path, bytes]) -> None:
    """Write files, each whole or not at all, readable by their owner only; they are on the disk when it returns."""
    for path, data in files.items():
        draft = path.with_name(f".{path.name}.tmp")
        draft.unlink(missing_ok=True)
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(data)
        draft.rename(path)
    # Afterwards, and side by side: ext4 writes down many files in the time that it takes for one (16 threads need a
    # tenth of the time of one).
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(sync, files))
    for folder in {path.parent for path in files}:
        sync(folder)


def _clusters(data: bytes, size: int) -> int:
    return -(-len(data) // (size * SECTOR))


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % SECTOR)


def _boot_sector(label: str, cluster: int, root_entries: int, sectors: int, table_sectors: int) -> bytes:
    small, large = (sectors, 0) if sectors < 1 << 16 else (0, sectors)
    head = struct.pack(
        "<3s8sHBHBHHBHHHIIBBBI11s8s",
        *(b"\xeb\x3c\x90", b"vclust  ", SECTOR, cluster),
        *(1, 1, root_entries, small, 0xF8, table_sectors),  # one reserved sector, one table, a fixed disk
        *(32, 64, 0, large),  # a geometry, which nothing uses
        *(0x80, 0, 0x29, 0x76636C75, label.encode("ascii").ljust(11), b"FAT12   "),
    )
    return head.ljust(SECTOR - 2, b"\0") + b"\x55\xaa"


def _twelve_bits(table: list[int]) -> bytes:
    """Two entries in three bytes."""
    packed = bytearray()
    for low, high in zip(table[::2], [*table[1::2], *([0] if len(table) % 2 else [])], strict=True):
        packed += (low | high << 12).to_bytes(3, "little")
    return bytes(packed)


def _entry(name: bytes, attributes: int, cluster: int = 0, length: int = 0) -> bytes:
    return struct.pack(
        "<11sBBBHHHHHHHI", name, attributes, 0, 0, 0, _DATE, _DATE, 0, 0, _DATE, cluster, length
    )


def _long_entries(name: str) -> int:
    return -(-len(name) // _LFN_CHARACTERS)


def _long_name(name: str, alias: bytes) -> list[bytes]:
    """The entries that come before the one called `alias`, and give it its name; the name's end comes first."""
    checksum = 0
    for byte in alias:
        checksum = ((checksum >> 1 | checksum << 7) + byte) & 0xFF
    count = _long_entries(name)
    text = name.encode("utf-16-le")
    if len(name) % _LFN_CHARACTERS:
        text = (text + b"\0\0").ljust(count * 2 * _LFN_CHARACTERS, b"\xff")
    entries = []
    for number in range(count, 0, -1):
        part = text[(number - 1) * 26 : number * 26]
        order = number | (0x40 if number == count else 0)
        head = struct.pack("<B10sBBB", order, part[:10], _LONG_NAME, 0, checksum)
        entries.append(head + part[10:22] + b"\0\0" + part[22:])
    return entries

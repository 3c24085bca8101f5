"""FAT file systems, read back by mtools and blkid."""

import stat
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vclust_py.guest import fat

NAMES = st.from_regex(r"[a-z][a-z0-9-]{0,40}(\.[a-z]{1,5})?", fullmatch=True)
CONTENT = st.builds(lambda piece, times: piece * times, st.binary(max_size=9), st.integers(0, 3000))


def read_back(image: bytes, folder: Path) -> dict[str, bytes]:
    (folder / "image").write_bytes(image)
    (folder / "read").mkdir()
    done = subprocess.run(
        ["mcopy", "-s", "-n", "-i", folder / "image", "::", folder / "read"], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    return {path.name: path.read_bytes() for path in (folder / "read").iterdir()}


@settings(max_examples=40)
@given(st.dictionaries(NAMES, CONTENT, max_size=40))
def test_mtools_reads_what_was_written(files: dict[str, bytes]) -> None:
    files["0"] = b"mtools takes a disk without any content for none"
    with tempfile.TemporaryDirectory() as folder:
        assert read_back(fat.image("cidata", files), Path(folder)) == files


@pytest.mark.parametrize("size", [0, 1, 512, 513, 4084 * 512, 4084 * 512 + 1, 9_000_000])
def test_files_of_every_size(size: int, tmp_path: Path) -> None:
    files = {"large": bytes(range(251)) * (size // 251) + b"x" * (size % 251), "small": b"1"}
    assert read_back(fat.image("vclust", files), tmp_path) == files


def test_what_does_not_fit_is_refused() -> None:
    class Huge(bytes):
        def __len__(self) -> int:
            return 1 << 30

    with pytest.raises(ValueError, match="vclust: files of 1073741824 bytes do not fit"):
        fat.image("vclust", {"huge": Huge()})


def test_other_tools_find_it_by_its_label(tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(fat.image("cidata", {"meta-data": b"x"}))
    command = ["blkid", "-p", "-o", "export", tmp_path / "image"]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    assert {"LABEL=cidata", "TYPE=vfat", "VERSION=FAT12"} <= set(said)


def test_files_are_private_and_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "n1.img"
    path.write_bytes(b"old")
    path.chmod(0o644)
    fat.write_all({path: b"new", tmp_path / "n2.img": b"other"})
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert sorted(file.name for file in tmp_path.iterdir()) == ["n1.img", "n2.img"]


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        fat.write_all({tmp_path / "none" / "n1.img": b""})

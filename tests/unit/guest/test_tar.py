"""Archives for nodes, read by Python's tarfile; by tar itself in the tests of the disks."""

import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vclust_py.guest.tar import File, packed

FILES = st.builds(
    File,
    path=st.from_regex(r"[a-zäß._-]{1,20}(/[a-zäß._-]{1,20}){0,2}", fullmatch=True),
    data=st.none() | st.binary(max_size=1100),
    mode=st.integers(0, 0o7777),
    owner=st.integers(0, 0o7777777),
)


@given(st.lists(FILES, max_size=4))
def test_tarfile_reads_what_was_packed(files: list[File]) -> None:
    with tarfile.open(fileobj=io.BytesIO(packed(files)), mode="r:gz") as archive:
        members = archive.getmembers()
        found = [
            File(
                member.name,
                None if member.isdir() else archive.extractfile(member).read(),  # type: ignore[union-attr]
                member.mode,
                member.uid,
            )
            for member in members
        ]
    assert found == files
    assert [(member.gid, member.mtime) for member in members] == [(file.owner, 0) for file in files]


def test_a_path_that_does_not_fit_is_refused() -> None:
    packed([File("a" * 100, b"")])
    with pytest.raises(ValueError, match="expected a path of at most 100"):
        packed([File("a" * 101, b"")])

"""Homes that a site keeps: real file systems, looked at by mounting them here."""

import json
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from vclust_py import homes
from vclust_py.errors import RequestError, VclustError
from vclust_py.homes import PRIVATE, Homes
from vclust_py.site import Site
from vclust_py.site.settings import HomesSetting

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the site is root's")

SIZE = 64 * 10**6


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(root=tmp_path / "root", homes=HomesSetting(tmp_path / "srv/homes", SIZE))


def inside(kept: Homes, folder: Path, script: str) -> str:
    """What a script prints in the mounted file system."""
    folder.mkdir(exist_ok=True)
    words = f'mount -o loop "{kept.image}" "{folder}" && cd "{folder}" && {script}'
    done = subprocess.run([*PRIVATE, "sh", "-c", words], capture_output=True, text=True, check=True)
    return done.stdout


def test_made_once_and_the_same_for_every_cluster(site: Site, tmp_path: Path) -> None:
    kept = homes.prepare(site, "alice", ["carol", "dave"])
    assert (kept.users, kept.size) == ({"carol": 1000, "dave": 1001}, SIZE)
    seen = inside(kept, tmp_path / "mnt", "stat -c '%n %a %u:%g' home home/* servers new")
    assert seen.splitlines() == [
        "home 755 0:0",
        "home/carol 700 1000:1000",
        "home/dave 700 1001:1001",
        "servers 700 0:0",
        "new 700 0:0",
    ]
    inside(kept, tmp_path / "mnt", "echo mine > home/carol/work; chown 1000:1000 home/carol/work")
    # Others come first in the next request, and one is new.
    kept = homes.prepare(site, "alice", ["erin", "dave", "carol"])
    assert kept.users == {"carol": 1000, "dave": 1001, "erin": 1002}
    assert inside(kept, tmp_path / "mnt", "cat home/carol/work; stat -c %u home/erin") == "mine\n1002\n"
    skeleton = sorted(path.name for path in Path("/etc/skel").glob(".[a-z]*") if path.is_file())
    assert inside(kept, tmp_path / "mnt", "ls -A home/erin").split() == skeleton


def test_each_owner_has_their_own(site: Site, tmp_path: Path) -> None:
    alice = homes.prepare(site, "alice", ["carol"])
    inside(alice, tmp_path / "mnt", "echo hers > home/carol/work")
    other = homes.prepare(site, "bob@example.org", ["carol"])
    assert other.users == alice.users
    assert "work" not in inside(other, tmp_path / "mnt", "ls -A home/carol")
    assert [one.owner for one in homes.every(site)] == ["alice", "bob@example.org"]
    assert homes.every(site)[0] == alice


@pytest.mark.parametrize("owner", ["ä" * 150, "a" * 150, "Björn", "~x"])
def test_any_name_of_an_owner_is_a_folder(site: Site, owner: str) -> None:
    kept = homes.prepare(site, owner, [])
    assert kept.folder.parent == tmp(site)
    assert homes.every(site)[0].owner == owner


def tmp(site: Site) -> Path:
    assert site.homes is not None
    return site.homes.path


def test_all_space_is_reserved(site: Site) -> None:
    kept = homes.prepare(site, "alice", [])
    status = kept.image.stat()
    assert (status.st_size, status.st_blocks * 512 >= SIZE, status.st_mode & 0o777) == (SIZE, True, 0o600)
    assert {path.stat().st_mode & 0o777 for path in (kept.folder, kept.folder.parent)} == {0o700}


def test_they_grow_with_the_setting_and_never_shrink(site: Site, tmp_path: Path) -> None:
    kept = homes.prepare(site, "alice", ["carol"])
    inside(kept, tmp_path / "mnt", "echo mine > home/carol/work")
    larger = replace(site, homes=HomesSetting(tmp(site), 2 * SIZE))
    kept = homes.prepare(larger, "alice", ["carol"])
    assert kept.size == kept.image.stat().st_size == 2 * SIZE
    blocks = inside(kept, tmp_path / "mnt", "cat home/carol/work; stat -f -c '%b %S' .").split()
    assert blocks[0] == "mine"
    assert SIZE < int(blocks[1]) * int(blocks[2]) < 2 * SIZE
    assert homes.prepare(site, "alice", ["carol"]).size == 2 * SIZE


def test_they_do_not_grow_under_a_server(site: Site, tmp_path: Path) -> None:
    kept = homes.prepare(site, "alice", ["carol"])
    words = f'mount -o loop "{kept.image}" "{tmp_path}" && echo up && read -r _'
    with subprocess.Popen(
        [*PRIVATE, "sh", "-c", words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdin and server.stdout  # noqa: PT018
        assert server.stdout.readline() == "up\n"
        larger = replace(site, homes=HomesSetting(tmp(site), 2 * SIZE))
        # A user may come all the same: what is mounted twice is one file system.
        assert homes.prepare(larger, "alice", ["carol", "dave"]).size == SIZE
        assert Path(f"/proc/{server.pid}/root{tmp_path}/home/dave").stat().st_uid == 1001
        server.stdin.write("\n")


def test_without_space_nothing_is_left_that_counts(site: Site) -> None:
    full = replace(site, homes=HomesSetting(tmp(site), 10**15))
    with pytest.raises(
        VclustError, match=r"homes cannot be kept there: .*\n  hint: each owner's take 1000TB"
    ):
        homes.prepare(full, "alice", ["carol"])
    assert not (tmp(site) / "alice/homes.ext4").exists()
    assert homes.prepare(site, "alice", ["carol"]).size == SIZE


def test_a_home_that_was_interrupted_is_made_again(site: Site, tmp_path: Path) -> None:
    kept = homes.prepare(site, "alice", ["carol"])
    inside(kept, tmp_path / "mnt", "rm -r home/carol; mkdir -p new/carol/half")
    record = kept.folder / "users.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "made": []}))
    homes.prepare(site, "alice", ["dave", "carol"])
    assert "half" not in inside(kept, tmp_path / "mnt", "ls -A home/carol; stat -c %u home/carol; ls new")


def test_what_is_written_down_must_be_there(site: Site) -> None:
    """Numbers that are guessed could give somebody's files to somebody else."""
    kept = homes.prepare(site, "alice", ["carol"])
    (kept.folder / "users.json").write_text("{")
    with pytest.raises(VclustError, match=r"users.json: got .*, expected the numbers of the users"):
        homes.prepare(site, "alice", ["dave"])


def test_the_sites_folder_keeps_its_mode_and_what_was_interrupted_is_taken_up(site: Site) -> None:
    tmp(site).mkdir(parents=True)
    tmp(site).chmod(0o755)
    (tmp(site) / "alice").mkdir(mode=0o700)
    assert homes.prepare(site, "alice", ["carol"]).users == {"carol": 1000}
    assert tmp(site).stat().st_mode & 0o777 == 0o755
    (tmp(site) / "alice/users.json").unlink()  # whose the files are cannot be guessed
    with pytest.raises(VclustError, match=r"users.json: got .*No such file"):
        homes.prepare(site, "alice", ["carol"])


def test_the_end_of_them(site: Site) -> None:
    kept = homes.prepare(site, "alice", ["carol"])
    with pytest.raises(
        RequestError, match=r"alice: these homes are in use by one, two\n.*vclust destroy one; vclust"
    ):
        homes.remove(site, "alice", lambda: ["one", "two"])
    assert kept.image.exists()
    homes.remove(site, "alice", lambda: [])
    assert (homes.every(site), list(tmp(site).iterdir())) == ([], [])


def test_a_site_without_homes(tmp_path: Path) -> None:
    site = Site(root=tmp_path)
    assert homes.every(site) == []
    with pytest.raises(RequestError, match=r"this site keeps no homes"):
        homes.require(site)
    with pytest.raises(RequestError, match=r"this site keeps no homes"):
        homes.prepare(site, "alice", [])


def test_a_site_manager_without_the_programs(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name, path: None if name == "ganesha.nfsd" else name)
    with pytest.raises(VclustError, match=r"lacks nfs-ganesha-vfs\n.*vclust site rollout .*apt-get install"):
        homes.require(site)

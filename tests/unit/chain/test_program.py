"""The one file that hosts are shipped."""

import base64
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_module import call

from vclust_py.chain.program import zipapp
from vclust_py.site import PROJECT


def test_the_same_source_makes_the_same_bytes(tmp_path: Path) -> None:
    """In another checkout, at another time."""
    for package in ("vclust_py", "vclust_hop"):
        shutil.copytree(PROJECT / package, tmp_path / package, copy_function=shutil.copyfile)
    code = "import sys; from vclust_py.chain import program; sys.stdout.buffer.write(program.zipapp())"
    made = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, check=True)
    assert made.stdout == zipapp()
    (tmp_path / "vclust_hop/store.py").write_text("# another\n")
    other = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, check=True)
    assert other.stdout != zipapp()


def test_it_runs_by_itself(tmp_path: Path) -> None:
    """In a Python that knows nothing of this project, and from any folder."""
    (tmp_path / "hop.pyz").write_bytes(zipapp())
    argv = ["/usr/bin/python3", "-I", "-S", "hop.pyz", "--help"]
    helped = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "--folder" in helped.stdout
    loaded = (
        "import sys\nsys.path.insert(0, 'hop.pyz')\nimport vclust_hop.__main__\n"
        "print(*(module.__file__ for name, module in sys.modules.items() if name.startswith('vclust')))"
    )
    argv = ["/usr/bin/python3", "-I", "-S", "-c", loaded]
    listed = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert all(path.startswith("hop.pyz/") for path in listed.stdout.split())


def test_a_second_roll_out_changes_nothing(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("files are root's")
    lookup = runpy.run_path(str(PROJECT / "plugins/lookup/vclust_hop.py"))["LookupModule"]
    path = tmp_path / "hop.pyz"

    def rolled_out(check: bool = False) -> dict[str, object]:
        (content,) = lookup().run([])
        file = {"path": str(path), "content": content, "base64": True, "mode": "0644"}
        return call("vclust_files", {"files": [file]}, check=check)

    would = rolled_out(check=True)
    assert (would["changed"], path.exists()) == (True, False)
    real = rolled_out()
    assert (real["changed"], real["diff"]) == (True, would["diff"])
    assert path.read_bytes() == zipapp()
    assert not rolled_out()["changed"]
    assert not rolled_out(check=True)["changed"]
    path.write_bytes(path.read_bytes()[:-1])
    assert rolled_out()["paths"] == [str(path)]
    broken = call(
        "vclust_files", {"files": [{"path": str(path), "content": "%", "base64": True, "mode": "0644"}]}
    )
    assert broken["failed"]
    assert base64.b64decode(lookup().run([])[0]) == path.read_bytes()

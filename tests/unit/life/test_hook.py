"""The site's own program, really run."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vclust_py.life import hook
from vclust_py.run import run
from vclust_py.site import Site

CLUSTER: Any = SimpleNamespace(
    name="one",
    owner="alice",
    project="bio",
    ends=5.0,
    request=SimpleNamespace(software=SimpleNamespace(users=[SimpleNamespace(name="ann")])),
)


def program(folder: Path, text: str) -> Path:
    path = folder / "hook"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_it_is_told_by_one_json_object(tmp_path: Path) -> None:
    told = tmp_path / "told"
    site = Site(hook=program(tmp_path, f"cat > {told}"))
    hook.tell(run, site, "lease-warning", CLUSTER, left=600)
    found = json.loads(told.read_text())
    assert found.pop("time") > 1e9
    assert found == {
        "event": "lease-warning",
        "cluster": "one",
        "owner": "alice",
        "project": "bio",
        "users": ["ann"],
        "ends": 5.0,
        "left": 600,
    }


def test_one_that_fails_or_is_not_there_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for path in (program(tmp_path, "echo no mail >&2; exit 3"), tmp_path / "none"):
        hook.tell(run, Site(hook=path), "lease-ended", CLUSTER)
        assert str(path) in caplog.text
    assert "no mail" in caplog.text
    hook.tell(run, Site(), "lease-ended", CLUSTER)

"""Whether KVM is used: with emulators that are scripts, each as fast as it is said to be."""

from pathlib import Path

import pytest

from vclust_py.hypervisor import kvm

pytestmark = pytest.mark.skipif(not Path("/dev/kvm").exists(), reason="without /dev/kvm nothing is tried")


@pytest.mark.parametrize(
    ("seconds", "emulated", "status", "works"),
    [
        (0, 0, 33, True),
        (0, 0, 0, False),  # left without the guest's word
        (0, 0, 1, False),
        (1.5, 5, 33, True),  # a busy machine
        (1.5, 0, 33, False),  # KVM that is emulated itself
        (9, 9, 33, False),
    ],
)
def test_what_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, emulated: float, status: int, works: bool
) -> None:
    emulator = tmp_path / "emulator"
    emulator.write_text(
        f"#!/bin/sh\ncase $2 in kvm) sleep {seconds}; exit {status} ;; *) sleep {emulated}; exit 33 ;; esac\n"
    )
    emulator.chmod(0o755)
    monkeypatch.setattr(kvm, "_USER", "no-such-user")
    monkeypatch.setattr(kvm, "_TIMEOUT", 3.0)
    monkeypatch.setattr(kvm, "_MEMORY", tmp_path)
    assert kvm.works(str(emulator)) == works
    assert [path.read_text() for path in tmp_path.glob("kvm-*")] == ["yes" if works else "no"]

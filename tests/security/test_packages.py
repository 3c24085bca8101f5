"""What a hostile package can do while it is built into a layer: its maintainer script tries, for real."""

import os
import platform
import subprocess
from pathlib import Path

import pytest
from layers import in_layer, leftovers, lock_of, made, minimal, put_back, quiet

from vclust_py.errors import VclustError
from vclust_py.image import Image, builder, sandbox
from vclust_py.image.builder import ensure_layer
from vclust_py.image.store import fetch
from vclust_py.site import Site

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root"),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="system calls are tried by number"),
]
__all__ = ["made", "minimal"]  # fixtures

# Each line prints "NAME done" where it should have been refused.  A file handle: 8 bytes of type 1, inode 2, any
# generation; inode 2 is the root of an ext4 file system.
ATTEMPTS = r"""#!/usr/bin/perl
use strict;
open(my $out, '>>', '/root/attempts') or die;
sub tried { my ($name, $done) = @_; print $out "$name ", ($done ? 'done' : 'refused'), "\n" }
my $name;
my $handle = pack('IiII', 8, 1, 2, 0);
for my $place ('/run/packages', '/', '/dev/null', '/proc/self/fd/0') {
    open(my $file, '<', $place) or opendir(my $folder, $place) or next;
    my $number = defined $file ? fileno($file) : 3;
    tried("handle of $place", syscall(304, $number, $handle, 0) >= 0);
}
for my $setting (qw(kernel/core_pattern kernel/modprobe vm/overcommit_memory net/ipv4/ip_forward)) {
    next unless -e "/proc/sys/$setting";
    tried("set $setting", open(my $file, '>', "/proc/sys/$setting"));
}
tried('sysrq', open(my $file, '>', '/proc/sysrq-trigger'));
my %calls = (
    unshare => [272, 0x10000000], 'mount' => [165, 'x', '/mnt', 'tmpfs', 0, 0], setns => [308, 0, 0],
    clone => [56, 0x10000011, 0, 0, 0, 0], bpf => [321, 0, 0, 0], keyctl => [250, 0, -3, 1],
    ptrace => [101, 0, 0, 0, 0],
    perf => [298, 0, 0, 0, 0, 0], userfaultfd => [323, 0], io_uring => [425, 8, 0], module => [313, 0, '', 0],
    reboot => [169, 0, 0, 0, 0], swapoff => [168, '/x'], chroot_handle => [303, 0, '/', '', 0, 0],
);
for my $call (sort keys %calls) {
    my ($number, @words) = @{$calls{$call}};
    $! = 0;
    my $result = syscall($number, @words);
    exit 0 if $call eq 'clone' && $result == 0;
    tried("call $call", $result >= 0 || $! != 1);  # EPERM, before anything else is looked at
}
for my $family (0, 3 .. 9, 11 .. 15, 17, 38, 40, 44) {
    my $socket;
    tried("socket of family $family", socket($socket, $family, 2, 0) || socket($socket, $family, 5, 0));
}
tried('raw socket', socket(my $raw, 2, 3, 1));
my $disk = '/root/disk';
tried('device', syscall(133, $disk, 060600, 8 << 8) == 0);
tried('write a package', open(my $package, '>>', (glob '/run/packages/*.deb')[0]));
tried('a setting of the machine in /sys', -e '/sys/kernel');
open(my $limits, '<', '/proc/self/limits');
tried('core dumps', grep(/^Max core file size +[^1 ]/, <$limits>));
exit 0;
"""


def with_script(site: Site, folder: Path, text: str) -> object:
    """The lock of a package whose script `postinst` is `text`."""
    lock = lock_of(site, "hello")
    (copy,) = fetch(site, lock, quiet)
    subprocess.run(["dpkg-deb", "-R", copy, folder / "bad"], check=True)
    (folder / "bad/DEBIAN/postinst").write_text(text)
    put_back(folder / "bad", copy)
    return lock


def test_nothing_a_package_tries_leads_out(made: tuple[Site, Image], tmp_path: Path) -> None:
    site, base = made
    before = Path("/proc/sys/kernel/core_pattern").read_text()
    layer = ensure_layer(site, with_script(site, tmp_path, ATTEMPTS), base, (), quiet)
    attempts = in_layer(layer, tmp_path, "cat", "/root/attempts").splitlines()
    assert len(attempts) > 35
    assert "\n".join(line for line in attempts if not line.endswith(" refused")) == ""
    assert Path("/proc/sys/kernel/core_pattern").read_text() == before


def test_a_package_that_multiplies_is_stopped(
    made: tuple[Site, Image], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, base = made
    monkeypatch.setattr(sandbox, "PROCESSES", 100)
    script = """#!/usr/bin/perl
my $n = 0;
for (1 .. 500) { my $child = fork; last if !defined $child; $n++; sleep 60, exit unless $child }
exit($n > 100 ? 0 : 9);
"""
    with pytest.raises(VclustError, match="exit status 9"):
        ensure_layer(site, with_script(site, tmp_path, script), base, (), quiet)
    assert leftovers(tmp_path) == []


def test_a_package_that_takes_all_memory_is_stopped(
    made: tuple[Site, Image], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, base = made
    monkeypatch.setattr(sandbox, "MEMORY", 256 << 20)
    script = "#!/usr/bin/perl\nmy @all; push @all, 'x' x (1 << 24) for 1 .. 64; exit 0;\n"
    with pytest.raises(VclustError, match="build-layer"):
        ensure_layer(site, with_script(site, tmp_path, script), base, (), quiet)
    assert leftovers(tmp_path) == []


def test_a_package_that_does_not_end_is_stopped(
    made: tuple[Site, Image], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, base = made
    lock = with_script(site, tmp_path, "#!/bin/sh\nexec sleep 1000\n")
    monkeypatch.setattr(builder, "_LONGEST", 5.0)
    with pytest.raises(VclustError, match="not done after 5 s"):
        ensure_layer(site, lock, base, (), quiet)
    assert leftovers(tmp_path) == []

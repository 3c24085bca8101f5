"""The cluster's volume in its first node: made into a file system where it is empty, and mounted at every start."""

import shlex

LABEL = "vclust-volume"
_SCRIPT = r"""#!/bin/sh
set -eu
find_volume() { device=$(blkid -c /dev/null -L @LABEL@ || true); }
find_volume
if [ -z "$device" ]; then
    # Only a disk that is all zeros where file systems and partition tables begin is made into one.
    for disk in /dev/vd[a-z] /dev/xvd[a-z]; do
        [ -b "$disk" ] || continue
        [ "$(head -c 1048576 "$disk" | tr -d '\0' | head -c 1 | wc -c)" = 0 ] || continue
        mkfs.ext4 -q -L @LABEL@ "$disk"
        mkdir -p /run/vclust-volume
        mount "$disk" /run/vclust-volume
        chmod 1777 /run/vclust-volume # for all users of the cluster, as /tmp is
        umount /run/vclust-volume
        break
    done
    find_volume
fi
if [ -z "$device" ]; then
    echo "the volume is not there, or somebody has made something else of it"
    exit 1
fi
mkdir -p @FOLDER@ /etc/systemd/system/local-fs.target.wants
# Not in fstab: systemd would wait for udev to announce a disk.
cat >/etc/systemd/system/vclust-volume.service <<'END'
[Unit]
Description=The volume of the cluster
DefaultDependencies=no
After=systemd-remount-fs.service
Before=local-fs.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=mount -o noatime,nodev LABEL=@LABEL@ @FOLDER@
[Install]
WantedBy=local-fs.target
END
ln -sf ../vclust-volume.service /etc/systemd/system/local-fs.target.wants/vclust-volume.service
"""


def mount_point(name: str) -> str:
    """Where the volume of that name is, in the node."""
    return f"/srv/{name}"


def script(name: str) -> str:
    """The step for the first node; `name` is the volume's."""
    return _SCRIPT.replace("@LABEL@", LABEL).replace("@FOLDER@", shlex.quote(mount_point(name)))

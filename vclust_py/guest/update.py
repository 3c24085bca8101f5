"""A later generation of the cluster's disk brought to a node that runs: a script for root's shell there.

Names, trust, users and their keys become what the new generation says.  What a user has made their own stays: the home
of one who is gone, and authorized keys that the request has not changed since the node was given them.  It can be given
again at any time: what says that a node has the generation is written last.
"""

import base64
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from vclust_py.errors import VclustError
from vclust_py.guest import cluster_disk
from vclust_py.guest.cluster_disk import ClusterIdentity
from vclust_py.guest.tar import File, archive, packed
from vclust_py.serving import Offer

_PARTS = ("passwd", "shadow", "group", "groups", "environment")
"""Files of the disk that it goes by, beside what is extracted; the others are for nodes that are being made."""
_GENERATION, _EXPECTED = "etc/vclust/generation", "var/lib/vclust/expected"

REACHED = "vclust: reached"
"""What a node says before anything of it is changed."""

# Which services run files that packages have replaced, and their restart.  Not those that a running system does not
# bear, nor consoles: for them the node must be restarted.  $proc and $kept are paths.
RESTART = r"""
stale() {
    grep -l -s -E ' /(usr|lib|opt|s?bin).* \(deleted\)$' "$proc"/[0-9]*/maps | sed 's/maps$/cgroup/' |
        xargs -r cat 2> /dev/null |
        sed -n 's,^0::/system\.slice/\([^/]*\.slice/\)*\([^/]*\.service\)\(/.*\)*$,\2,p' |
        grep -v -E '^(dbus|systemd-logind|vclust-.*|(serial-)?getty@.*)\.service$' | sort -u
}
restart_stale() {
    if grep -q -s -E ' /(usr|lib).* \(deleted\)$' "$proc/1/maps"; then
        systemctl daemon-reexec
    fi
    # They are written down: who is interrupted here has to find those again that do not run.
    { stale; cat "$kept" 2> /dev/null; } | sort -u > "$kept.new" && mv "$kept.new" "$kept"
    while read -r unit; do
        systemctl restart "$unit" < /dev/null || :
    done < "$kept"
    [ ! -s "$kept" ] || sleep 2 # a simple service counts as started before it has read its settings
    while read -r unit; do
        state=$(systemctl is-active "$unit" < /dev/null) || :
        case $state in # some end by themselves when nobody needs them: they are inactive
            failed | activating | maintenance) fail "service $unit: does not run with its new packages" ;;
        esac
    done < "$kept"
    rm "$kept"
}
"""

# $root is for tests: in a node it is empty.  The agent's shell is busybox': what that has of tools costs an emulated
# node a fork, any other program some 0.04 s.  So the programs that are to be the system's own have their paths.  By a
# login it is /bin/sh.  Braces: a script that was cut off does nothing.
_SCRIPT = r"""{
set -eu
umask 077
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
root=${VCLUST_ROOT:-}
work=$(mktemp -d)
packages=${VCLUST_PACKAGES:-}
trap 'rm -rf "$work" $packages' EXIT
fail() { echo "vclust: failed $*"; exit 1; }
exec 9> "$root/var/lib/vclust/update.lock"
flock 9
generation=@GENERATION@
read -r told < "$root/etc/vclust/generation"
[ "$told" -lt $generation ] || { echo "vclust: generation $generation"; exit 0; }
base64 -d << 'END' | tar -x -z -C "$work"
@PARTS@
END

@RESTART@
wants() { # units that something starts at boot
    for unit in "$root"/etc/systemd/system/*.wants/*; do echo "${unit##*/}"; done
}
services() { # what systemd would read
    for folder in "$root/usr/lib/systemd/system" "$root/etc/systemd/system" "$root/etc/init.d"; do
        echo "$folder"/*
    done
}
wanted=$root/var/lib/vclust/wanted # both as before the first try to come to this generation
if [ -n "$packages" ] || [ -s "$work/new" ]; then
    [ -e "$wanted" ] || { { wants; services; } > "$wanted.new" && mv "$wanted.new" "$wanted"; }
fi
if [ -n "$packages" ]; then
    output=$(umask 022; /bin/sh "$root/usr/libexec/vclust/install-packages" "$packages" 2>&1 < /dev/null) ||
        fail "packages: $(printf '%s' "$output" | tail -n 1)"
    output=$(DEBIAN_FRONTEND=noninteractive xargs -r /usr/bin/dpkg --root="$root/" --purge < "$packages/remove" 2>&1) ||
        fail "packages: $(printf '%s' "$output" | tail -n 1)"
fi

# The difference between what the node was told last and what it is told now: others (the nodes), added and gone (users
# that only one of the two knows), renewed (users whose keys the request has changed), taken (another has that account).
awk -v work="$work" -v etc="$root/etc" '
    function wrong(what) { print what > (work "/taken"); exit }
    FILENAME == ARGV[1] {
        if ($1 == "host") nodes[$2]
        if ($1 == "user") before[$2] = $3
        if ($1 == "key") keys[$2] = $3
        next
    }
    $1 == "host" { if (!($2 in nodes)) others = 1; delete nodes[$2] }
    $1 == "user" {
        after[$2]
        if (!($2 in before)) { uid[$2] = $3; name[$3] = $2; print $2, $3 > (work "/added") }
    }
    $1 == "key" { now[$2] = $3 }
    END {
        for (node in nodes) others = 1
        if (others) print "yes" > (work "/others")
        for (user in before) if (!(user in after)) print user, before[user] > (work "/gone")
        for (user in after)
            if ((user in uid) || !(user in keys) || keys[user] != now[user]) print user > (work "/renewed")
        while ((getline line < (etc "/passwd")) > 0) {
            split(line, f, ":")
            if ((f[1] in uid) && f[3] != uid[f[1]]) wrong("user " f[1] ": the node has an account of that name")
            if ((f[3] in name) && f[1] != name[f[3]])
                wrong("user " name[f[3]] ": the node has an account of its number, " f[1])
        }
    }' "$root/var/lib/vclust/expected" "$work/expected"
if [ -e "$work/taken" ]; then
    read -r taken < "$work/taken"
    fail "$taken"
fi
# An interrupted try may have got as far as the file that says which nodes the node knows.
[ ! -e "$work/others" ] || : > "$root/var/lib/vclust/others"

end_processes() { # UID
    grep -l -s "^Uid:[[:space:]]*$1[[:space:]]" /proc/[0-9]*/status | sed 's,^/proc/\([0-9]*\)/.*,\1,' |
        xargs -r kill -9 2> /dev/null || true
}

if [ -e "$work/gone" ]; then
    while read -r user uid; do
        [ -n "$root" ] || end_processes "$uid"
    done < "$work/gone"
fi
if [ -e "$work/gone" ] || [ -e "$work/added" ]; then # in new files with owner and mode of the old ones
    set -- passwd shadow group
    [ ! -e "$root/etc/gshadow" ] || set -- "$@" gshadow
    rm -rf "$root/etc/.vclust"
    mkdir "$root/etc/.vclust"
    (cd "$root/etc" && cp -p "$@" .vclust/)
    awk -v work="$work" -v etc="$root/etc" 'BEGIN {
        while ((getline line < (work "/gone")) > 0) { split(line, word, " "); gone[word[1]] }
        while ((getline line < (work "/added")) > 0) { split(line, word, " "); added[word[1]] }
        while ((getline line < (work "/groups")) > 0) {
            split(line, word, " ")
            if (word[2] in added) joins[word[1]] = joins[word[1]] "," word[2]
        }
        for (i = 1; i < ARGC; i++) {
            new = etc "/.vclust/" ARGV[i]
            while ((getline line < (etc "/" ARGV[i])) > 0) {
                count = split(line, f, ":")
                if ((f[1] in gone) || (f[1] in added)) continue
                if (ARGV[i] ~ /^g/) {
                    n = split(f[4] joins[f[1]], user, ",")
                    f[4] = ""
                    for (j = 1; j <= n; j++)
                        if (user[j] != "" && !(user[j] in gone) && ("," f[4] ",") !~ ("," user[j] ","))
                            f[4] = f[4] (f[4] == "" ? "" : ",") user[j]
                    line = f[1]
                    for (j = 2; j <= count; j++) line = line ":" f[j]
                }
                print line > new
            }
            while (ARGV[i] != "gshadow" && (getline line < (work "/" ARGV[i])) > 0) {
                split(line, f, ":")
                if (f[1] in added) print line > new
            }
        } }' "$@"
    mv "$root"/etc/.vclust/* "$root/etc/"
    rmdir "$root/etc/.vclust"
fi

# Where homes are on another node's disk or the site's (meta packages home, home-site) they are written there.
if [ -e "$work/renewed" ] && [ ! -e "$root/etc/systemd/system/home.automount" ]; then
    while read -r user; do
        # Not busybox' tar: that would follow a link that a user has made.
        [ ! -e "$work/home-$user.tar" ] || /bin/tar -x -p -f "$work/home-$user.tar" -C "$root/" --numeric-owner
    done < "$work/renewed"
    if [ -e "$work/added" ]; then
        while read -r user uid; do
            for file in "$root"/etc/skel/.[a-z]*; do
                target=$root/home/$user/${file##*/}
                [ ! -e "$file" ] || [ -e "$target" ] || { cp "$file" "$target"; chown "$uid:$uid" "$target"; }
            done
        done < "$work/added"
    fi
fi
# What the node was told is the last file; the generation comes when all is done.
tar -x -f "$work/files.tar" -C "$root/" --numeric-owner
[ @SUDOERS@ = yes ] || [ ! -e "$root/etc/sudoers.d/vclust" ] || rm "$root/etc/sudoers.d/vclust"
run_scripts() { # FILE: names of scripts, which are run in this order
    while read -r script; do
        . "$work/environment"
        read -r node < "$root/etc/hostname"
        case $script in *.first) [ "$node" = "$VCLUST_FIRST" ] || continue ;; esac
        output=$(umask 022 # as when a node is made
            /usr/bin/env -i PATH="$PATH" HOME=/root LANG=C.UTF-8 VCLUST_ROOT="$root" /bin/sh -c "set -a
            . '$work/environment'; VCLUST_NODE=$node; set +a; exec /bin/sh -e '$work/$script'" 2>&1 < /dev/null) ||
            fail "$script: $(printf '%s' "$output" | tail -n 1)"
    done < "$1"
}
run_scripts "$work/new"
if [ -e "$wanted" ]; then # what has come starts as it will at the next boot
    units=$(wants | grep -vxF -f "$wanted" | sort -u) || :
    # Not where packages have brought no units: it takes an emulated node more than most of them do.
    changed=$units
    [ ! -s "$work/new" ] && [ ! -e "$packages/replaces" ] || changed=yes
    [ "$(services)" = "$(grep ^/ "$wanted")" ] || changed=yes
    [ -n "$root" ] || [ -z "$changed" ] || systemctl daemon-reload
    [ -n "$root" ] || [ -z "$units" ] || systemctl start --no-block $units || :
    rm "$wanted"
fi
if [ -n "$packages" ] && [ -e "$packages/replaces" ] && [ -z "$root" ]; then
    proc=/proc kept=/var/lib/vclust/restarting
    restart_stale
fi
if [ -e "$root/var/lib/vclust/others" ]; then # services are told of other nodes
    run_scripts "$work/scripts"
    rm "$root/var/lib/vclust/others"
fi
# A node that dies now has all of this on its disk when it is started again, or comes to it once more.
[ -z "$packages" ] || rm -rf "$packages" # not written any more
[ -n "$root" ] || sync -f /
(umask 022; echo $generation > "$root/etc/vclust/generation.new")
mv "$root/etc/vclust/generation.new" "$root/etc/vclust/generation"
echo "vclust: generation $generation"
exit 0
}
"""

# No program's arguments have the token: others in the node could read it there.
_FETCH = r"""
umask 077
VCLUST_PACKAGES=$(mktemp -d -p /var/tmp) && export VCLUST_PACKAGES || exit 1
cat > "$VCLUST_PACKAGES/token" << 'END'
@TOKEN@
END
why=$(timeout 3000 bash -c 'cd "$VCLUST_PACKAGES" && exec 3<> /dev/tcp/@ADDRESS@/@PORT@ &&
    read -r word < token && echo "$word" >&3 &&
    dd bs=256k iflag=fullblock,count_bytes count=@SIZE@ status=none <&3 > all.tar' 2>&1 < /dev/null) || :
case $(b2sum "$VCLUST_PACKAGES/all.tar" 2> /dev/null) in
    "@DIGEST@ "*) why=$(tar -x -C "$VCLUST_PACKAGES" -f "$VCLUST_PACKAGES/all.tar" 2>&1) ;;
    *) false ;;
esac || {
    rm -rf "$VCLUST_PACKAGES"
    echo "vclust: failed packages: cannot be fetched from @ADDRESS@:@PORT@: $(echo "${why:-cut off}" | tail -n 1)"
    exit 1
}
rm "$VCLUST_PACKAGES/all.tar" "$VCLUST_PACKAGES/token"
"""


def script(
    cluster: ClusterIdentity, changes: Mapping[str, str], new: Mapping[str, str] = MappingProxyType({})
) -> str:
    """What root's shell in a node is given.

    `changes` are those of `cluster_disk.changes`: scripts that run where the cluster has other nodes than the node was
    told of.  `new` are scripts that run in any case.
    """
    parts = cluster_disk.lines(cluster)
    texts = {name: parts[name] for name in _PARTS} | dict(changes) | dict(new)
    texts |= {
        name: "".join(f"{one}\n" for one in known) for name, known in (("scripts", changes), ("new", new))
    }
    archives, sudoers = _archives(cluster_disk.files(cluster))
    content = {name: text.encode() for name, text in texts.items()} | archives
    text = base64.encodebytes(packed(File(name, data, 0o600) for name, data in content.items()))
    words = {
        "@RESTART@": RESTART.strip(),
        "@GENERATION@": str(cluster.generation),
        "@SUDOERS@": "yes" if sudoers else "no",
        "@PARTS@": text.decode("ascii").rstrip("\n"),
    }
    whole = _SCRIPT
    for word, value in words.items():
        whole = whole.replace(word, value)
    return whole


def _archives(files: Sequence[File]) -> tuple[dict[str, bytes], bool]:
    """The files in archives: those of each user's home, all others; and what is told last, for comparison.

    Also whether some users need no password to become root.
    """
    homes = dict[str, list[File]]()
    others = list[File]()
    for file in files:
        if file.path.startswith("home/"):
            homes.setdefault(file.path.split("/")[1], []).append(file)
        elif file.path not in (_GENERATION, _EXPECTED):
            others.append(file)
    (expected,) = (file for file in files if file.path == _EXPECTED)
    found = {f"home-{user}.tar": archive(of_user) for user, of_user in homes.items()}
    found |= {"files.tar": archive([*others, expected]), "expected": expected.data or b""}
    return found, any(file.path == cluster_disk.SUDOERS for file in files)


def fetch(offer: Offer) -> str:
    """What comes before `script` where packages do: a tar file, which the node fetches from its router.

    The packages are where VCLUST_PACKAGES says.  They are on the disk: /tmp may be memory.
    """
    words = {
        "@TOKEN@": offer.token,
        "@ADDRESS@": offer.address,
        "@PORT@": str(offer.port),
        "@SIZE@": str(offer.size),
        "@DIGEST@": offer.digest,
    }
    text = _FETCH
    for word, value in words.items():
        text = text.replace(word, value)
    return text


def judge(node: str, output: str, generation: int) -> None:
    """Raises VclustError unless the script has said that the node has the generation."""
    lines = output.strip().splitlines() or ["nothing"]
    if lines[-1] != f"vclust: generation {generation}":
        raise VclustError(f"{node}: was not changed: {lines[-1].removeprefix('vclust: failed ')}")

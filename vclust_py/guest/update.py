"""A later generation of the cluster's disk brought to a node that runs: a script for root's shell there.

Names, trust, users and their keys become what the new generation says.  What a user has made their own stays: the home
of one who is gone, and authorized keys that the request has not changed since the node was given them.  It can be given
again at any time: what says that a node has the generation is written last.
"""

import base64
from collections.abc import Mapping
from types import MappingProxyType

from vclust_py.errors import VclustError
from vclust_py.guest.tar import File, packed
from vclust_py.serving import Offer

_PARTS = ("files.tar.gz", "passwd", "shadow", "group", "groups", "environment")
"""Files of the disk that it goes by; the others are for nodes that are being made."""

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

# $root is for tests: in a node it is empty.  A handful of processes: each costs some 0.05 s when emulated.
_SCRIPT = r"""
set -eu
umask 077
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
root=${VCLUST_ROOT:-}
work=$(mktemp -d)
packages=${VCLUST_PACKAGES:-}
trap 'rm -rf "$work" $packages' EXIT
fail() { echo "vclust: failed $*"; exit 1; }
base64 -d > "$work/parts.tar.gz" << 'END'
@PARTS@
END
tar -x -z -f "$work/parts.tar.gz" -C "$work"
exec 9> "$root/var/lib/vclust/update.lock"
flock 9
generation=@GENERATION@
old=$root/var/lib/vclust/expected new=$work/expected
[ "$(cat "$root/etc/vclust/generation")" -lt $generation ] || { echo "vclust: generation $generation"; exit 0; }
tar -x -z -O -f "$work/files.tar.gz" var/lib/vclust/expected > "$new"

@RESTART@
wants() { # units that something starts at boot
    for unit in "$root"/etc/systemd/system/*.wants/*; do echo "${unit##*/}"; done
}
wanted=$root/var/lib/vclust/wanted # as before the first try to come to this generation
if [ -n "$packages" ] || [ -s "$work/new" ]; then
    [ -e "$wanted" ] || { wants > "$wanted.new" && mv "$wanted.new" "$wanted"; }
fi
if [ -n "$packages" ]; then
    output=$(umask 022; sh "$root/usr/libexec/vclust/install-packages" "$packages" 2>&1 < /dev/null) ||
        fail "packages: $(printf '%s' "$output" | tail -n 1)"
    output=$(DEBIAN_FRONTEND=noninteractive xargs -r dpkg --root="$root/" --purge < "$packages/remove" 2>&1) ||
        fail "packages: $(printf '%s' "$output" | tail -n 1)"
fi

others=$(awk 'FILENAME == ARGV[1] { if ($1 == "host") before[$2]; next }
    $1 == "host" { if (!($2 in before)) { print "yes"; exit } delete before[$2] }
    END { for (name in before) { print "yes"; exit } }' "$old" "$new")

# added, gone: users that only one of the two knows; same: those whose keys the request has not changed.
awk -v work="$work" '
    FILENAME == ARGV[1] { if ($1 == "user") before[$2] = $3; if ($1 == "key") keys[$2] = $3; next }
    $1 == "user" { after[$2]; if (!($2 in before)) print $2, $3 > (work "/added") }
    $1 == "key" && keys[$2] == $3 { print "home/" $2 > (work "/same"); print "home/" $2 "/*" > (work "/same") }
    END { for (user in before) if (!(user in after)) print user, before[user] > (work "/gone") }
    ' "$old" "$new"
touch "$work/added" "$work/gone" "$work/same"

taken=$(awk 'FILENAME == ARGV[1] { name[$1] = $2; number[$2] = $1; next }
    { split($0, f, ":") }
    f[1] in name && f[3] != name[f[1]] { print "user " f[1] ": the node has an account of that name"; exit }
    f[3] in number && f[1] != number[f[3]] {
        print "user " number[f[3]] ": the node has an account of its number, " f[1]; exit }
    ' "$work/added" "$root/etc/passwd")
[ -z "$taken" ] || fail "$taken"

put() { # FILE: what is on standard input takes the place of a file of /etc, with its owner and mode
    cp -p "$root/etc/$1" "$root/etc/$1.vclust"
    cat > "$root/etc/$1.vclust"
    mv "$root/etc/$1.vclust" "$root/etc/$1"
}

end_processes() { # UID
    awk -v uid="$1" '/^Uid:/ && $2 == uid { split(FILENAME, path, "/"); print path[3] }' /proc/[0-9]*/status \
        2> /dev/null | xargs -r kill -9 2> /dev/null || true
}

while read -r user uid; do
    [ -n "$root" ] || end_processes "$uid"
    for file in passwd shadow group gshadow; do
        [ -e "$root/etc/$file" ] || continue
        awk -F : -v OFS=: -v user="$user" -v file="$file" '
            $1 == user { next }
            file ~ /group|gshadow/ { n = split($4, members, ","); $4 = ""
                for (i = 1; i <= n; i++) if (members[i] != user) $4 = $4 ($4 == "" ? "" : ",") members[i] }
            { print }' "$root/etc/$file" > "$work/changed"
        put "$file" < "$work/changed"
    done
done < "$work/gone"

if [ -s "$work/added" ]; then
    for file in passwd shadow group; do
        awk -F : 'FILENAME == ARGV[1] { split($0, f, " "); added[f[1]]; next }
            FILENAME == ARGV[2] { if (!($1 in added)) print; next }
            $1 in added' "$work/added" "$root/etc/$file" "$work/$file" > "$work/changed"
        put "$file" < "$work/changed"
    done
    for file in group gshadow; do
        [ -e "$root/etc/$file" ] || continue
        awk 'FILENAME == ARGV[1] { added[$1]; next }
            FILENAME == ARGV[2] { if ($2 in added) add[$1] = add[$1] " " $2; next }
            { n = split($0, f, ":"); m = split(add[f[1]], users, " ")
              for (i = 1; i <= m; i++)
                  if (("," f[4] ",") !~ ("," users[i] ",")) f[4] = f[4] (f[4] == "" ? "" : ",") users[i]
              line = f[1]; for (i = 2; i <= n; i++) line = line ":" f[i]; print line }
            ' "$work/added" "$work/groups" "$root/etc/$file" > "$work/changed"
        put "$file" < "$work/changed"
    done
fi

# Where homes are on another node's disk or the site's (meta packages home, home-site) they are written there.
if [ -e "$root/etc/systemd/system/home.automount" ]; then
    echo 'home/*' >> "$work/same"
    : > "$work/added"
fi
# The generation comes last; the folders above the files are the node's own.
echo etc/vclust/generation >> "$work/same"
tar -x -z -p -f "$work/files.tar.gz" -C "$root/" --numeric-owner --wildcards --anchored --exclude-from="$work/same"
[ -e "$root/etc/sudoers.d/vclust" ] && ! tar -t -z -f "$work/files.tar.gz" | grep -q '^etc/sudoers.d/vclust$' &&
    rm "$root/etc/sudoers.d/vclust"
while read -r user uid; do
    for file in "$root"/etc/skel/.[a-z]*; do
        target=$root/home/$user/${file##*/}
        [ ! -e "$file" ] || [ -e "$target" ] || { cp "$file" "$target"; chown "$uid:$uid" "$target"; }
    done
done < "$work/added"
run_scripts() { # FILE: names of scripts, which are run in this order
    while read -r script; do
        . "$work/environment"
        case $script in *.first) [ "$(cat "$root/etc/hostname")" = "$VCLUST_FIRST" ] || continue ;; esac
        output=$(umask 022 # as when a node is made
            env -i PATH="$PATH" HOME=/root LANG=C.UTF-8 VCLUST_ROOT="$root" sh -c "set -a; . '$work/environment'
            VCLUST_NODE=$(cat "$root/etc/hostname"); set +a; exec sh -e '$work/$script'" 2>&1 < /dev/null) ||
            fail "$script: $(printf '%s' "$output" | tail -n 1)"
    done < "$1"
}
run_scripts "$work/new"
if [ -e "$wanted" ]; then # what has come starts as it will at the next boot
    units=$(wants | grep -vxF -f "$wanted" | sort -u) || :
    [ -n "$root" ] || systemctl daemon-reload
    [ -n "$root" ] || [ -z "$units" ] || systemctl start --no-block $units || :
    rm "$wanted"
fi
if [ -n "$packages" ] && [ -e "$packages/replaces" ] && [ -z "$root" ]; then
    proc=/proc kept=/var/lib/vclust/restarting
    restart_stale
fi
# Services are told of other nodes.
[ -z "$others" ] || run_scripts "$work/scripts"
# A node that dies now has all of this on its disk when it is started again, or comes to it once more.
[ -n "$root" ] || sync -f /
echo $generation > "$root/etc/vclust/generation.new"
chmod 0644 "$root/etc/vclust/generation.new"
mv "$root/etc/vclust/generation.new" "$root/etc/vclust/generation"
echo "vclust: generation $generation"
"""

# No program's arguments have the token: others in the node could read it there.
_FETCH = r"""
umask 077
VCLUST_PACKAGES=$(mktemp -d -p /var/tmp) && export VCLUST_PACKAGES || exit 1
cat > "$VCLUST_PACKAGES/token" << 'END'
@TOKEN@
END
why=$(timeout 3000 bash -c 'cd "$VCLUST_PACKAGES" && exec 3<> /dev/tcp/@ADDRESS@/@PORT@ && cat token >&3 &&
    head -c @SIZE@ <&3 > all.tar' 2>&1 < /dev/null) || :
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
    parts: Mapping[str, bytes],
    changes: Mapping[str, str],
    generation: int,
    new: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """What root's `sh -s` in a node is given.

    `parts` are those of `cluster_disk.parts`, `changes` those of `cluster_disk.changes`: scripts that run where the
    cluster has other nodes than the node was told of.  `new` are scripts that run in any case.
    """
    files = [File(name, parts[name], 0o600) for name in _PARTS]
    files += [File(name, text.encode(), 0o600) for name, text in {**changes, **new}.items()]
    for name, scripts in (("scripts", changes), ("new", new)):
        files.append(File(name, "".join(f"{one}\n" for one in scripts).encode(), 0o600))
    text = base64.encodebytes(packed(files)).decode("ascii").rstrip("\n")
    whole = _SCRIPT.replace("@RESTART@", RESTART.strip())
    return whole.replace("@PARTS@", text).replace("@GENERATION@", str(generation))


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

"""Who may talk to whom in a site: its certificate authority, the site manager's key, its hosts' certificates.

All of it is made by the roll-out (playbooks/site.yml).  Private keys are made where they are used and stay there:
a host sends a signing request (CSR) and gets a certificate back.

Files in the site's folder `pki`; libvirt's client reads the first four by these names:

    cacert.pem        the authorities that the site manager trusts, the one that signs first
    cacrl.pem         for each of them its list of revoked certificates
    clientcert.pem, clientkey.pem    the site manager's own
    cakey.pem         the key that signs
    issued.json       what hosts have been given, and what of it is revoked
    old-cacert.pem, old-cakey.pem, rotation.json    while keys are being replaced

Replacing all keys goes in two steps, so that at every moment each two machines trust each other.  Step `both`: there
is a new authority; hosts come to trust it beside the old one, with new keys and certificates of the new one, and the
site manager still shows its old certificate.  When all hosts have that, the site manager takes its new key, and the old
authority's is destroyed.  Step `new`: hosts forget the old authority.  Every roll-out goes on where the last one was.
"""

import contextlib
import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import Certificate

from vclust_py import x509
from vclust_py.chain import DOMAIN, identity
from vclust_py.change import Change
from vclust_py.errors import VclustError
from vclust_py.image import sync
from vclust_py.site import Site
from vclust_py.x509 import Authority

CLIENT = "vclust site manager"
"""The common name that hosts let in.  It is the whole subject: libvirt compares that as one text."""

LIBVIRT, HOP = "libvirt", "hop"
"""What of a host has a key and a certificate; neither can stand in for the other."""

BOTH, NEW = "both", "new"
"""The steps of replacing all keys."""


@dataclass(frozen=True)
class Machine:
    """What a host shows of itself at the roll-out; texts are PEM, or empty where there is none."""

    name: str
    address: str
    """Name or address in its libvirt URI."""
    csr: str = ""
    """libvirt's."""
    certificate: str = ""
    hop_csr: str = ""
    hop_certificate: str = ""


@dataclass(frozen=True)
class Trust:
    """What a host must be given; all of it public."""

    ca: str
    client: str
    """The site manager's subject, as libvirt compares it."""
    certificate: str = ""
    """libvirt's; empty where the host must make its key first."""
    hop_certificate: str = ""
    """The hop's; the same."""
    rekey: tuple[str, ...] = ()
    """Which keys the host must make, or make again: `libvirt`, `hop`."""
    rotation: str = ""
    """The step that replacing all keys is at: `both`, `new`; empty when they are not being replaced."""


def roll_out(
    site: Site,
    machine: Machine | None = None,
    *,
    rotate: bool = False,
    check: bool = False,
    now: datetime | None = None,
) -> tuple[Change, Trust]:
    """Make what the site lacks, and admit `machine`: its certificates.

    `rotate` begins to replace all keys, unless that is under way.  Raises VclustError on a signing request that is
    none, on an authority without its key, and on a host's name that only hops have.
    """
    now = now or datetime.now(UTC)
    with _opened(site, check) as folder:
        keys = _authorities(folder, now, rotate)
        _client(folder, keys, now)
        certificates, rekey = {LIBVIRT: "", HOP: ""}, []
        if machine is not None:
            for text in (machine.name, machine.address):
                if text.lower().rstrip(".").endswith(DOMAIN):
                    raise VclustError(f"{text}: names that end in {DOMAIN} are those of hops' certificates")
            for asked in _asked(machine):
                made = _server(folder, keys, asked, now)
                if made is None:
                    rekey.append(asked.purpose)
                    continue
                certificates[asked.purpose] = x509.pem(made)
                folder.record(machine.name, asked.purpose, made)
        folder.finish(keys.trusted, now)
        ca = x509.pem(*(authority.certificate for authority in keys.trusted))
        trust = Trust(
            ca, f"CN={CLIENT}", certificates[LIBVIRT], certificates[HOP], tuple(rekey), keys.rotation
        )
    return Change(folder.before, folder.after), trust


def confirm(site: Site, host: str, *, check: bool = False) -> Change:
    """Note that the host has all that the present step of replacing keys gives it."""
    with _opened(site, check) as folder:
        keys = _authorities(folder, datetime.now(UTC))
        before = folder.confirmed(keys.rotation)
        if keys.rotation and host not in before:
            folder.confirm(keys.rotation, {*before, host})
            return Change({host: ""}, {host: f"step {keys.rotation} of replacing keys"})
    return Change({}, {})


def proceed(
    site: Site, hosts: Collection[str], *, check: bool = False, now: datetime | None = None
) -> tuple[Change, str, tuple[str, ...]]:
    """Go on with replacing keys as far as all `hosts` of the site allow.

    Returns what changed, the step it is at now, and the hosts that it waits for; empty: nothing is being replaced.
    """
    now = now or datetime.now(UTC)
    with _opened(site, check) as folder:
        keys = _authorities(folder, now)
        if not keys.rotation:
            return Change({}, {}), "", ()
        waiting = sorted(set(hosts) - folder.confirmed(keys.rotation))
        if waiting:
            return Change({}, {}), keys.rotation, tuple(waiting)
        if keys.rotation == BOTH:
            # The client's first: it is what tells the step.
            _issue_client(folder, keys.current, now, "of the authority that is being replaced")
            folder.write("cacert.pem", x509.pem(keys.current.certificate))
            folder.remove("old-cakey.pem")
            folder.finish([keys.current], now)
            step, waiting = NEW, sorted(hosts)
        else:
            folder.say("old authority", keys.old_name, "")
            folder.write("cacert.pem", x509.pem(keys.current.certificate))
            folder.remove("old-cakey.pem")
            folder.remove("rotation.json")
            folder.remove("old-cacert.pem")  # the last: without it there is no replacing any more
            step = ""
    return Change(folder.before, folder.after), step, tuple(waiting)


def withdraw(
    site: Site, machine: Machine, *, check: bool = False, now: datetime | None = None
) -> tuple[Change, bool]:
    """Revoke all certificates that the host was ever given, and those it shows; it may be gone.

    Also returns whether any are known, revoked before or now: hosts of early releases are in no list.
    """
    now = now or datetime.now(UTC)
    with _opened(site, check) as folder:
        if not folder.read("cacert.pem"):
            return Change({}, {}), False
        keys = _authorities(folder, now)
        for purpose, text in ((LIBVIRT, machine.certificate), (HOP, machine.hop_certificate)):
            for shown in x509.certificates(text)[:1]:
                if any(x509.is_issued_by(shown, one.certificate) for one in keys.trusted):
                    folder.record(machine.name, purpose, shown)
        for serial in folder.revoke(machine.name, now):
            folder.say(f"certificate {serial}", f"of {machine.name}", "revoked")
        folder.finish(keys.trusted, now)
        folder.forget_confirmation(machine.name)
        known = any(one["host"] == machine.name for one in folder.issued.values())
    return Change(folder.before, folder.after), known


def ends(site: Site) -> dict[str, dict[str, float]]:
    """By host the ends (Unix time) of the certificates it was given last, by purpose; the site's own under ''.

    Only what was issued, or seen at a roll-out, since vclust keeps a list of it.
    """
    folder = _Folder(site.pki, check=True)
    found: dict[str, dict[str, float]] = {}
    for one in sorted(folder.issued.values(), key=lambda one: str(one["until"])):
        if not one["revoked"]:
            until = datetime.fromisoformat(one["until"]).timestamp()
            found.setdefault(one["host"], {})[one["purpose"]] = until
    for purpose, name in (("authority", "cacert.pem"), ("site manager", "clientcert.pem")):
        for certificate in x509.certificates(folder.read(name))[:1]:
            found.setdefault("", {})[purpose] = certificate.not_valid_after_utc.timestamp()
    return found


@contextlib.contextmanager
def _opened(site: Site, check: bool) -> Iterator["_Folder"]:
    """Hosts are rolled out side by side, and share these files."""
    if check:
        yield _Folder(site.pki, check=True)
        return
    with site.file_lock("pki"):
        site.pki.mkdir(mode=0o700, exist_ok=True)
        yield _Folder(site.pki, check=False)


class _Folder:
    """The folder's files, and what has become of them."""

    def __init__(self, path: Path, *, check: bool) -> None:
        self.path = path
        self.check = check
        self.before: dict[str, str] = {}
        self.after: dict[str, str] = {}
        try:
            self.issued: dict[str, dict[str, Any]] = json.loads(self.read("issued.json") or "{}")
        except ValueError as error:
            raise VclustError(
                f"{path}/issued.json: got {error}, expected what hosts were given (JSON)",
                "put a copy back; without one remove it, and replace all keys: vclust site rotate-keys",
            ) from error
        """By serial number (hexadecimal): host, purpose, key, authority, until, revoked (empty: it is not)."""
        self._recorded = json.dumps(self.issued)

    def read(self, name: str) -> str:
        """Empty when there is no such file."""
        try:
            return (self.path / name).read_text(encoding="ascii")
        except FileNotFoundError:
            return ""

    def write(self, name: str, text: str, mode: int = 0o644) -> None:
        if self.check:
            return
        draft = self.path / f"{name}.tmp"
        draft.unlink(missing_ok=True)
        draft.touch(mode=mode)
        draft.chmod(mode)
        draft.write_text(text, encoding="ascii")
        sync(draft)
        draft.rename(self.path / name)
        sync(self.path)

    def remove(self, name: str) -> None:
        if not self.check:
            (self.path / name).unlink(missing_ok=True)
            sync(self.path)

    def say(self, name: str, before: str, after: str) -> None:
        """Nothing that is said here may be secret."""
        self.before[name], self.after[name] = before, after

    def confirmed(self, step: str) -> set[str]:
        """Hosts that have all that the step gives them."""
        return set(json.loads(self.read("rotation.json") or "{}").get(step, ()))

    def confirm(self, step: str, hosts: Collection[str]) -> None:
        steps = json.loads(self.read("rotation.json") or "{}") | {step: sorted(hosts)}
        self.write("rotation.json", json.dumps(steps))

    def forget_confirmation(self, host: str) -> None:
        """A host that is admitted again later has followed no step."""
        for step in (BOTH, NEW):
            if host in (hosts := self.confirmed(step)):
                self.confirm(step, hosts - {host})

    def record(self, host: str, purpose: str, certificate: Certificate) -> None:
        self.issued.setdefault(
            f"{certificate.serial_number:x}",
            {
                "host": host,
                "purpose": purpose,
                "key": x509.key_digest(certificate.public_key()),
                "authority": certificate.issuer.rfc4514_string(),
                "until": certificate.not_valid_after_utc.isoformat(),
                "revoked": "",
            },
        )

    def revoke(self, host: str, now: datetime) -> list[str]:
        """Serial numbers of what of the host is revoked now and was not before."""
        # It may have had another name in the inventory, with the same key.
        keys = {one["key"] for one in self.issued.values() if one["host"] == host}
        serials = [serial for serial, one in self.issued.items() if one["key"] in keys and not one["revoked"]]
        for serial in serials:
            self.issued[serial] = self.issued[serial] | {"revoked": now.isoformat()}
        return serials

    def is_refused(self, key: str) -> bool:
        """Whether the key is that of a host that was taken out: whoever has a copy of it would be let in again."""
        return any(one["key"] == key and one["revoked"] for one in self.issued.values())

    def finish(self, authorities: Collection[Authority], now: datetime) -> None:
        """Write what is issued and revoked; what has ended by itself needs no list any more."""
        self.issued = {
            serial: one
            for serial, one in self.issued.items()
            if one["revoked"] or datetime.fromisoformat(one["until"]) > now
        }
        if (text := json.dumps(self.issued)) != self._recorded:
            self.write("issued.json", text, 0o600)
        wanted = {
            authority.name: {
                int(serial, 16)
                for serial, one in self.issued.items()
                if one["revoked"] and one["authority"] == authority.name
            }
            for authority in authorities
        }
        present = x509.revoked(self.read("cacrl.pem"))
        if present != wanted:
            lists = [x509.revocation_list(one, wanted[one.name], now) for one in authorities]
            self.write("cacrl.pem", "".join(lists))
            self.say("revoked certificates", _counted(present), _counted(wanted))


def _counted(lists: dict[str, set[int]]) -> str:
    return ", ".join(f"{name}: {len(serials)}" for name, serials in sorted(lists.items()))


@dataclass(frozen=True)
class _Keys:
    """The authorities at this moment."""

    current: Authority
    old: Authority | None = None
    """That which is being replaced, in step `both`: it still signs its list of revoked certificates."""
    rotation: str = ""
    old_name: str = ""

    @property
    def trusted(self) -> list[Authority]:
        """By the site manager and its hosts."""
        return [self.current, *([self.old] if self.old else [])]


def _authorities(folder: _Folder, now: datetime, rotate: bool = False) -> _Keys:
    present = next(iter(x509.certificates(folder.read("cacert.pem"))), None)
    key = x509.private_key(folder.read("cakey.pem"))
    if present is not None and key is None:
        raise VclustError(
            f"{folder.path}/cakey.pem: missing, or not a key",
            f"put it back; or, for a new authority, remove {folder.path} and roll out all hosts of the site again",
        )
    old = next(iter(x509.certificates(folder.read("old-cacert.pem"))), None)
    old_key = x509.private_key(folder.read("old-cakey.pem"))
    why = ""
    if present is not None and key is not None:
        if present.public_key() != key.public_key():
            why = "its key is another's"  # making the new one was interrupted
        elif old == present:
            why = "it is being replaced"  # so was beginning to
        elif present.not_valid_after_utc <= now:
            why = "it has ended"
        elif old is None and (why := "it is being replaced" if rotate else x509.ends_soon(present, now)):
            # Beside its key, so that it can be gone back to until the new one is there.
            folder.write("old-cakey.pem", x509.private_pem(key), 0o600)
            folder.write("old-cacert.pem", x509.pem(present))
            old, old_key = present, key
    if present is None or key is None or why:
        current = x509.new_authority(now)
        folder.write("cakey.pem", x509.private_pem(current.key), 0o600)
        folder.write("cacert.pem", x509.pem(current.certificate, *([old] if old else [])))
        folder.say("authority", _refused(present, why), x509.summary(current.certificate))
    else:
        current = Authority(present, key)
        folder.say("authority", x509.summary(present), x509.summary(present))
    if old is None:
        return _Keys(current)
    keys = _Keys(current, rotation=NEW, old_name=x509.summary(old))
    client = next(iter(x509.certificates(folder.read("clientcert.pem"))), None)
    if old_key is not None and not (client and x509.is_issued_by(client, current.certificate)):
        return replace(keys, old=Authority(old, old_key), rotation=BOTH)
    return keys


def _client(folder: _Folder, keys: _Keys, now: datetime) -> None:
    old = next(iter(x509.certificates(folder.read("clientcert.pem"))), None)
    key = x509.private_key(folder.read("clientkey.pem"))
    signer = keys.old or keys.current  # hosts may not know the new one yet
    why = x509.flaw(old, [one.certificate for one in keys.trusted], now)
    if old is not None and (key is None or old.public_key() != key.public_key()):
        why = "its key is another's"
    if old is not None and not why:
        folder.say("site manager", x509.summary(old), x509.summary(old))
        return
    _issue_client(folder, signer, now, why)


def _issue_client(folder: _Folder, signer: Authority, now: datetime, why: str) -> None:
    old = next(iter(x509.certificates(folder.read("clientcert.pem"))), None)
    key = ec.generate_private_key(ec.SECP256R1())
    new = x509.issue(signer, CLIENT, key.public_key(), x509.CLIENT, (), now)
    folder.write("clientkey.pem", x509.private_pem(key), 0o600)
    folder.write("clientcert.pem", x509.pem(new))
    folder.say("site manager", _refused(old, why), x509.summary(new))


@dataclass(frozen=True)
class _Asked:
    """One of a host's certificates: for whom, and what the host shows for it."""

    purpose: str
    title: str
    """In differences and errors."""
    subject: str
    names: x509.Names
    csr: str
    certificate: str


def _asked(machine: Machine) -> tuple[_Asked, _Asked]:
    name, own = machine.name, identity(machine.name)
    names = x509.names(name, machine.address)
    return (
        _Asked(LIBVIRT, name, name, names, machine.csr, machine.certificate),
        _Asked(HOP, f"{name}, hop", own, x509.names(own), machine.hop_csr, machine.hop_certificate),
    )


def _server(folder: _Folder, keys: _Keys, asked: _Asked, now: datetime) -> Certificate | None:
    """A certificate for whoever asks; None where a key must be made first."""
    old = next(iter(x509.certificates(asked.certificate)), None)
    if not asked.csr:  # no key yet
        folder.say(asked.title, "", "a certificate")
        return None
    request = x509.request(asked.csr, asked.title)
    why = x509.flaw(old, [keys.current.certificate], now)
    own = old is not None and old.public_key() == request.public_key()
    if old is not None and not own:
        why = why or "its key is another's"
    if old is not None and not why and x509.names_of(old) != set(asked.names):
        why = "the host's name or address is another now"
    refused = folder.is_refused(x509.key_digest(request.public_key()))
    # With a new authority goes a new key; one that was made just now has no certificate yet.
    if refused or (own and old is not None and keys.old and x509.is_issued_by(old, keys.old.certificate)):
        why = "the host was taken out of the site" if refused else "its authority is being replaced"
        folder.say(asked.title, _refused(old, why), "a certificate")
        return None
    if old is not None and not why:
        folder.say(asked.title, x509.summary(old), x509.summary(old))
        return old
    new = x509.issue(keys.current, asked.subject, request.public_key(), x509.SERVER, asked.names, now)
    folder.say(asked.title, _refused(old, why), x509.summary(new))
    return new


def _refused(old: Certificate | None, why: str) -> str:
    return "" if old is None else f"{x509.summary(old)}: {why}"

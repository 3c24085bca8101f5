"""Who may log in to the nodes: users with their password hashes, and their ssh keys."""

import base64
import binascii
import re
from dataclasses import asdict, dataclass
from typing import Any

from vclust_py.request.system_names import PREFIXES, SYSTEM_NAMES
from vclust_py.request.values import Kind, Wrong, shown

NAME = "[a-z][a-z0-9_-]{0,30}"
_HASHES = (
    r"\$6\$(rounds=[1-9][0-9]{3,8}\$)?[./0-9A-Za-z]{1,16}\$[./0-9A-Za-z]{86}",
    r"\$5\$(rounds=[1-9][0-9]{3,8}\$)?[./0-9A-Za-z]{1,16}\$[./0-9A-Za-z]{43}",
    r"\$(y|gy)\$[./0-9A-Za-z]{1,16}\$[./0-9A-Za-z]{1,86}\$[./0-9A-Za-z]{43}",
    r"\$2[aby]\$[0-3][0-9]\$[./0-9A-Za-z]{53}",
    r"\*",
)
_HASH = re.compile("|".join(_HASHES))

NO_PASSWORD = "*"  # noqa: S105 - what says that there is none
"""The hash of a user who logs in by key only."""

_KEY_TYPES = (
    "ssh-ed25519",
    "ssh-rsa",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
)
_MAX_KEY = 8192


@dataclass(frozen=True)
class User:
    name: str
    password_hash: str
    """As crypt(5) has it; NO_PASSWORD where the user logs in by key only."""


@dataclass(frozen=True)
class SSHKey:
    user: str
    key: str
    """One line of an authorized_keys file: type, data, comment; no options."""


def shown_user(text: str) -> str:
    """A `User` value without what may be its password."""
    name, colon, _ = text.partition(":")
    return shown(name.partition("$")[0] + ("…" if colon or "$" in name else ""))


def _parse_user(text: str) -> User:
    name, colon, password_hash = text.partition(":")
    if not re.fullmatch(NAME, name):
        raise Wrong("name:hash, the name up to 31 of a-z, 0-9, '_' and '-', beginning with a letter")
    if name in SYSTEM_NAMES or name.startswith(PREFIXES):
        raise Wrong("a name that Debian does not use for an account or a group of its own")
    if not colon or not _HASH.fullmatch(password_hash):
        raise Wrong(
            "name:hash, the hash as crypt(5) has it with yescrypt, SHA-512, SHA-256 or bcrypt "
            "(made with: openssl passwd -6), or * for login by key only"
        )
    return User(name, password_hash)


def _parse_ssh_key(text: str) -> SSHKey:
    form = "user:key, the key as one line of an OpenSSH .pub file"
    name, colon, key = text.partition(":")
    if not colon or len(key) > _MAX_KEY:
        raise Wrong(form)
    words = key.strip(" \t").split(maxsplit=2)
    if len(words) < 2 or words[0] not in _KEY_TYPES:
        raise Wrong(f"{form}, of type {', '.join(_KEY_TYPES[:3])}, …")
    try:
        data = base64.b64decode(words[1].encode("ascii"), validate=True)
    except (UnicodeEncodeError, binascii.Error):
        raise Wrong(f"{form}; its data is not base64") from None
    # RFC 4253 6.6: the data begins with the length and name of the type, and more follows.
    head = len(words[0]).to_bytes(4, "big") + words[0].encode("ascii")
    if not data.startswith(head) or len(data) < len(head) + 32:
        raise Wrong(f"{form}; its data is not a whole {words[0]} key")
    if len(words) == 3 and not re.fullmatch(r"[A-Za-z0-9@._+:/-][A-Za-z0-9@._+:/ -]{0,99}", words[2]):
        raise Wrong(f"{form}; its comment may hold letters, digits, blanks and @ . _ + : / -")
    return SSHKey(name, " ".join(words))


def _restore_user(item: dict[str, Any]) -> User:
    return User(item["name"], item["password_hash"])


def _restore_ssh_key(item: dict[str, Any]) -> SSHKey:
    return SSHKey(item["user"], item["key"])


_TYPE = "|".join(name.replace(".", r"\.") for name in _KEY_TYPES)
_NAME_SCHEMA = {"type": "string", "pattern": f"^{NAME}$"}

user = Kind(
    _parse_user,
    {"type": "string", "pattern": f"^{NAME}:({'|'.join(_HASHES)})$"},
    write=asdict,
    restore=_restore_user,
    parts={
        "name": _NAME_SCHEMA,
        "password_hash": {"type": "string", "pattern": f"^({'|'.join(_HASHES)})$", "writeOnly": True},
    },
    secret="password_hash",  # noqa: S106 - the name of the part
)
ssh_key = Kind(
    _parse_ssh_key,
    {"type": "string", "pattern": rf"^{NAME}:\s*({_TYPE})\s"},
    write=asdict,
    restore=_restore_ssh_key,
    parts={
        "user": _NAME_SCHEMA,
        "key": {"type": "string", "pattern": rf"^\s*({_TYPE})\s"},
    },
)

#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Small files and folders of a host, in one round trip.  Runs there: nothing but Ansible and Python 3.8."""

from __future__ import annotations

DOCUMENTATION = """
module: vclust_files
author: vclust contributors
version_added: "0.1"
short_description: Small files and folders, many at once
description:
  - Makes files have the given content, owner and mode, and folders be there; or makes both be gone.
  - For files that are wholly vclust's own. All go over in one round trip, where M(ansible.builtin.copy) needs two for
    each.
  - A file is written beside its place and renamed, so that it is never seen half written.
attributes:
  check_mode:
    description: Can run in check mode and predict the change without making it.
    support: full
  diff_mode:
    description: Returns what the files held and hold.
    support: full
  platform:
    description: Runs on hosts.
    platforms: debian
    support: full
options:
  files:
    description: What shall be there, a folder before what is in it.
    type: list
    elements: dict
    required: true
    suboptions:
      path:
        description: Absolute path.
        type: str
        required: true
      content:
        description: Text of the file. Without it, this is a folder.
        type: str
      state:
        description:
          - V(absent) takes it away, a folder with all that is in it; the difference shows no content.
          - V(absent_if_empty) takes a folder away that has nothing in it, and leaves others as they are.
        type: str
        choices: [present, absent, absent_if_empty]
        default: present
      base64:
        description: O(files[].content) is no text but any bytes, in base64; the difference shows their digest.
        type: bool
        default: false
      mode:
        description: Permissions, octal; required for what shall be there.
        type: str
      owner:
        description: Name of its user, and of its group.
        type: str
        default: root
      reclaim:
        description:
          - Name of a user. Files of that user in this folder become the owner's, and writable for the owner only;
            what is in folders below stays as it is. Where there is no such user, nobody has such files.
        type: str
"""

EXAMPLES = """
- name: A folder and a file in it
  vclust_files:
    files:
      - path: /etc/vclust
        mode: "0755"
      - path: /etc/vclust/hop-cert.pem
        content: "{{ trust.hop_certificate }}"
        mode: "0644"

- name: Take both away
  vclust_files:
    files:
      - path: /etc/vclust
        state: absent
"""

RETURN = """
paths:
  description: Those that were changed, or would be.
  type: list
  elements: str
  returned: success
"""

import base64
import grp
import hashlib
import os
import pwd
import shutil
import stat
import tempfile
from typing import Any

from ansible.module_utils.basic import AnsibleModule


def argument_spec() -> dict[str, Any]:
    one = {
        "path": {"type": "str", "required": True},
        "content": {"type": "str"},
        "base64": {"type": "bool", "default": False},
        "state": {
            "type": "str",
            "choices": ["present", "absent", "absent_if_empty"],
            "default": "present",
        },
        "mode": {"type": "str"},
        "owner": {"type": "str", "default": "root"},
        "reclaim": {"type": "str"},
    }
    return {"files": {"type": "list", "elements": "dict", "required": True, "options": one}}


def named(lookup: Any, number: int) -> str:
    try:
        return str(lookup(number)[0])
    except KeyError:
        return str(number)


def files_of(user: str | None, folder: str) -> list[str]:
    """Names of that user's files in the folder."""
    try:
        number = pwd.getpwnam(user).pw_uid if user else -1
    except KeyError:
        return []
    with os.scandir(folder) as entries:
        return sorted(
            entry.name
            for entry in entries
            if entry.is_file(follow_symlinks=False) and entry.stat(follow_symlinks=False).st_uid == number
        )


def present(path: str, reclaim: str | None = None) -> dict[str, Any]:
    """What is at `path`, in the words of `wanted`; empty when there is nothing."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return {}
    folder = stat.S_ISDIR(status.st_mode)
    content = None
    if not folder:
        with open(path, "rb") as file:
            content = file.read()
    return {
        "content": content,
        "mode": f"{stat.S_IMODE(status.st_mode):04o}",
        "owner": f"{named(pwd.getpwuid, status.st_uid)}:{named(grp.getgrgid, status.st_gid)}",
        "others": files_of(reclaim, path) if folder and reclaim else [],
    }


def content_of(one: dict[str, Any]) -> bytes | None:
    """Raises ValueError for what is no base64."""
    content = one["content"]
    if content is None:
        return None
    return base64.b64decode(content, validate=True) if one["base64"] else str(content).encode()


def wanted(one: dict[str, Any]) -> dict[str, Any]:
    return {
        "content": content_of(one),
        "mode": f"{int(one['mode'], 8):04o}",
        "owner": f"{one['owner']}:{one['owner']}",
        "others": [],
    }


def is_unwanted(one: dict[str, Any], gone: set[str]) -> bool:
    """`gone`: paths that are taken away, or in check mode would be, before this one."""
    path = one["path"]
    if one["state"] == "absent_if_empty":
        return (
            os.path.isdir(path)
            and not os.path.islink(path)
            and all(os.path.join(path, name) in gone for name in os.listdir(path))
        )
    return os.path.lexists(path)


def absence(one: dict[str, Any], gone: set[str], check: bool) -> dict[str, Any]:
    """Take it away, a link itself and never what it names; the difference, empty when there is none."""
    path = one["path"]
    if not is_unwanted(one, gone):
        return {}
    if os.path.islink(path):
        before = "link\n"
    else:
        state = present(path)
        before = shown({**state, "content": None if state["content"] is None else b""})
    if not check and os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    elif not check:
        os.unlink(path)
    gone.add(path)
    return {"before": before, "after": "", "before_header": path, "after_header": path}


def make(one: dict[str, Any]) -> None:
    """Raises OSError; LookupError for an unknown owner."""
    path, content, mode = one["path"], content_of(one), int(one["mode"], 8)
    owner = pwd.getpwnam(one["owner"]).pw_uid, grp.getgrnam(one["owner"]).gr_gid
    if content is None:
        os.makedirs(path, exist_ok=True)
        os.chown(path, *owner)
        os.chmod(path, mode)
        # Now that the folder is not that user's any more, its names stay what they are.
        for name in files_of(one["reclaim"], path):
            other = os.path.join(path, name)
            os.chown(other, owner[0], -1, follow_symlinks=False)
            os.chmod(other, os.stat(other).st_mode & 0o755)
        return
    handle, draft = tempfile.mkstemp(dir=os.path.dirname(path), prefix=".vclust-")
    try:
        with open(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fchown(handle, *owner)
            os.fchmod(handle, mode)
            os.fsync(handle)
        os.replace(draft, path)
    except BaseException:
        os.unlink(draft)
        raise


def shown(state: dict[str, Any]) -> str:
    """For the diff."""
    if not state:
        return ""
    head = f"{'folder' if state['content'] is None else 'file'} {state['mode']} {state['owner']}\n"
    return (
        head + "".join(f"of another: {name}\n" for name in state["others"]) + text_of(state["content"] or b"")
    )


def text_of(content: bytes) -> str:
    """Of what is no text, its digest."""
    text = content.decode(errors="replace")
    return f"sha256 {hashlib.sha256(content).hexdigest()}\n" if "\0" in text else text


def ensure(files: list[dict[str, Any]], check: bool) -> dict[str, Any]:
    diffs, paths = [], []
    gone: set[str] = set()
    for one in files:
        if one["state"] != "present":
            if difference := absence(one, gone, check):
                paths.append(one["path"])
                diffs.append(difference)
            continue
        if one["mode"] is None:
            raise ValueError(f"{one['path']}: mode: got nothing, expected permissions such as 0644")
        before, after = present(one["path"], one["reclaim"]), wanted(one)
        if before == after:
            continue
        if before and (before["content"] is None) != (after["content"] is None):
            raise OSError(f"{one['path']}: is a {'folder' if before['content'] is None else 'file'} already")
        if not check:
            make(one)
        paths.append(one["path"])
        diffs.append(
            {
                "before": shown(before),
                "after": shown(after),
                "before_header": one["path"],
                "after_header": one["path"],
            }
        )
    return {"changed": bool(paths), "paths": paths, "diff": diffs}


def main() -> None:
    module = AnsibleModule(argument_spec=argument_spec(), supports_check_mode=True)
    try:
        outcome = ensure(module.params["files"], module.check_mode)
    except (OSError, LookupError, ValueError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(**outcome)


if __name__ == "__main__":
    main()

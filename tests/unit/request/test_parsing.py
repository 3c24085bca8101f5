"""The request parser: literal tables of what is taken and refused, and properties over arbitrary text."""

import contextlib
import io
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from request.samples import HASH, KEY, any_request
from request.writing import to_ini, to_yaml

from vclust_py import request as requests
from vclust_py.errors import RequestError
from vclust_py.request import Hardware, Request, Software, SSHKey, User

FIGURE_4 = f"""\
[Hardware]
NumberOfNodes: 32
CPUArch: x86            # x86 (= x86_64) | arm64
CPUSpeed: 3GHz          # minimum of the host
CPUs: 1                 # virtual CPUs a node            (ours)
RAM: 2GB
Disk: 8GB
Spread: any             # any | hosts (at most one node a host) | pack   (ours)
MinNodes: 32            # fewer is a failure; default all  (ours)

[Software]
Name: bio1              # default: from the file's name    (ours)
User*: john:{HASH}      # crypt hash, as in the paper
SSHKey*: john:{KEY}     # (ours)
Hostname: vc%02d
Network: 192.168.10.128/25
Packages: gcc mpich python3
MetaPackages: mpi       #                                  (ours)
Suite: bookworm         #                                  (ours)
Kernel: linux-image-cloud-amd64   # (ours)
Lease: 8h               #                                  (ours)
Site: any               #                                  (ours)
"""


def problems(text: str, source: str = "x.ini") -> list[str]:
    with pytest.raises(RequestError) as caught:
        requests.load(text, source)
    return caught.value.problems


def ini(**keys: str) -> str:
    """A request of two nodes whose other keys are given, one a line; NumberOfNodes is line 2."""
    hardware = {"NumberOfNodes", "CPUArch", "CPUSpeed", "CPUs", "RAM", "Disk", "Spread", "MinNodes"}
    hard = {"NumberOfNodes": "2", **{key: value for key, value in keys.items() if key in hardware}}
    soft = {key: value for key, value in keys.items() if key not in hardware}
    lines = ["[Hardware]", *(f"{key}: {value}" for key, value in hard.items())]
    lines += ["[Software]", *(f"{key}: {value}" for key, value in soft.items())]
    return "\n".join(lines)


def test_words_may_have_commas_between_them() -> None:
    for text in ("gcc, mpich", "gcc,mpich", "gcc ,mpich,"):
        assert requests.load(ini(Packages=text), "x.ini").software.packages == ("gcc", "mpich")


def test_a_request_that_comes_by_a_pipe() -> None:
    """It has no file whose name could be the cluster's."""
    assert requests.read_stream(io.BytesIO(ini(Name="a").encode()), "-").name == "a"
    with pytest.raises(RequestError, match="-:3: Name: got nothing"):
        requests.read_stream(io.BytesIO(ini().encode()), "-")
    with pytest.raises(RequestError, match="-:2: file: got byte 0xff"):
        requests.read_stream(io.BytesIO(b"\n\xff"), "-")


def test_figure_4_of_the_paper() -> None:
    request = requests.load(FIGURE_4, "figure4.ini")
    assert request.hardware == Hardware(
        number_of_nodes=32,
        architecture="amd64",
        cpu_speed=3_000_000_000,
        cpus=1,
        ram=2_000_000_000,
        disk=8_000_000_000,
        spread="any",
        min_nodes=32,
        volume=None,
    )
    assert request.software == Software(
        name="bio1",
        users=(User("john", HASH),),
        ssh_keys=(SSHKey("john", KEY),),
        hostname="vc%02d",
        network=IPv4Network("192.168.10.128/25"),
        packages=("gcc", "mpich", "python3"),
        meta_packages=("mpi",),
        home=None,
        suite="bookworm",
        kernel="linux-image-cloud-amd64",
        lease=8 * 3600,
        idle=None,
        heal=None,
        site="any",
        start="auto",
        install="auto",
    )
    assert request.hostnames[0] == "vc01"
    assert request.hostnames[-1] == "vc32"
    assert request.addresses[0] == IPv4Address("192.168.10.129")
    assert len(set(request.addresses)) == 32
    assert request.router == IPv4Address("192.168.10.254")


def test_defaults() -> None:
    request = requests.load("[Hardware]\nNumberOfNodes: 3\n", "some/where/My_Test.ini")
    assert request.name == "my-test"
    assert request.hostnames == ("my-test-01", "my-test-02", "my-test-03")
    assert request.hardware == Hardware(3, "amd64", None, 1, 512 * 10**6, 4 * 10**9, "any", 3, None)
    assert request.software.network == IPv4Network("192.168.77.0/24")
    assert request.software.users == ()
    assert request.software.packages == ()


def test_keys_are_case_insensitive_and_equal_signs_work() -> None:
    text = "[hardware]\n  numberofnodes = 2\nRAM=1GiB\n[SOFTWARE]\nNAME: a\n; a comment\n#another\n"
    request = requests.load(text, "x.ini")
    assert (request.name, request.hardware.ram) == ("a", 2**30)


def test_bom_and_windows_line_ends() -> None:
    assert requests.load("\ufeff[Hardware]\r\nNumberOfNodes: 2\r\n", "x.ini").hardware.number_of_nodes == 2


def test_hash_sign_inside_a_value_is_no_comment() -> None:
    (problem,) = problems(ini(Packages="gcc#x"))
    assert problem.startswith("x.ini:4: Packages: got 'gcc#x', expected the name of a Debian package")


def test_repeated_keys_collect() -> None:
    text = ini(User=f"ann:{HASH}") + f"\nUser: bob:*\nSSHKey: bob:{KEY} bob@home\nSSHKey: ann:{KEY}"
    software = requests.load(text, "x.ini").software
    assert software.users == (User("ann", HASH), User("bob", "*"))
    assert software.ssh_keys == (SSHKey("bob", f"{KEY} bob@home"), SSHKey("ann", KEY))


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("NumberOfNodes", "4096", 4096),
        ("CPUArch", "X86_64", "amd64"),
        ("CPUArch", "arm64", "arm64"),
        ("CPUSpeed", "2.4GHz", 2_400_000_000),
        ("CPUSpeed", "800 mhz", 800_000_000),
        ("CPUs", "8", 8),
        ("RAM", "256MB", 256_000_000),
        ("RAM", "1.5gib", 3 * 2**29),
        ("Disk", "3000000000B", 3_000_000_000),
        ("Disk", "1TB", 10**12),
        ("Spread", "Hosts", "hosts"),
    ],
)
def test_hardware_values(key: str, value: str, expected: object) -> None:
    request = requests.load(ini(Network="10.0.0.0/8", **{key: value}), "x.ini")
    field = {"NumberOfNodes": "number_of_nodes", "CPUArch": "architecture", "CPUSpeed": "cpu_speed"}
    assert getattr(request.hardware, field.get(key, key.lower())) == expected


@pytest.mark.parametrize(("value", "seconds"), [("90s", 90), ("30m", 1800), ("8h", 28800), ("1.5d", 129600)])
def test_lease(value: str, seconds: int) -> None:
    assert requests.load(ini(Lease=value), "x.ini").software.lease == seconds


WHOLE = (
    "-1",
    "0",
    "1.5",
    "1e3",
    "0x10",
    "010",
    "two",
    "",
    "²",
    "٣",
    "9" * 30,
    "9" * 10_000,
    "1 2",
    "+1",
    "nan",
)
UNIQUE = "so that every node gets its own name"


@pytest.mark.parametrize(
    ("key", "values", "expected"),
    [
        ("NumberOfNodes", (*WHOLE, "4097"), "expected a whole number from 1 to 4096"),
        ("CPUs", (*WHOLE, "1025"), "expected a whole number from 1 to 1024"),
        ("MinNodes", WHOLE, "expected a whole number from 1 to 4096"),
        ("MinNodes", ("3",), "got '3', expected at most the number of nodes, 2"),
        ("CPUArch", ("sparc", "i386"), "expected x86 (or x86_64) or arm64"),
        (
            "CPUSpeed",
            ("3", "3GB", "-3GHz", "0GHz", "101GHz", "9" * 400 + "GHz"),
            "expected a speed such as 3GHz",
        ),
        (
            "RAM",
            (
                "2XB",
                "512",
                "-512MB",
                "0GB",
                "255MB",
                "17TB",
                "1..5GB",
                "1,5GB",
                "9" * 400 + "GB",
                "infGB",
                "GB",
            ),
            "expected a size such as 2GB or 512MB, from 256MB to 16TB",
        ),
        ("Disk", ("2GB", "65TB", "8"), "expected a size such as 8GB, from 3GB to 64TB"),
        ("Spread", ("all", ""), "expected any or hosts or racks or pack"),
        ("Install", ("twice",), "expected auto or each or once"),
        (
            "Name",
            (
                "",
                "-a",
                "1a",
                "Bio",
                "a-",
                "a_b",
                "../a",
                "a b",
                "a" * 32,
                "a'",
                "a;reboot",
                "<a>",
                "ä",
                "a/b",
                ".",
            ),
            "expected up to 31 of a-z, 0-9 and '-'",
        ),
        (
            "Hostname",
            (
                "vc",
                "vc%s",
                "%02d",
                "vc%d%d",
                "vc%%d",
                "vc%2d",
                "vc%02D",
                "vc%d-",
                "-%d",
                "VC%d",
                "v_c%d",
                "vc%d.x",
                "vc%(a)d",
                "vc%00d",
                "vc%٢d",
                "a" * 62 + "%d",
                "vc%999999999d",
                "a'%d",
                "../%d",
                "v$(x)%d",
            ),
            UNIQUE,
        ),
        (
            "Network",
            (
                "10.0.0.0",
                "10.0.0.0/33",
                "256.0.0.0/8",
                "fd00::/64",
                "10.0.0.0/255.0.0.0",
                "10.0.0/24",
                "lan",
                "",
                "10.0.0.0/-8",
                "010.0.0.0/8",
                "10.0.0.0/24;ls",
            ),
            "expected a network such as 192.168.10.0/24",
        ),
        ("Network", ("192.168.10.5/24",), "expected a network; this is a host's address in 192.168.10.0/24"),
        ("Network", ("127.0.0.0/24", "127.1.0.0/16"), "(127.0.0.0/8 is loopback and not for nodes)"),
        ("Network", ("224.1.0.0/16",), "(224.0.0.0/4 is multicast and not for nodes)"),
        ("Network", ("0.0.0.0/0",), "(0.0.0.0/8 is this-network and not for nodes)"),
        ("Network", ("255.255.255.0/24",), "(240.0.0.0/4 is reserved and not for nodes)"),
        ("Network", ("169.254.0.0/24",), "(169.254.0.0/16 is link-local and not for nodes)"),
        (
            "Network",
            ("10.0.0.0/30",),
            "with 2 usable addresses, expected 4 at least (2 nodes, the router, one spare)",
        ),
        ("Network", ("10.0.0.0/31", "10.0.0.0/32"), "with 0 usable addresses, expected 4 at least"),
        (
            "Packages",
            (
                "gcc=1",
                "-o",
                "--yes",
                "gcc/sid",
                "gcc:arm64",
                "gcc-",
                "+gcc",
                "GCC",
                "g",
                "a" * 200,
                "gcc*",
                "^x",
                "~n",
                "gcc;reboot",
                "$(reboot)",
                "`x`",
                "gcc|sh",
                "../gcc",
                "./x.deb",
                "'gcc'",
                "gcc&",
                "gcc.",
            ),
            "expected the name of a Debian package, without version, suite or option",
        ),
        (
            "MetaPackages",
            ("../mpi", "MPI", "mpi.yml", "-m"),
            "expected the name of a meta package such as mpi",
        ),
        ("Suite", ("../x", "Bookworm", "a b", "", "-t"), "expected a Debian suite such as bookworm"),
        (
            "Kernel",
            ("gcc", "linux-image-", "linux-image-x=1"),
            "expected a kernel package such as linux-image-amd64",
        ),
        (
            "Lease",
            ("8", "0h", "367d", "-1h", "forever"),
            "expected a time such as 30m, 8h or 2d, from 1m to 366d",
        ),
        ("Site", ("A", "a-b", "../x"), "expected any or a site's name"),
    ],
)
def test_wrong_values(key: str, values: tuple[str, ...], expected: str) -> None:
    for value in values:
        text = ini(**{key: value})
        line = next(i for i, row in enumerate(text.split("\n"), start=1) if row.startswith(f"{key}:"))
        (problem,) = problems(text)
        assert problem.startswith(f"x.ini:{line}: {key}: got "), value
        assert expected in problem, value
        assert len(problem) < 400
        assert problem.isprintable()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("john", "x.ini:4: User: got 'john', expected name:hash, the hash as crypt(5) has it"),
        ("john:", "expected name:hash, the hash"),
        ("john:secret", "got 'john…', expected name:hash, the hash"),
        (HASH, "got '…', expected name:hash, the name"),
        (f"john:{HASH}x", "expected name:hash, the hash"),
        (f"john:{HASH}:0:0:root", "expected name:hash, the hash"),
        ("john:$6$a$b$c", "expected name:hash, the hash"),
        ("john:$1$abcdefgh$0123456789abcdefghijkl", "expected name:hash, the hash"),
        (f"root:{HASH}", "expected a name that Debian does not use"),
        (f"sshd:{HASH}", "expected a name that Debian does not use"),
        (f"www-data:{HASH}", "expected a name that Debian does not use"),
        (f"systemd-network:{HASH}", "expected a name that Debian does not use"),
        (f"sudo:{HASH}", "expected a name that Debian does not use"),
        (f"../etc:{HASH}", "expected name:hash, the name"),
        (f"jo hn:{HASH}", "expected name:hash, the name"),
        (f"jo'hn:{HASH}", "expected name:hash, the name"),
        (f"John:{HASH}", "expected name:hash, the name"),
        (f"1000:{HASH}", "expected name:hash, the name"),
        (f"-john:{HASH}", "expected name:hash, the name"),
        (f"<john/>:{HASH}", "expected name:hash, the name"),
        (f"j;reboot:{HASH}", "expected name:hash, the name"),
        (f"j$(reboot):{HASH}", "expected name:hash, the name"),
        (f"{'j' * 10_000}:{HASH}", "(10001 characters), expected name:hash, the name"),
        (f"jöhn:{HASH}", "expected name:hash, the name"),
    ],
)
def test_users_that_try_to_break_out(value: str, expected: str) -> None:
    (problem,) = problems(ini(User=value))
    assert expected in problem
    assert "secret" not in problem
    assert HASH[12:] not in problem
    assert len(problem) < 400


@pytest.mark.parametrize(
    "password_hash",
    [
        "*",
        "$5$abc$" + "a" * 43,
        "$6$rounds=5000$abc$" + "a" * 86,
        "$y$j9T$abcdefgh$" + "a" * 43,
        "$2b$12$" + "a" * 53,
    ],
)
def test_hashes_that_are_taken(password_hash: str) -> None:
    (user,) = requests.load(ini(User=f"john:{password_hash}"), "x.ini").software.users
    assert user.password_hash == password_hash


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (KEY, "expected user:key"),
        (f"eve:{KEY}", "expected one of the request's users: john"),
        ("john:ssh-ed25519", "expected user:key, the key as one line of an OpenSSH .pub file, of type"),
        ("john:ssh-dss AAAA", "of type ssh-ed25519, ssh-rsa, ecdsa-sha2-nistp256, …"),
        ('john:command="reboot" ' + KEY, "of type ssh-ed25519"),
        ("john:ssh-ed25519 AAAA", "its data is not a whole ssh-ed25519 key"),
        ("john:ssh-rsa " + KEY.split()[1], "its data is not a whole ssh-rsa key"),
        ("john:ssh-ed25519 A$(x)A", "its data is not base64"),
        ("john:ssh-ed25519 ÄÄÄÄ", "its data is not base64"),
        (f"john:{KEY} a'b", "its comment may hold"),
        (f"john:{KEY} <x>", "its comment may hold"),
        (f"john:{KEY} a;b", "its comment may hold"),
        (f"john:{KEY} {'c' * 101}", "its comment may hold"),
        ("john:ssh-rsa " + "A" * 10_000, "expected user:key"),
    ],
)
def test_keys_that_try_to_break_out(value: str, expected: str) -> None:
    (problem, *_) = problems(ini(User=f"john:{HASH}", SSHKey=value))
    assert problem.startswith("x.ini:5: SSHKey: got ")
    assert expected in problem
    assert len(problem) < 400


def test_key_without_any_user() -> None:
    assert "expected a User of that name" in problems(ini(SSHKey=f"eve:{KEY}"))[0]


def test_user_twice() -> None:
    found = problems(ini(User=f"john:{HASH}") + f"\nUser: john:{HASH}")
    assert found == ["x.ini:5: User: got 'john…', expected each only once"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "x.ini:1: NumberOfNodes: got nothing, expected a whole number from 1 to 4096"),
        ("# only a comment\n", "x.ini:1: NumberOfNodes: got nothing, expected a whole number from 1 to 4096"),
        ("\n[Hardware]\n", "x.ini:2: NumberOfNodes: got nothing, expected a whole number from 1 to 4096"),
        (ini() + "\nnonsense", "x.ini:4: line: got 'nonsense', expected 'Key: value' or a [Section]"),
        (ini() + "\n[Softwear]\nName: b", "x.ini:4: section: got '[Softwear]', expected [Software]"),
        (ini() + "\n[Hardware", "x.ini:4: section: got '[Hardware', expected [Hardware] or [Software]"),
        (ini() + "\n[<x>]", "x.ini:4: section: got '[<x>]', expected [Hardware] or [Software]"),
        ("Name: a\n" + ini(), "x.ini:1: Name: got a key, expected [Hardware] or [Software] before it"),
        (ini(Pakages="x"), "x.ini:4: Pakages: got an unknown key, expected Packages (the nearest known key)"),
        (ini(Sshkeys="x"), "x.ini:4: Sshkeys: got an unknown key, expected SSHKey (the nearest known key)"),
        (
            ini().replace("[S", "Nodes: 3\n[S"),
            "x.ini:3: Nodes: got an unknown key, expected NumberOfNodes (the",
        ),
        (
            ini(RAM="512"),
            "x.ini:3: RAM: got '512', expected a size such as 2GB or 512MB, from 256MB to 16TB; its unit",
        ),
        (ini(Zzzz="x"), "x.ini:4: Zzzz: got an unknown key, expected one of Name, User, SSHKey, Hostname, "),
        (ini() + "\nRAM: 1GB", "x.ini:4: RAM: got it in [Software], expected it in [Hardware]"),
        (
            ini(RAM="1GB").replace("[S", "ram: 2GB\n[S"),
            "x.ini:4: RAM: got it twice, expected it once (first in line 3)",
        ),
        (ini(Name="a\0b"), "x.ini:4: file: got the control character '\\x00', expected plain text"),
        (ini(Name="a\x1b[2J"), "x.ini:4: file: got the control character '\\x1b', expected plain text"),
        ("x" * 300_000, "x.ini:1: file: got 300000 characters, expected at most 262144"),
    ],
)
def test_malformed_ini(text: str, expected: str) -> None:
    (problem,) = problems(text)
    assert problem.startswith(expected)


def test_all_mistakes_at_once_in_the_order_of_the_file() -> None:
    text = "[Hardware]\nNumberOfNodes: 0\nRAM: 2XB\n[Software]\nUser: a:b\nHostname: vc\n"
    text += "Packages: ok -x g=1\nZ: 1"
    assert [problem.split(": got")[0] for problem in problems(text, "mpi.ini")] == [
        "mpi.ini:2: NumberOfNodes",
        "mpi.ini:3: RAM",
        "mpi.ini:5: User",
        "mpi.ini:6: Hostname",
        "mpi.ini:7: Packages",
        "mpi.ini:7: Packages",
        "mpi.ini:8: Z",
    ]


def test_host_names_too_long_with_their_numbers() -> None:
    (problem,) = problems(ini(Hostname="a" * 61 + "%d", NumberOfNodes="100", Network="10.0.0.0/16"))
    assert "which makes names of 64 characters, expected at most 63" in problem


def test_name_that_the_file_cannot_give() -> None:
    (problem,) = problems("[Hardware]\nNumberOfNodes: 1", "/tmp/1 ö.ini")
    assert problem.startswith(
        "/tmp/1 ö.ini:1: Name: got nothing (the file's name '1-ö' does not make one), expected up"
    )


# YAML -----------------------------------------------------------------------------------------------------

YAML = f"""\
hardware:
  number_of_nodes: 2
  ram: 512MB
software:
  name: y1
  users:
    - name: john
      password_hash: {HASH}
  ssh_keys:
    - "john:{KEY}"
  packages: [gcc, mpich]
  meta_packages: mpi
  suite:
"""


def test_yaml_form() -> None:
    request = requests.load(YAML, "y.yml")
    assert request.software.users == (User("john", HASH),)
    assert request.software.ssh_keys == (SSHKey("john", KEY),)
    assert request.software.packages == ("gcc", "mpich")
    assert request.software.meta_packages == ("mpi",)
    assert request.software.suite is None
    assert requests.load(YAML, "request-without-ending") == request
    assert requests.from_mapping(yaml.safe_load(YAML), "vclust_request") == request


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("512MB", "2XB", "y.yml:3: hardware.ram: got '2XB', expected a size such as 2GB or 512MB"),
        ("512MB", "[1, 2]", "y.yml:3: hardware.ram: got a list, expected text or a number"),
        (
            "512MB",
            "yes",
            "y.yml:3: hardware.ram: got the boolean yes, expected text or a number (put it in quotes)",
        ),
        ("name: y1", "name: on", "y.yml:5: software.name: got the boolean on, expected text or a number"),
        ("name: y1", "name: &a y1", "y.yml:5: YAML: got the anchor or alias 'a', expected plain values"),
        ("name: y1", "name: *a", "y.yml:5: YAML: got the anchor or alias 'a', expected plain values"),
        (
            "name: y1",
            "name: !!str y1",
            "y.yml:5: YAML: got the tag 'tag:yaml.org,2002:str', expected plain values",
        ),
        (
            "name: y1",
            "name: !!python/object/apply:os.system [id]",
            "y.yml:5: YAML: got the tag 'tag:yaml.org,2002:python/object/apply:os.system'",
        ),
        (
            "  ram: 512MB",
            "  rem: 512MB",
            "y.yml:3: hardware.rem: got an unknown key, expected ram (the nearest",
        ),
        (
            "software:",
            "softwear:",
            "y.yml:4: softwear: got an unknown key, expected software (the nearest known key)",
        ),
        ("  suite:", "  ram: 1GB", "y.yml:13: software.ram: got an unknown key, expected"),
        (
            "  suite:",
            "  name: b",
            "y.yml:13: software.name: got it twice, expected it once (first in line 5)",
        ),
        ("  suite:", "  user: [x]", "y.yml:13: software.user: got it beside users, expected one of the two"),
        ("  suite:", "  ? [a]\n  : b", "y.yml:13: software: got a list as key, expected one of name, "),
        ("  suite:", "  suite: 'a: b", "YAML: got"),
        ("  suite:", "\tsuite: x", "y.yml:13: YAML: got 'found character"),
        ("  suite:", '  suite: "\\UFFFFFFFF"', "YAML: got"),
        ("  suite:", "  suite: [[[[[[[[[[]]]]]]]]]]", "y.yml:13: YAML: got 7 levels, expected at most 6"),
        ("  suite:", "--- \na: b", "expected well-formed YAML"),
        (
            "- name: john",
            "- nome: john",
            "y.yml:7: software.users[0].nome: got an unknown key, expected name (the",
        ),
        (
            f"      password_hash: {HASH}\n",
            "",
            "y.yml:7: software.users[0].password_hash: got nothing, expected text",
        ),
        (
            "- name: john",
            '- name: "jo\\nhn"',
            "y.yml:7: software.users[0]: got 'jo\\nhn…', expected name:hash, the",
        ),
        (
            "- name: john",
            '- name: "john:*\\nx"',
            "y.yml:7: software.users[0]: got 'john…', expected name:hash",
        ),
        (
            "[gcc, mpich]",
            "[gcc, [mpich]]",
            "y.yml:11: software.packages[1]: got a list, expected text or a number",
        ),
        (
            "[gcc, mpich]",
            "[gcc, -o]",
            "y.yml:11: software.packages[1]: got '-o', expected the name of a Debian",
        ),
    ],
)
def test_wrong_yaml(old: str, new: str, expected: str) -> None:
    assert old in YAML
    assert expected in problems(YAML.replace(old, new), "y.yml")[0]


@pytest.mark.parametrize("text", ["", "---\n", "hardware:\n", "null", "[]", "just text", "{}", "{"])
def test_yaml_that_says_nothing(text: str) -> None:
    assert problems(text, "y.yml")[0].startswith("y.yml:")


def test_mapping_has_paths_instead_of_lines() -> None:
    mapping = {
        "hardware": {"number_of_nodes": True, "ram": "2XB", 3: 4},
        "software": {"users": [{"name": "x"}]},
    }
    with pytest.raises(RequestError) as caught:
        requests.from_mapping(mapping, "vclust_request")
    assert [problem.split(", expected")[0] for problem in caught.value.problems] == [
        "vclust_request: hardware.3: got an unknown key",
        "vclust_request: hardware.number_of_nodes: got the boolean True",
        "vclust_request: software.users[0].password_hash: got nothing",
        "vclust_request: hardware.ram: got '2XB'",
        "vclust_request: software.name: got nothing",
    ]


@pytest.mark.parametrize(
    "mapping",
    [
        {},
        [],
        "text",
        None,
        3,
        {"hardware": []},
        {"hardware": {"number_of_nodes": 10**5000}},
        {None: 1},
        {"hardware": {"number_of_nodes": float("nan")}},
        {"software": {"name": b"x"}},
    ],
)
def test_mappings_of_the_wrong_shape(mapping: object) -> None:
    with pytest.raises(RequestError):
        requests.from_mapping(mapping, "vclust_request")  # type: ignore[arg-type]


def test_mapping_that_holds_itself() -> None:
    mapping: dict[str, object] = {}
    mapping["hardware"] = {"ram": mapping}
    with pytest.raises(RequestError):
        requests.from_mapping(mapping, "vclust_request")


# Files ----------------------------------------------------------------------------------------------------


def test_read_file(tmp_path: Path) -> None:
    path = tmp_path / "one.ini"
    path.write_text("[Hardware]\nNumberOfNodes: 1\n", encoding="utf-8")
    assert requests.read(path).name == "one"


def test_read_bad_utf8(tmp_path: Path) -> None:
    path = tmp_path / "one.ini"
    path.write_bytes(b"[Hardware]\nNumberOfNodes: \xff\n")
    with pytest.raises(RequestError) as caught:
        requests.read(path)
    assert caught.value.problems == [f"{path}:2: file: got byte 0xff, expected UTF-8"]


def test_read_what_is_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "none.ini", tmp_path):
        with pytest.raises(RequestError, match="expected a request file that can be read"):
            requests.read(path)


def test_digest_is_of_the_meaning() -> None:
    one = requests.load("[Hardware]\nNumberOfNodes: 2\nRAM: 1GB\n", "a.ini")
    same = requests.load("hardware: {ram: 1000MB, number_of_nodes: 2}\nsoftware: {name: a}", "b.yml")
    other = requests.load("[Hardware]\nNumberOfNodes: 2\nRAM: 1GiB\n", "a.ini")
    assert one.digest == same.digest != other.digest


# Properties -----------------------------------------------------------------------------------------------


@given(any_request())
@settings(max_examples=150)
def test_round_trip_of_all_forms(request: Request) -> None:
    from_ini = requests.load(to_ini(request), "x.ini")
    from_yaml = requests.load(to_yaml(from_ini), "x.yml")
    assert from_ini == from_yaml == requests.from_mapping(requests.to_mapping(from_yaml), "v") == request
    assert from_yaml.digest == request.digest
    assert len(set(request.hostnames)) == request.hardware.number_of_nodes


_line = st.sampled_from(
    ["[Hardware]", "[Software]", *FIGURE_4.split("\n"), "hardware:", "- a", "  ram: 1", "{", "- *"]
)
_texts = st.text() | st.lists(_line | st.text(max_size=30), max_size=12).map("\n".join)


@given(_texts, st.sampled_from(["x.ini", "x.yml", "x", "ä/.", ""]))
@settings(max_examples=400)
def test_arbitrary_text_gives_a_request_or_a_request_error(text: str, source: str) -> None:
    found: list[str] | None = None
    try:
        request = requests.load(text, source)
    except RequestError as error:
        found = error.problems
    if found is None:
        assert requests.load(to_yaml(request), "y.yml") == request
    else:
        assert found
        assert all(problem.startswith(f"{source}:") and "\n" not in problem for problem in found)


_tree = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.binary(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["hardware", "software", "ram", "users", "name"]) | st.integers(),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(_tree)
@settings(max_examples=200)
def test_arbitrary_variables_raise_nothing_but_request_errors(tree: object) -> None:
    with contextlib.suppress(RequestError):
        requests.from_mapping(tree, "vclust_request")  # type: ignore[arg-type]


# The examples -------------------------------------------------------------------------------------------------

EXAMPLES = sorted((Path(__file__).parents[3] / "examples").iterdir())


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_examples_are_requests(path: Path) -> None:
    request = requests.read(path)
    assert request.name == {"figure4.ini": "bio1"}.get(path.name, path.stem)
    # All but the paper's run on one small machine.
    assert request.name == "bio1" or request.hardware.number_of_nodes * request.hardware.ram <= 4 * 10**9


def test_example_networks_do_not_meet() -> None:
    networks = [requests.read(path).software.network for path in EXAMPLES]
    assert not any(a.overlaps(b) for i, a in enumerate(networks) for b in networks[:i])

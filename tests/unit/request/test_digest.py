"""The digest of a request is stored with its cluster and compared later: it must never change for what exists."""

import pytest
from request.samples import ALL_KEYS

from vclust_py import request as requests
from vclust_py.site import PROJECT


@pytest.mark.parametrize(
    ("text", "digest"),
    [
        (
            "[Hardware]\nNumberOfNodes: 1\n",
            "c07e5ecc2971b32a2b09b01844fefbb4d80455557a63c83ec12b40b04879f231",
        ),
        (ALL_KEYS, "605686c17189c2b31f3fd2fea9bf90a9b8822a74f2a2196d40a8c2ec315f8a88"),
    ],
)
def test_digests_as_the_first_version_made_them(text: str, digest: str) -> None:
    assert requests.load(text, "plain.ini").digest == digest


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("figure4.ini", "5ea95212094ca987993da520878797f2b228a87ff0872340ea71e0d04a903bdb"),
        ("four-nodes.ini", "1dac94f0432d09102621882208fb25dfd00c0fce380e52f03ca22e3e64f25576"),
        ("hello-mpi.ini", "6e847647a742584e1eff0613118867acb1f6a0b9f8e843520210f68d016f37d9"),
        ("slurm.yml", "92c133fff7e9ad51f84de69ee62359a4b237f30ec3074343cb88bce745d25eed"),
    ],
)
def test_digests_of_the_examples(name: str, digest: str) -> None:
    assert requests.read(PROJECT / "examples" / name).digest == digest

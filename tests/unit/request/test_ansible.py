"""The request as an option of modules; that its documentation fits is tests/unit/test_lint.py's to say."""

from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from request.samples import ALL_KEYS, HASH

from vclust_py import request as requests
from vclust_py.module import given, request_options
from vclust_py.request.ansible import suboptions
from vclust_py.request.model import SECTIONS


def test_every_key_is_an_option() -> None:
    options = suboptions()
    for section, keys in SECTIONS.items():
        assert list(options[section]["options"]) == [key.yaml for key in keys]


def test_values_are_raw_and_only_the_hashes_are_secret() -> None:
    software = suboptions()["software"]["options"]
    users = software.pop("users")
    assert users == {
        "type": "list",
        "elements": "dict",
        "options": {"name": {"type": "raw"}, "password_hash": {"type": "raw", "no_log": True}},
    }
    assert all(option == {"type": "raw"} for option in software.values())
    assert all(option == {"type": "raw"} for option in suboptions()["hardware"]["options"].values())


def test_a_request_goes_through_ansible_unchanged() -> None:
    mapping = requests.to_mapping(requests.load(ALL_KEYS, "x.ini"))
    validated = ArgumentSpecValidator(request_options()).validate({"request": mapping})
    assert validated.error_messages == []
    assert validated._no_log_values == {HASH, "*"}
    assert given(validated.validated_parameters["request"]) == mapping

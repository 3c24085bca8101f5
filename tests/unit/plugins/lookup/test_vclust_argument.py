"""The lookup plugin: blank answers of a survey, and requests made of answers."""

from typing import Any

import pytest
from ansible.errors import AnsibleLookupError
from ansible.plugins.loader import lookup_loader

from vclust_py.site import PROJECT


@pytest.fixture
def lookup() -> Any:
    lookup_loader.add_directory(str(PROJECT / "plugins" / "lookup"))
    return lookup_loader.get("vclust_argument")


def test_a_blank_text_is_not_given_where_that_is_said(lookup: Any) -> None:
    for blank in ("", " ", None, []):
        given = {"hosts": blank, "name": blank}
        assert lookup.run(["hosts"], given, type="hosts", default=[], blank=True) == [[]]
        with pytest.raises(AnsibleLookupError, match="name: got nothing, expected -e name=…"):
            lookup.run(["name"], given, type="reference", blank=True)
        # Elsewhere it is a mistake: the default may be all that there is.
        with pytest.raises(AnsibleLookupError, match="hosts: got"):
            lookup.run(["hosts"], given, type="hosts", default=[])
    assert lookup.run(["a", "b"], {"a": "", "b": "no"}, type="flag", blank=True) == [False]


def test_a_request_from_a_survey(lookup: Any) -> None:
    def asked(**given: object) -> Any:
        return lookup.run(["vclust_request", "request"], given, type="request", blank=True, default="")[0]

    assert asked() == asked(vclust_request="", vclust_request_name="") == ""
    assert asked(request="a.ini", vclust_request="") == "a.ini"
    answered = asked(vclust_request_name="x", vclust_request_number_of_nodes=2)
    assert (answered["hardware"]["number_of_nodes"], answered["software"]["name"]) == (2, "x")
    whole = asked(vclust_request="[Hardware]\nNumberOfNodes: 2\n[Software]\nName: x\n")
    assert (whole["hardware"]["ram"], whole["software"]["name"]) == ("512MB", "x")


def test_mistakes_are_the_errors(lookup: Any) -> None:
    with pytest.raises(AnsibleLookupError, match="vclust_request:2: RAM: got '2XB'"):
        lookup.run(["vclust_request"], {"vclust_request": "[Hardware]\nRAM: 2XB"}, type="request")


def test_answers_are_not_templates(lookup: Any) -> None:
    with pytest.raises(AnsibleLookupError, match=r"\(vclust_request_name\): got '{{ 1 }}', expected"):
        lookup.run(["vclust_request"], {"vclust_request_name": "{{ 1 }}"}, type="request")

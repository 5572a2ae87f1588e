"""How errors are read, against the vectors that every language shares."""

import json
from pathlib import Path

import grpc
import pytest

from plait import _statuses, errors

_FILE = Path(__file__).parents[3] / "interop" / "vectors" / "error_codes.json"
_DOCUMENT = json.loads(_FILE.read_text())


def test_the_vectors_are_of_a_known_form():
    assert _DOCUMENT.keys() == {"schema", "reasons", "codes", "errors"}
    assert _DOCUMENT["schema"] == 1
    assert len(_DOCUMENT["errors"]) >= 37


def test_the_reasons_are_those_of_the_vectors():
    assert [each["reason"] for each in _DOCUMENT["reasons"]] == list(errors.Reason)


def test_the_codes_are_those_of_the_vectors():
    codes = {each["code"]: each["number"] for each in _DOCUMENT["codes"]}
    assert codes == {code.name: code.value[0] for code in grpc.StatusCode}


@pytest.mark.parametrize("vector", _DOCUMENT["errors"], ids=lambda each: each["name"])
def test_error(vector):
    details = bytes.fromhex(vector["details_hex"])
    error = _statuses.from_parts(vector["number"], vector["message"], details)
    wait = errors.retry_after(error)
    assert {
        "name": vector["name"],
        "number": vector["number"],
        "code": error.code().name,
        "message": error.details(),
        "details_hex": vector["details_hex"],
        "reason": errors.reason(error),
        "known": errors.reason(error) in {None, *errors.Reason},
        "metadata": errors.metadata(error),
        "retry_after_ms": None if wait is None else round(wait * 1000),
    } == vector

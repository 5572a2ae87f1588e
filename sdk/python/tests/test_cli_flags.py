"""`plait flag` against a real broker; nobody has to be there to decide."""

from collections.abc import Iterator

import pytest
from sdk.python.tests.test_cli import Result, plait

from plait.testing import Mesh


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with Mesh() as mesh:
        mesh.kill_scheduler()
        yield mesh.address


@pytest.fixture
def run(address: str):
    """Runs a command of `plait flag`."""

    def go(*arguments: str) -> Result:
        return plait("flag", *arguments, address=address)

    return go


def test_a_flag_is_set_looked_at_and_removed(run):
    made = run("set", "new-pricing", "--percent", "2.5", "--for", "c-1", "--by", "ada")
    assert made.returncode == 0, made.stderr
    assert made.stdout.startswith("new-pricing  on for 2.5%\n  on for c-1\n  version ")
    kept = run("set", "new-pricing", "on", "--not-for", "c-1", "--description", "the new list")
    assert "on for 100%\n  the new list\n  off for c-1\n" in kept.stdout
    assert "new-pricing  100%    -1" in run("list").stdout
    assert "off for" not in run("set", "new-pricing", "--forget", "c-1").stdout
    assert run("get", "new-pricing").stdout.startswith("new-pricing  on for 100%\n")
    assert run("delete", "new-pricing").returncode == 0
    gone = run("get", "new-pricing")
    assert (gone.returncode, "FLAG_NOT_FOUND" in gone.stderr) == (3, True)
    assert run("delete", "new-pricing").returncode == 3


def test_a_change_may_ask_for_the_version_that_was_seen(run):
    assert run("set", "cas", "on", "--version", "0").returncode == 0
    again = run("set", "cas", "off", "--version", "0")
    assert (again.returncode, "VERSION_MISMATCH" in again.stderr) == (6, True)
    assert run("delete", "cas", "--version", "0").returncode == 6
    assert run("get", "cas").stdout.startswith("cas  on for 100%\n")


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("x", "on", "--percent", "5"), "only one of them"),
        (("x",), "nothing to set"),
        (("x", "--percent", "101"), "not 0 to 100"),
        (("x", "--percent", "0.001"), "not 0 to 100"),
        (("x", "--percent", "NaN"), "not 0 to 100"),
        (("x", "--percent", "five"), "not 0 to 100"),
        (("New Pricing", "on"), "1 to 64 of a-z, 0-9"),
        (("x" * 65, "on"), "1 to 64 of a-z, 0-9"),
        (("x", "on", "--for", "k" * 1025), "TOO_LARGE"),
        (("x", "on", "--for", ""), "a key is empty"),
        (("x", "on", "--for", "k", "--not-for", "k"), "both on and off"),
        (("x", "on", "--description", "d" * 1025), "TOO_LARGE"),
        (("x", "on", *(("--for", "k" * 1000 + str(n)) for n in range(17))), "TOO_LARGE"),
    ],
)
def test_what_cannot_be_set_is_said_and_changes_nothing(run, arguments, why):
    flat = [each for part in arguments for each in ((part,) if isinstance(part, str) else part)]
    refused = run("set", *flat)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert why in refused.stderr
    assert run("get", "x").returncode == 3

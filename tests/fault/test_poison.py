"""Tasks that ruin their worker, and peers that do not do their part."""

from pathlib import Path

from tests.fault import poison
from tests.fault.conftest import clean


async def test_poison_ends_after_its_attempts_and_the_others_go_on(tmp_path: Path):
    clean(await poison.campaign(len(poison.HOWS), tmp_path))

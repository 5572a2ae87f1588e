"""Links between the Markdown pages of the repository resolve, to the heading."""

import re
from pathlib import Path

LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    text = FENCE.sub("", page.read_text())
    headings = re.findall(r"^#{1,6} +(.+?) *#*$", text, re.MULTILINE)
    return {anchor(heading) for heading in headings}


def anchor(heading: str) -> str:
    """GitHub's rule: lower case, no punctuation, spaces become hyphens."""
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
    return re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")


def test_links_resolve(root: Path, hand_written: list[Path]):
    broken = []
    for path in (path for path in hand_written if path.suffix == ".md"):
        for match in LINK.finditer(FENCE.sub("", (root / path).read_text())):
            link = match[1] or match[2]
            if re.match(r"[a-z]+:", link):
                continue
            name, _, fragment = link.partition("#")
            target = (root / path).parent / name if name else root / path
            if not target.exists():
                broken.append(f"{path}: {link}")
            elif fragment and target.suffix == ".md" and fragment not in anchors(target):
                broken.append(f"{path}: {link} has no such heading")
    assert not broken, "\n".join(broken)

"""Every relative link of README, CONTRIBUTING and docs/ leads somewhere, and docs/index.md to every page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from doc_pages import ROOT

if not (ROOT / "docs" / "index.md").is_file():
    pytest.skip(f"{ROOT} has no documentation", allow_module_level=True)

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
INDEX = ROOT / "docs" / "index.md"
ELSEWHERE = ("https://", "http://", "mailto:")


def prose(text: str) -> str:
    """A page without its code, where brackets are no links and number signs no headings."""
    text = re.sub(r"^(```+).*?^\1`*$", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"(`+).+?\1", lambda code: re.sub(r"[^\w `.-]", "", code[0]), text)


def links(path: Path) -> list[str]:
    """The targets of a page's links to files and headings of this repository."""
    text = prose(path.read_text(encoding="utf-8"))
    found: list[str] = re.findall(r"\]\(<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\)", text)
    found += re.findall(r"^\[[^\]]+\]:\s*(\S+)", text, flags=re.MULTILINE)
    return [target for target in found if not target.startswith(ELSEWHERE)]


def anchors(path: Path) -> set[str]:
    """What GitHub and the site call a page's headings: lower case, no punctuation, hyphens for spaces."""
    found: set[str] = set()
    for heading in re.findall(r"^#{1,6} +(.+?)\s*$", prose(path.read_text(encoding="utf-8")), re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        name = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        repeated = 0
        while (numbered := f"{name}-{repeated}" if repeated else name) in found:
            repeated += 1
        found.add(numbered)
    return found


def broken(path: Path) -> list[str]:
    """The links of a page that lead nowhere."""
    wrong = []
    for link in links(path):
        target, _, anchor = link.partition("#")
        file = (path.parent / target).resolve() if target else path
        if not file.exists():
            wrong.append(f"{link}: there is no {file}")
        elif anchor and anchor not in anchors(file):
            wrong.append(f"{link}: {file.name} has no such heading")
    return wrong


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_link_leads_somewhere(path: Path) -> None:
    assert broken(path) == []


def test_the_index_leads_to_every_page() -> None:
    reached, ahead = set[Path](), [INDEX]
    while ahead:
        page = ahead.pop()
        reached.add(page)
        for link in links(page):
            target = (page.parent / link.partition("#")[0]).resolve()
            if target in PAGES and target not in reached:
                ahead.append(target)
    assert set(PAGES) - reached == set(), "link them from docs/index.md, which also makes the site's sidebar"


def test_the_index_lists_every_page_once() -> None:
    """The site's sidebar is made of the lists under its headings."""
    _, *sections = re.split(r"^## ", INDEX.read_text(encoding="utf-8"), flags=re.MULTILINE)
    listed = [
        name for text in sections for name in re.findall(r"^- \[[^\]]+\]\(([^)#]+)\)", text, re.MULTILINE)
    ]
    pages = {(INDEX.parent / name).resolve() for name in listed}
    assert len(listed) == len(pages)
    assert set(PAGES) - {INDEX} - pages == set(), "add them to a list of docs/index.md"


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A page: *two*\n[file](missing.md) [heading](#nowhere) [good](#a-page-two) [site](https://x.org)\n"
        "`[code](missing-too.md)`\n```\n[block](missing-too.md)\n# no heading\n```\n"
        "[other](page.md#no-heading)\n",
        encoding="utf-8",
    )
    assert [link.partition(":")[0] for link in broken(page)] == [
        "missing.md",
        "#nowhere",
        "page.md#no-heading",
    ]

"""What the pages of the checkout point to is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = (".", "docs", "docs/adr", "docs/methods", "results", "benchmarks", "datasets")
PAGES = sorted({path for folder in FOLDERS for path in (ROOT / folder).glob("*.md")}
               | {*ROOT.glob("benchmarks/*/*.md"), *ROOT.glob("datasets/*/*.md")})  # fmt: skip


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
    gone = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not gone

"""What mkdocs.yml does beyond plain mkdocs, so that the same pages read well on a Git host and on the site.

Pages of the repository's root (changelog, contributing, …) become pages of the site; links to them and between them
are led there. Notebooks become pages, too. A link to any other file of the repository keeps its words and loses its
target. Python fences that say why they don't run lose that note. A bar in code in a table stands there without the
backslash that a Git host wants.
"""

from __future__ import annotations

import json
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pymdownx.slugs import slugify

ROOT = Path(__file__).parents[1]
#: Pages outside docs/: path in the repository, and on the site.
OUTSIDE = {
    "CHANGELOG.md": "project/changelog.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "SECURITY.md": "project/security-policy.md",
    "ecgstore/vocabularies/README.md": "project/vocabularies.md",
    "README.md": "README.md",
}
_CODE = re.compile(r"(^```.*?^```|`[^`\n]*`)", re.M | re.S)
_ROLE = re.compile(r":(?:func|class|meth|attr|data|mod):<code>([^<]*)</code>")
_LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Headings are called in links what a Git host calls them."""
    config.mdx_configs.setdefault("toc", {})["slugify"] = slugify(case="lower")
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Bring in the pages that stand outside docs/."""
    for origin, place in OUTSIDE.items():
        if place != origin:
            files.append(File.generated(config, place, content=(ROOT / origin).read_text(encoding="utf-8")))
    for notebook in sorted((ROOT / "docs").rglob("*.ipynb")):
        place = notebook.relative_to(ROOT / "docs").with_suffix(".md").as_posix()
        files.append(File.generated(config, place, content=page_of(notebook)))
    return files


def page_of(notebook: Path) -> str:
    """The cells of a notebook as a page; it is kept without what they print."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    texts = ["".join(cell["source"]) for cell in cells]
    parts = [
        text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```"
        for cell, text in zip(cells, texts, strict=True)
    ]
    return "\n\n".join([*parts, f"[This page as a notebook]({notebook.name}): `docs/notebooks/{notebook.name}`.\n"])


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """The page with its links as the site has them."""
    here = page.file.src_uri
    origin = {place: path for path, place in OUTSIDE.items() if place != path}.get(here, f"docs/{here}")
    markdown = re.sub(r"^```python no-run: .*$", "```python", markdown, flags=re.M)
    # Code is not touched, but may be the words of a link: it is set aside first.
    kept: list[str] = []

    def aside(found: re.Match[str]) -> str:
        kept.append(found[0] if found[0].startswith("```") else found[0].replace(r"\|", "|"))
        return f"\x00{len(kept) - 1}\x00"

    def led(found: re.Match[str]) -> str:
        words, target = found.groups()
        place = site_link(origin, here, target)
        return words if place is None else f"[{words}]({place})"

    linked = _LINK.sub(led, _CODE.sub(aside, markdown))
    return re.sub(r"\x00(\d+)\x00", lambda found: kept[int(found[1])], linked)


def on_page_content(html: str, page: Page, **_: Any) -> str:
    """Docstrings say ``:func:`name``` and ``docs/page.md``: on the site both are links."""
    here = page.file.src_uri
    if not here.startswith("api/"):
        return html

    def named(found: re.Match[str]) -> str:
        name = found[1].removeprefix("~")
        identifier = _public(name)
        code = f"<code>{name if identifier is None else identifier.rpartition('.')[2]}</code>"
        return code if identifier is None else f'<autoref identifier="{identifier}" optional>{code}</autoref>'

    def led(found: re.Match[str]) -> str:
        place = site_link(f"docs/{here}", here, posixpath.relpath(found[0], f"docs/{posixpath.dirname(here)}"))
        return found[0] if place is None else f'<a href="{place.removesuffix(".md")}.html">{found[0]}</a>'

    return re.sub(r"\bdocs/[\w/-]+\.md\b", led, _ROLE.sub(named, html))


def _public(name: str) -> str | None:
    """What the page of Python names calls ``name`` (``Store.read``, ``ecgstore.sharing.pull``), if it is there."""
    first, *rest = name.removeprefix("ecgstore.").removeprefix("sharing.").removeprefix("ecgtrain.").split(".")
    for page in sorted((ROOT / "docs" / "api").glob("*.md")):
        for whole in re.findall(r"(?m)^::: (\S+)$", page.read_text(encoding="utf-8")):
            if whole.rpartition(".")[2] == first:
                return ".".join([whole, *rest])
    return None


def site_link(origin: str, here: str, target: str) -> str | None:
    """Where a link of the repository's file ``origin`` leads from ``here`` on the site; None if it is not there."""
    if re.match(r"[a-z]+:|#", target):
        return target
    path, _, anchor = target.partition("#")
    wanted = posixpath.normpath(posixpath.join(posixpath.dirname(origin), path))
    if (ROOT / wanted).is_dir():
        wanted = f"{wanted}/README.md"
    place = wanted.removeprefix("docs/") if wanted.startswith("docs/") else OUTSIDE.get(wanted)
    if wanted.endswith(".ipynb") and here != str(place).removesuffix(".ipynb") + ".md":
        place = str(place).removesuffix(".ipynb") + ".md"
    if place is None:
        return None
    return posixpath.relpath(place, posixpath.dirname(here) or ".") + (f"#{anchor}" if anchor else "")

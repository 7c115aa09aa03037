"""What the site needs beside its pages: formulas as MathML, and the source files they link to."""

import html
import re
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.structure.files import File, InclusionLevel

ROOT = Path(__file__).parents[1]
# A link out of docs/: its text, the file, the place in it.
_LINK = re.compile(r"\[([^\]]*)\]\(\.\./([^)#\s]+)(#[^)]*)?\)")
_FORMULA = re.compile(r'<(div|span) class="arithmatex">(.*?)</\1>', re.DOTALL)


def on_files(files, config):
    """Adds a page for every source file that some page links to."""
    linked = {
        target
        for page in files.documentation_pages()
        for _, target, _ in _LINK.findall(page.content_string)
    }
    for target in sorted(linked):
        if target.endswith(".py"):
            code = (ROOT / target).read_text()
            text = f"---\nsearch:\n  exclude: true\n---\n# {target}\n\n~~~~python\n{code}\n~~~~\n"
            page = File.generated(
                config,
                f"source/{target}.md",
                content=text,
                inclusion=InclusionLevel.NOT_IN_NAV,
            )
            files.append(page)
    return files


def on_page_markdown(markdown, page, config, files):
    """Leads links out of docs/ to the pages that stand for their files; others become plain."""

    def rewritten(match):
        text, target, place = match.groups()
        if target == "README.md":
            return f"[{text}](index.md{place or ''})"
        if target.endswith(".py"):
            return f"[{text}](source/{target}.md)"
        return f"{text} (`{target}` in the checkout)"

    return _LINK.sub(rewritten, markdown)


def on_page_content(content, page, config, files):
    """Formulas as MathML, which browsers draw without scripts."""

    def formula(match):
        block = match[1] == "div"
        latex = html.unescape(match[2]).strip().removeprefix("\\[").removesuffix("\\]")
        latex = latex.removeprefix("\\(").removesuffix("\\)")
        return convert(latex, display="block" if block else "inline")

    return _FORMULA.sub(formula, content)

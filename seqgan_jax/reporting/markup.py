"""HTML as a tree, so that nothing that a user wrote is ever taken for markup."""

import re
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

# What HTML forbids: control characters, surrogates and the code points that are no characters.
_NO_CHARACTERS = "".join(
    chr(plane * 0x10000 + last) for plane in range(17) for last in (0xFFFE, 0xFFFF)
)
_FORBIDDEN = re.compile(rf"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef{_NO_CHARACTERS}]")


def tag(name: str, /, *children: Element | str | None, **attributes: str | bool | None) -> Element:
    """An element.

    Args:
      name: its name.
      children: elements, and text that is escaped when it is written; None is left out.
      attributes: a name's underscores become hyphens, but for one at its end, which only keeps
        Python's words apart (`class_`). True gives no value; None and False leave it out.
    """
    found = {key.rstrip("_").replace("_", "-"): x for key, x in attributes.items()}
    node = Element(
        name,
        {key: "" if x is True else _clean(x) for key, x in found.items() if x not in (None, False)},
    )
    for child in children:
        if isinstance(child, str):
            if len(node):
                node[-1].tail = (node[-1].tail or "") + _clean(child)
            else:
                node.text = (node.text or "") + _clean(child)
        elif child is not None:
            node.append(child)
    return node


def document(root: Element) -> bytes:
    """The HTML document of an element `html`, in UTF-8."""
    text = ElementTree.tostring(root, encoding="unicode", method="html")
    return f"<!DOCTYPE html>\n{text}\n".encode()


def _clean(text: str) -> str:
    return _FORBIDDEN.sub("\ufffd", text)

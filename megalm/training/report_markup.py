"""Markup as a tree: escaping and closing tags are the library's work, so a report is well formed whatever it shows."""

import re
import xml.etree.ElementTree as ET
from typing import TypeAlias

Node: TypeAlias = ET.Element


def node(tag: str, *children: "Node | str", **attributes: object) -> Node:
    """Return one element of HTML or SVG.

    Args:
        tag: of the element.
        children: elements and texts, in order.
        attributes: by name; a trailing ``_`` is dropped and an inner one is a hyphen (``class_``, ``text_anchor``).
            Numbers are written short.
    """
    made = ET.Element(tag, {name.rstrip("_").replace("_", "-"): _text(value) for name, value in attributes.items()})
    for child in children:
        if isinstance(child, ET.Element):
            made.append(child)
        elif len(made):
            made[-1].tail = (made[-1].tail or "") + child
        else:
            made.text = (made.text or "") + child
    return made


def table(head: list[str], body: list[list[str]]) -> Node:
    """Return a table with one head row; columns of numbers stand to the right."""
    classes = [
        {"class_": "number"} if all(_is_number(cell) for cell in column) else {} for column in zip(*body, strict=True)
    ]
    top = [node("th", cell, scope="col", **look) for cell, look in zip(head, classes, strict=True)]
    rows = [
        node("tr", *(node("td", cell, **look) for cell, look in zip(cells, classes, strict=True))) for cells in body
    ]
    return node("div", node("table", node("thead", node("tr", *top)), node("tbody", *rows)), class_="scroll")


def page(root: Node) -> str:
    """Return the HTML text of a whole page."""
    return f"<!doctype html>\n{ET.tostring(root, encoding='unicode', method='html')}\n"


def _text(value: object) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def _is_number(cell: str) -> bool:
    return re.fullmatch(r"[\d,.]+( ([KMGT]i)?B)?|-?", cell) is not None

"""Records: what instruction tuning, sequence-to-sequence learning and classification read, one JSON object a line.

=========  ========================================================  =====================================
kind       a line holds                                              a document's parts
=========  ========================================================  =====================================
instruct   ``instruction``, ``output``, and ``input`` if there is    the prompt, the answer
chat       ``messages``, each a ``role`` and a ``content``           each turn: of others, of the assistant
pairs      ``source``, ``target``                                    the source, the target
labelled   ``text``, ``label``                                       the text, the number of the label
=========  ========================================================  =====================================

Other keys are not read.
"""

import json
from collections.abc import Callable, Mapping
from enum import IntEnum
from typing import Any, Literal

Kind = Literal["instruct", "chat", "pairs", "labelled"]
Record = Mapping[str, Any]
"""A record with the keys of its kind and no others."""

ROLES = ("system", "user", "assistant")


class Part(IntEnum):
    """What a part of a document is for; it is stored as the ``mode`` of a sequence."""

    GIVEN = 0
    ASKED = 1
    LABEL = 2


def read_record(kind: Kind, content: Any) -> Record | str:
    """Return the record that a line holds, or what is wrong with the line, as the end of a sentence."""
    if not isinstance(content, dict):
        return "is not an object; give every line one, in braces"
    return READERS[kind](content)


def words(kind: Kind, record: Record) -> str:
    """Return the text of a record, by which it is cleaned; empty where it holds nothing to learn from."""
    if kind == "chat":
        contents = [message["content"] for message in record["messages"]]
        needed = [message["content"] for message in record["messages"] if message["role"] == "assistant"]
    else:
        contents = list(record.values())
        needed = [text for name, text in record.items() if name != "input"]
    return "\n".join(contents) if all(text.strip() for text in needed) else ""


def to_text(record: Record) -> str:
    """Return a record as it is kept between the steps of a preparation."""
    return json.dumps(record, ensure_ascii=False)


def _texts(*names: str) -> Callable[[Mapping[str, Any]], Record | str]:
    def read(content: Mapping[str, Any]) -> Record | str:
        absent = [name for name in names if not isinstance(content.get(name), str)]
        return f'has no "{absent[0]}" string; give every line one' if absent else {n: content[n] for n in names}

    return read


def _instruct(content: Mapping[str, Any]) -> Record | str:
    return _texts("instruction", "input", "output")({**content, "input": content.get("input") or ""})


def _chat(content: Mapping[str, Any]) -> Record | str:
    messages = content.get("messages")
    if not isinstance(messages, list) or not messages:
        return 'has no "messages" list; give every line one'
    read = []
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("content"), str):
            return 'has a message without a "content" string; give every message one'
        if message.get("role") not in ROLES:
            return f'has a message whose "role" is none of {", ".join(ROLES)}; give every message one'
        read.append({"role": message["role"], "content": message["content"]})
    while read and read[-1]["role"] != "assistant":  # nothing is asked behind its last turn
        read.pop()
    if not read:
        return "has no message of the assistant, so that nothing is asked; add one or remove the line"
    return {"messages": read}


def _labelled(content: Mapping[str, Any]) -> Record | str:
    label = content.get("label")
    if isinstance(label, int) and not isinstance(label, bool):
        content = {**content, "label": str(label)}
    return _texts("text", "label")(content)


READERS: Mapping[str, Callable[[Mapping[str, Any]], Record | str]] = {
    "instruct": _instruct,
    "chat": _chat,
    "pairs": _texts("source", "target"),
    "labelled": _labelled,
}
"""By kind."""

"""The small files that go with a model: its tokenizer, and how it generates."""

import shutil
from collections.abc import Iterable
from pathlib import Path

TOKENIZER = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja"),
    *("vocab.json", "merges.txt", "vocab.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model"),
)
GENERATION = "generation_config.json"


def copy_side_files(places: Iterable[Path], out: Path) -> list[str]:
    """Copy the files of the first place that has a tokenizer, and return their names.

    Args:
        places: directories to look in, in order.
        out: where they go.
    """
    for place in places:
        found = [name for name in (*TOKENIZER, GENERATION) if (place / name).is_file()]
        if set(found) - {GENERATION}:
            for name in found:
                shutil.copyfile(place / name, out / name)
            return found
    return []

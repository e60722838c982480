"""Learning the tokenizer from cleaned shards, and turning a shard into token ids."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from megalm.data.bpe import open_tokenizer, train_bpe, vocabulary_size
from megalm.data.clean_shard import read_shard, read_texts
from megalm.data.fates import Fate, fraction, read_fates
from megalm.data.files import write_text
from megalm.data.indexed import pair, token_dtype
from megalm.data.indexed_writer import IndexedWriter
from megalm.data.meta import TRAIN, VALIDATION
from megalm.data.render import Rendering


@dataclass(frozen=True)
class TokenizerJob:
    """Learn byte-level BPE from the training documents; the held-out ones have no say.

    Attributes:
        sample_bytes: about how much text to learn from; the documents are drawn by a hash of their text.
        rendering: how documents are read; its special tokens are the tokenizer's.
    """

    shards: tuple[Path, ...]
    fates: Path
    vocab_size: int
    sample_bytes: int
    rendering: Rendering
    target: Path

    def run(self) -> None:
        """Write the ``tokenizer.json``."""
        shards = [read_shard(path) for path in self.shards]
        in_train = [fates == Fate.TRAIN for fates in read_fates(self.fates, [len(shard.names) for shard in shards])]
        total = sum(int(shard.sizes_d[wanted].sum()) for shard, wanted in zip(shards, in_train, strict=True))
        share = self.sample_bytes / total
        sampled = [
            wanted & (fraction(shard.digests_db, 1) < share) for shard, wanted in zip(shards, in_train, strict=True)
        ]
        if not any(wanted.any() for wanted in sampled):
            sampled = in_train
        kept = (text for path, wanted in zip(self.shards, sampled, strict=True) for text in read_texts(path, wanted))
        texts = (text for document in kept for text in self.rendering.learnable(document))
        tokenizer = train_bpe(texts, self.vocab_size, self.rendering.special_tokens)
        write_text(self.target, tokenizer.to_str(pretty=True))


@dataclass(frozen=True)
class TokenJob:
    """Encode the kept documents of one shard into a ``.bin/.idx`` pair for each split.

    Attributes:
        fates: what becomes of each text of the shard, uint8 [texts].
        end_id: the token that ends a document.
        rendering: how documents become token ids.
        prefix: the pairs are ``PREFIX-train`` and ``PREFIX-validation``.
    """

    shard: Path
    fates: NDArray[np.uint8]
    tokenizer: Path
    end_id: int
    rendering: Rendering
    prefix: Path

    def split(self, name: str) -> Path:
        """Return the prefix of the pair of a split."""
        return self.prefix.with_name(f"{self.prefix.name}-{name}")

    @property
    def target(self) -> Path:
        """The file that is written last."""
        return pair(self.split(TRAIN))[1]

    def run(self) -> None:
        """Write both pairs."""
        tokenizer = open_tokenizer(self.tokenizer)
        dtype = token_dtype(max(vocabulary_size(tokenizer), len(self.rendering.labels)))
        for name, fate in ((VALIDATION, Fate.VALIDATION), (TRAIN, Fate.TRAIN)):
            with IndexedWriter(self.split(name), dtype) as writer:
                for text in read_texts(self.shard, self.fates == fate):
                    writer.add_parts(self.rendering.sequences(tokenizer, text, self.end_id))

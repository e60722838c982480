"""The steps of a preparation, each a list of jobs: clean, decide, learn the tokenizer, encode, join."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress

from megalm.data.bpe import end_of_document, open_tokenizer, vocabulary_size
from megalm.data.clean_shard import CleanJob, CleanShard, read_shard, read_texts
from megalm.data.cleaning import Reason
from megalm.data.fates import Fate, FateJob, read_fates
from megalm.data.files import write_text
from megalm.data.indexed import IndexedTokens, token_dtype
from megalm.data.indexed_writer import IndexedWriter
from megalm.data.meta import FORMAT, META, TOKENIZER, TRAIN, VALIDATION, Meta, RecordsMeta, tokenizer_digest
from megalm.data.options import Options
from megalm.data.part_statistics import part_statistics
from megalm.data.report import Report
from megalm.data.sources import Span
from megalm.data.token_shard import TokenizerJob, TokenJob
from megalm.data.workers import Job, Workers
from megalm.errors import UserError


@dataclass(frozen=True)
class Steps:
    """The steps of one preparation in one work folder; what is done there already is not done again."""

    shards: list[tuple[Span, ...]]
    options: Options
    work: Path
    workers: Workers
    console: Console

    def run(self) -> Report:
        """Do all steps; the corpus then lies in the work folder, under the names that a run expects.

        Raises:
            UserError: bad input, or no document was left for training.
        """
        cleaned, paths = self._clean()
        report = Report(read=sum(len(shard.names) + len(shard.dropped) for shard in cleaned))
        for shard in cleaned:
            report.normalized += shard.normalized
            for reason, name in shard.dropped:
                report.drop(reason, name)
        if not any(shard.names for shard in cleaned):
            raise UserError(f"No document is left after cleaning: {report.sentence()}.")
        fates_path = self.work / "fates.bin"
        fate_job = FateJob(paths, self.options.near_duplicates, self.options.validation, fates_path)
        self._do("looking for duplicates", [fate_job])
        fates = read_fates(fates_path, [len(shard.names) for shard in cleaned])
        for shard, codes in zip(cleaned, fates, strict=True):
            for fate, reason in (
                (Fate.EXACT_DUPLICATE, Reason.EXACT_DUPLICATE),
                (Fate.NEAR_DUPLICATE, Reason.NEAR_DUPLICATE),
            ):
                for index in (codes == fate).nonzero()[0]:
                    report.drop(reason, shard.names[index])

        self._learn(paths, fates_path)
        tokenizer = open_tokenizer(self.work / TOKENIZER)
        end_token, end_id = end_of_document(tokenizer, self.options.end_of_document)
        rendering = self.options.rendering.with_labels(
            text
            for path, codes in zip(paths, fates, strict=True)
            for text in read_texts(path, codes <= Fate.VALIDATION)
        )
        jobs = [
            TokenJob(path, codes, self.work / TOKENIZER, end_id, rendering, self.work / f"tokens-{number:06}")
            for number, (path, codes) in enumerate(zip(paths, fates, strict=True))
        ]
        self._do("encoding", jobs)
        report.vocab_size = vocabulary_size(tokenizer)
        dtype = token_dtype(max(report.vocab_size, len(rendering.labels)))
        report.train_documents, report.train_tokens = self._join(TRAIN, jobs, dtype)
        report.validation_documents, report.validation_tokens = self._join(VALIDATION, jobs, dtype)
        if rendering.kind is not None:
            report.parts = part_statistics(IndexedTokens(self.work / TRAIN), rendering.labels)
        meta = Meta(
            format=FORMAT,
            vocab_size=report.vocab_size,
            eos_token=end_token,
            eos_id=end_id,
            dtype=dtype.name,
            tokenizer_digest=tokenizer_digest(self.work / TOKENIZER),
            train_documents=report.train_documents,
            train_tokens=report.train_tokens,
            validation_documents=report.validation_documents,
            validation_tokens=report.validation_tokens,
            records=None if rendering.kind is None else RecordsMeta.of(rendering, report.parts),
        )
        write_text(self.work / META, meta.model_dump_json(indent=2, exclude_none=True) + "\n")
        return report

    def _clean(self) -> tuple[list[CleanShard], tuple[Path, ...]]:
        find_near = self.options.near_duplicates > 0
        jobs = [
            CleanJob(
                spans, self.options.rules, self.options.rendering.kind, find_near, self.work / f"clean-{number:06}.npz"
            )
            for number, spans in enumerate(self.shards)
        ]
        self._do("cleaning", jobs)
        paths = tuple(job.target for job in jobs)
        return [read_shard(path) for path in paths], paths

    def _learn(self, shards: tuple[Path, ...], fates: Path) -> None:
        target = self.work / TOKENIZER
        if self.options.tokenizer is not None:
            shutil.copyfile(self.options.tokenizer, target)
        elif self.options.vocab_size is not None:
            size, rendering = self.options.vocab_size, self.options.rendering
            job = TokenizerJob(shards, fates, size, self.options.sample_bytes(), rendering, target)
            self._do("learning the tokenizer", [job])

    def _do(self, title: str, jobs: Sequence[Job]) -> None:
        done = sum(job.target.exists() for job in jobs)
        if done:
            self.console.print(f"{title}: {done} of {len(jobs)} done before")
        with Progress(console=self.console, disable=not self.console.is_terminal) as progress:
            task = progress.add_task(title, total=len(jobs), completed=done)
            for _ in self.workers.run(jobs):
                progress.advance(task)
        if not self.console.is_terminal:
            self.console.print(f"{title}: {len(jobs)} of {len(jobs)} done")

    def _join(self, split: str, jobs: list[TokenJob], dtype: np.dtype[Any]) -> tuple[int, int]:
        documents = tokens = 0
        with IndexedWriter(self.work / split, dtype) as writer:
            for job in jobs:
                shard = IndexedTokens(job.split(split))
                writer.add_corpus(shard)
                documents += shard.num_documents
                tokens += shard.num_tokens
        return documents, tokens

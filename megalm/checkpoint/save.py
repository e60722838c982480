"""One save, as one rank goes through it."""

import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import torch
from torch.distributed.checkpoint.filesystem import DEFAULT_SUFFIX, FileSystemWriter, _StorageInfo
from torch.distributed.checkpoint.metadata import MetadataIndex, StorageMeta
from torch.distributed.checkpoint.planner import SavePlan
from torch.distributed.checkpoint.storage import WriteResult

from megalm.checkpoint.disk import DurableFiles
from megalm.checkpoint.folders import UNMARKED, Folders
from megalm.checkpoint.manifest import FACTS, MANIFEST, Fingerprint, Manifest, mark_of
from megalm.checkpoint.peers import Peers
from megalm.checkpoint.piece import Piece
from megalm.checkpoint.plan import FILES_PER_RANK, Description, PiecePlanner, describe, make_plan
from megalm.errors import UserError


class _Writer(FileSystemWriter):
    """torch's names and metadata of checkpoint files, onto durable files.

    The files are torch's ``.distcp``, each a row of ``torch.save`` entries, which load with ``weights_only``. DCP's
    safetensors files are not used: they keep only one rectangle of a tensor in each file, and build a whole file in
    memory.
    """

    def __init__(self, folder: Path, files: DurableFiles) -> None:
        super().__init__(folder, sync_files=False, per_thread_copy_ahead=0)  # copies ahead are not synced on each GPU
        self.fs = files

    def storage_meta(self) -> StorageMeta:
        """Return nothing: the folder's name during the save is of no interest."""
        return StorageMeta()


class Save:
    """The save of one step: ``plan`` while training waits, ``write`` at any time after that."""

    def __init__(self, folders: Folders, peers: Peers, step: int) -> None:
        """See the class."""
        self._folders = folders
        self._peers = peers
        self._step = step

    def plan(self, pieces: Mapping[str, Piece], facts: Mapping[str, Any], *, copy: bool) -> None:
        """Agree on who writes what, and copy this rank's part of it if asked to."""
        pieces = {name: piece.without_empty_parts() for name, piece in pieces.items()}

        def offer() -> tuple[str, Description]:
            self._facts = json.dumps(dict(facts), indent=1) + "\n"
            with self._told():
                return (self._folders.begin(self._step).name if self._peers.first else ""), describe(pieces)

        offers = self._peers.together(offer)
        self._folder = self._folders.directory / offers[0][0]
        self._files = DurableFiles()
        self._writer = _Writer(self._folder, self._files)
        self._planner = PiecePlanner(pieces)
        plan = make_plan([description for _, description in offers], self._planner)
        self._index = plan.index
        self._plans = self._writer.prepare_global_plan(list(plan.files))[plan.of_rank(self._peers.rank)]
        if copy:
            self._planner.copy_values(self._plans)

    def write(self) -> None:
        """Write this rank's values; the first rank completes the checkpoint when all have."""
        try:
            written = self._peers.together(self._write_values)
            self._peers.together(lambda: self._complete(written) if self._peers.first else None)
        except Exception:
            if self._peers.first:
                self._folders.abandon(self._folder)
            raise

    def _write_values(self) -> dict[str, Any]:
        """Write this rank's files, and return their fingerprints and what lies where in them."""
        with self._told(), ThreadPoolExecutor(FILES_PER_RANK) as threads:
            results = [result for file in threads.map(self._write_file, self._plans) for result in file]
        return {
            "files": {name: (file.size, file.sha256) for name, file in self._files.written.items()},
            "values": [
                (
                    result.index.fqn,
                    result.index.offset,
                    result.index.index,
                    result.storage_data.relative_path,
                    result.storage_data.offset,
                    result.storage_data.length,
                )
                for result in results
            ],
        }

    def _write_file(self, plan: SavePlan) -> list[WriteResult]:
        """Write one file, one value after the other: torch's writer keeps its copies of all until the file is whole."""
        if not plan.items:
            return []
        name, results = f"{plan.storage_data.prefix}0{DEFAULT_SUFFIX}", []
        with self._files.create_stream(self._folder / name, "wb") as stream:
            for item in plan.items:
                values, start = self._planner.values_alone(item.index), stream.tell()
                torch.save(values, cast(IO[bytes], stream))
                place = _StorageInfo(name, start, stream.tell() - start)
                results.append(WriteResult(item.index, values.nbytes, place))
        return results

    def _complete(self, written: list[dict[str, Any]]) -> None:
        """Write what the folder holds, and turn it into the checkpoint of this step."""
        results = [
            WriteResult(MetadataIndex(name, offsets, index), length, _StorageInfo(file, offset, length))
            for values in written
            for name, offsets, index, file, offset, length in values["values"]
        ]
        files = {name: Fingerprint(*file) for values in written for name, file in values["files"].items()}
        with self._told():
            self._writer.finish(self._index, [results])
            self._files.write_text(self._folder / FACTS, self._facts)
            manifest = Manifest(self._step, {**files, **self._files.written})
            self._files.write_text(self._folder / MANIFEST, manifest.to_json())
            self._files.write_text(self._folder / UNMARKED, mark_of(self._files.written[MANIFEST]))
            self._folders.publish(self._folder, self._step)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Turn what the file system refuses into one sentence."""
        try:
            yield
        except Exception as error:
            cause: BaseException | None = error
            while cause is not None and not isinstance(cause, OSError):
                cause = cause.__context__  # torch hides the disk's answer behind its own
            if cause is None:
                raise
            raise UserError(
                f"the checkpoint of step {self._step} could not be saved in {self._folders.directory} "
                f"({cause.strerror or cause}); those saved before it stay good: mend that and run again."
            ) from error

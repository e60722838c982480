"""What ``config.json`` says of a run's data: the names of classes, and the special tokens around sequences."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from megalm.data.bpe import open_tokenizer
from megalm.data.meta import TOKENIZER, records_of
from megalm.data.special_tokens import SpecialTokens
from megalm.errors import UserError
from megalm.models.config_json import class_keys
from megalm.models.encoder_decoder_shape import ENCODER_DECODERS
from megalm.models.encoder_shape import ENCODERS
from megalm.run_config import RunConfig
from megalm.training.document_end import end_ids
from megalm.training.seq2seq import framing_of


def data_facts(config: RunConfig, places: Sequence[Path], like: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of a ``config.json`` that a run's data settle, those that stand in ``like`` already left out.

    Args:
        config: the run.
        places: directories where its tokenizer may lie, beside that of its data.
        like: the file that the model came from, if it came from one. Names of classes that the data have count more.
    """
    return _class_names(config) | _special_ids(config, places, like)


def _class_names(config: RunConfig) -> dict[str, Any]:
    """Return the names of classes, if all data that have names agree."""
    number = config.model.num_labels
    if number is None:
        return {}
    found = [records.labels for records in records_of(config.corpora) if records.labels]
    return class_keys(found[0], number) if found and all(names == found[0] for names in found) else {}


def _special_ids(config: RunConfig, places: Sequence[Path], like: Mapping[str, Any]) -> dict[str, Any]:
    """Return what sequences begin, end and are filled up with; absent keys would mean the ids of published models."""
    files = [*(place / TOKENIZER for place in places), config.tokenizer_path()]
    file = next((path for path in files if path is not None and path.is_file()), None)
    if config.model.family in ENCODER_DECODERS:
        return {} if file is None else _ids_around_targets(config, file, like)
    if config.model.family in ENCODERS or like:  # a directory that leaves them out means the published ones
        return {}
    return _ids_of_documents(config, file)


def _ids_of_documents(config: RunConfig, file: Path | None) -> dict[str, Any]:
    """Return what a document of a decoder's data begins and ends with: what ended the one before it, if it is known."""
    ends = end_ids(config, None if file is None else open_tokenizer(file))
    end = next((token for token in ends if token < config.model.vocab_size), None)
    return {"bos_token_id": end, "eos_token_id": end}


def _ids_around_targets(config: RunConfig, file: Path, like: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an encoder-decoder's targets begin and end with, those that ``like`` leaves open."""
    try:
        framing = framing_of(config, SpecialTokens.of(file))
    except UserError:  # the tokenizer lacks one, as the run's own cannot
        return {}
    ids = {"pad_token_id": framing.pad, "eos_token_id": framing.end, "decoder_start_token_id": framing.start}
    if config.model.family == "bart":
        ids |= {"bos_token_id": framing.end if framing.first is None else framing.first}
    known: dict[str, Any] = {
        key: number for key, number in ids.items() if number < config.model.vocab_size and like.get(key) is None
    }
    if config.model.family == "bart" and "forced_eos_token_id" not in like:
        # Absent, it forces an end where a run forces none.
        known["forced_eos_token_id"] = None
    return known

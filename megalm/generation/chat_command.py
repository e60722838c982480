"""``megalm generate --chat`` as each rank carries it out; the first one reads and prints."""

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from megalm.data.bpe import open_tokenizer
from megalm.data.meta import records_of
from megalm.data.records import Kind
from megalm.data.template import FIELDS, Template, template_of
from megalm.errors import UserError
from megalm.generation.dialogue import Dialogue
from megalm.generation.dialogue_reader import DialogueReader
from megalm.generation.ending import Ending, Stream
from megalm.generation.generate import generate
from megalm.generation.lines import Lines
from megalm.generation.model import LanguageModel
from megalm.generation.opened import mesh_of, open_model, tokenizer_file
from megalm.generation.options import Options
from megalm.launcher.exit_codes import REFUSED
from megalm.launcher.placement import Placement
from megalm.launcher.relay import STDIN
from megalm.run_config import RunConfig
from megalm.training.document_end import end_ids

EXIT, RESET = "/exit", "/reset"
SPECIAL = re.compile(r"<\|[^|\s]+\|>")
"""How templates of chat spell special tokens."""


@dataclass(frozen=True)
class Chat:
    """What the command line asks for.

    Args:
        directory: a checkpoint, a run, or a Hugging Face directory.
        overrides: the layout and the like.
        options: how answers are made.
        stop_texts: what ends an answer, beside what the template closes it with.
        tokenizer: a ``tokenizer.json``, if not the run's own.
        template: a named one or a file, if not that of the run's data.
        system: what the system says before all.
        task: whose model it is, of a run of several tasks.
        typed: whether somebody types the lines, and is asked for each.
    """

    directory: Path
    overrides: Sequence[str]
    options: Options
    stop_texts: Sequence[str] = ()
    tokenizer: Path | None = None
    template: str | None = None
    system: str | None = None
    task: str | None = None
    typed: bool = False


def run(chat: Chat, placement: Placement) -> int:
    """Answer lines until there are no more, as one rank of the layout, and return the exit code.

    A line that is refused is told, and the dialogue goes on without it.

    Raises:
        UserError: something that the user can mend before a dialogue can begin.
    """
    with mesh_of(chat.overrides, placement) as mesh:
        speaker = _Speaker(chat, open_model(chat.directory, chat.overrides, mesh, chat.task))
        lines, code = Lines(mesh, STDIN, typed=chat.typed), 0
        while (line := lines.next()) is not None and line.strip() != EXIT:
            if line.strip() == RESET:
                speaker.dialogue.reset()
            elif line.strip():
                try:
                    speaker.answer(line)
                except UserError as error:
                    code = REFUSED
                    if mesh.rank == 0:
                        print(f"megalm: {error}", file=sys.stderr, flush=True)
        return code


class _Speaker:
    """Answers, and shows what it says on the first rank."""

    def __init__(self, chat: Chat, model: LanguageModel) -> None:
        self._options, self._silent = chat.options, model.mesh.rank > 0
        self._tokenizer, self.dialogue = _begun(chat, model)
        stop_texts = [*self.dialogue.stop_texts, *chat.stop_texts]
        self._ending = Ending(self.dialogue.stop_ids, stop_texts, self._tokenizer)
        self._reader = DialogueReader(model, chat.options.max_new_tokens)
        self._num_answers = 0

    def answer(self, line: str) -> None:
        """Say what follows a line, as it is found.

        Raises:
            UserError: the line has no room.
        """
        prompt = self.dialogue.ask(line)
        stream = Stream(self._tokenizer, self._ending, self._show)

        def told(_: int, tokens: Sequence[int]) -> None:
            stream.add(tokens)

        (tokens,) = generate(self._reader, [prompt], self._options, self._ending, told, self._num_answers)
        stream.end()
        self._show("\n")
        self.dialogue.answered(tokens, self._ending)
        self._num_answers += 1

    def _show(self, text: str) -> None:
        if not self._silent:
            print(text, end="", flush=True)


def _begun(chat: Chat, model: LanguageModel) -> tuple[Tokenizer, Dialogue]:
    config, most = model.config, model.config.model.longest_sequence
    if model.reads_sources:
        raise UserError(
            f"--chat continues one text, and model.family={config.model.family} reads one text to say another; give "
            "--prompt."
        )
    file = tokenizer_file(config, chat.directory, chat.tokenizer)
    if file is None:
        raise UserError(f"{chat.directory}: the tokenizer of its run is not there; name it with --tokenizer.")
    tokenizer = open_tokenizer(file)
    ends = end_ids(config, tokenizer)
    if not ends:
        raise UserError(f"{file} has no token that ends documents, with which answers end; name another --tokenizer.")
    if most is not None and chat.options.max_new_tokens >= most:
        raise UserError(
            f"--max-new-tokens {chat.options.max_new_tokens} leaves no room for a question among the {most} positions "
            "of the model; lower it."
        )
    template, kind = _template(chat.template, config, tokenizer)
    room = None if most is None else most - chat.options.max_new_tokens
    return tokenizer, Dialogue(template, kind, tokenizer, ends[0], room, chat.system)


def _template(named: str | None, config: RunConfig, tokenizer: Tokenizer) -> tuple[Template, Kind]:
    """Return the template that was named, else that of the run's data, and the kind of the records.

    Raises:
        UserError: there is none, or the tokenizer lacks what a named one spells.
    """
    found = records_of(config.corpora)
    records = next((each for each in found if each.template is not None), found[0] if found else None)
    if named is None:
        if records is None or records.template is None:
            raise UserError(
                "the data of the run have no template of dialogues, or are not there; name the one that the model "
                "learned with by --template."
            )
        return records.template, records.kind
    template = template_of(named)
    spelled = [token for name in FIELDS for token in SPECIAL.findall(getattr(template, name) or "")]
    absent = next((token for token in spelled if tokenizer.token_to_id(token) is None), None)
    if absent is not None:
        raise UserError(
            f"--template {named} spells {absent}, which is no token of the model's tokenizer; name the template that "
            "the model learned with."
        )
    return template, "chat" if records is None else records.kind

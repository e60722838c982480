"""How a text is continued."""

from dataclasses import dataclass

from megalm.errors import UserError


@dataclass(frozen=True)
class Options:
    """What decides which token comes next, and when there are enough.

    Args:
        max_new_tokens: of each continuation; a token that ends it counts.
        temperature: 0 takes the most probable token; above, tokens are drawn, the more evenly the higher it is.
        top_k: draw from so many most probable tokens only; ``None`` from all.
        top_p: draw from the fewest most probable tokens that have at least this probability together.
        repetition_penalty: above 1 makes tokens of the prompt and of the continuation less probable (Keskar et al.
            2019).
        num_beams: above 1 searches for the most probable continuation, with so many kept at each token.
        seed: of the draws. A draw depends on it, the number of the prompt, and the token's position, on nothing else.

    Raises:
        UserError: a value is out of its range, or has no effect.
    """

    max_new_tokens: int = 64
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    repetition_penalty: float = 1.0
    num_beams: int = 1
    seed: int = 1234

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        for name, least in (("max_new_tokens", 1), ("top_k", 1), ("num_beams", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UserError(f"{_flag(name)} is {value}; give {least} or more.")
        if not 0 <= self.temperature < float("inf"):
            raise UserError(f"--temperature is {self.temperature}; give 0 for the most probable token, or more.")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UserError(f"--top-p is {self.top_p}; it is a probability, above 0 and at most 1.")
        if not 0 < self.repetition_penalty < float("inf"):
            raise UserError(f"--repetition-penalty is {self.repetition_penalty}; give 1 for none, or more.")
        for name in ("top_k", "top_p"):
            if getattr(self, name) is not None and not self.temperature:
                raise UserError(f"{_flag(name)} has no effect at temperature 0; give a --temperature, as 1.0.")
        if self.num_beams > 1 and self.temperature:
            raise UserError("--num-beams searches and --temperature draws; give one of them.")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")

"""Oracle: one sentence that names the option."""

from typing import Any

import pytest

from megalm.errors import UserError
from megalm.generation.options import Options


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"max_new_tokens": 0}, "--max-new-tokens is 0"),
        ({"temperature": -1.0}, "--temperature is -1.0"),
        ({"temperature": float("nan")}, "--temperature is nan"),
        ({"temperature": 1.0, "top_k": 0}, "--top-k is 0"),
        ({"temperature": 1.0, "top_p": 0.0}, "--top-p is 0.0"),
        ({"temperature": 1.0, "top_p": 1.5}, "--top-p is 1.5"),
        ({"top_k": 5}, "--top-k has no effect"),
        ({"top_p": 0.5}, "--top-p has no effect"),
        ({"repetition_penalty": 0.0}, "--repetition-penalty is 0.0"),
        ({"num_beams": 0}, "--num-beams is 0"),
        ({"num_beams": 2, "temperature": 1.0}, "--num-beams searches"),
    ],
)
def test_what_cannot_be_meant_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        Options(**given)

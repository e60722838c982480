"""A smaller model of the same kind, so that a judgement in float64 takes seconds."""

from megalm.errors import UserError
from megalm.models.config import FAMILY_DEFAULTS
from megalm.parallel.pipeline.schedule import stages_per_rank
from megalm.run_config import RunConfig
from megalm.validation import validate


def shrunk(config: RunConfig, scale: float) -> RunConfig:
    """Return the run with depth, heads and widths multiplied by ``scale``, a head's own size kept.

    There are always enough heads for tp and enough layers for the stages, whose blocks are balanced anew, and as many
    query heads to a key head as before.

    Raises:
        UserError: the family is a user's own, whose sizes only the user knows.
    """
    if scale == 1:
        return config
    model = config.model
    if model.family not in FAMILY_DEFAULTS:
        raise UserError("--scale shrinks built-in families only; make your own model smaller in its run file.")
    num_stages = config.layout.pp * stages_per_rank(config.pipeline.schedule, config.pipeline.stages_per_rank)
    key_heads = model.num_key_value_heads or model.num_attention_heads
    group = model.num_attention_heads // key_heads
    few_key_heads = max(round(key_heads * scale), -(-config.layout.tp // group), 1)
    heads = few_key_heads * group
    sizes: dict[str, object] = {
        "num_hidden_layers": max(round(model.num_hidden_layers * scale), num_stages - 2, 1),
        "num_attention_heads": heads,
        "hidden_size": model.hidden_size // model.num_attention_heads * heads,
        "intermediate_size": max(round((model.intermediate_size or 1) * scale), 1),
    }
    if model.num_key_value_heads is not None:
        sizes["num_key_value_heads"] = few_key_heads
    tree = config.model_dump(mode="json", by_alias=True, exclude_none=True)
    tree["model"] = {**tree["model"], **sizes}
    tree["model"].pop("from", None)  # its weights are of another size; drawn ones judge a layout as well
    tree["pipeline"] = {**tree["pipeline"], "blocks_per_stage": "auto"}
    return validate(RunConfig, tree)

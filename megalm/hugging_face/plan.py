"""Which slice of which file goes to which rank, from ``config.json`` and the index of files if there is one."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

from megalm.boxes import Box
from megalm.hugging_face.counterpart import Counterpart, counterpart
from megalm.hugging_face.region import Region
from megalm.hugging_face.shares import Share, Shares
from megalm.hugging_face.weights import SINGLE, files_of
from megalm.run_config import RunConfig


def plan_lines(config: RunConfig, source: Path) -> Iterator[str]:
    """Yield the plan of a run that takes its weights from a directory, rank by rank.

    Args:
        config: the run, ``model.from`` the directory.
        source: the directory; its weights need not be there.

    Raises:
        UserError: the layout does not fit the model, or the index cannot be read.
    """
    shares = Shares(config)
    theirs = counterpart(config.model, shares.specs)
    files = files_of(source)
    layout = config.layout
    yield f"{config.model.family} from {source} at tp={layout.tp} pp={layout.pp}; each data-parallel rank reads as much"
    if files is None and not (source / SINGLE).is_file():
        yield f"there is no index: all tensors are shown in {SINGLE}"
    for pp_rank in range(layout.pp):
        for tp_rank in range(layout.tp):
            held = list(shares.held(pp_rank, tp_rank))
            numbers = sum(share.box.num_elements for share in held)
            yield f"pp {pp_rank}, tp {tp_rank}: {len(held)} parameters, {numbers:,} numbers"
            for share in held:
                region = theirs.regions[share.spec.name]
                yield f"  {_file(region, files, theirs)}: {_line(share, region)}"


def _file(region: Region, files: dict[str, str] | None, theirs: Counterpart) -> str:
    if files is None:
        return SINGLE
    return files.get(region.name, files.get(region.name.removeprefix(theirs.base), "in no file"))


def _line(share: Share, region: Region) -> str:
    places = [there for there, _ in region.places(share.box)]
    ours = Box(share.box.offsets, share.box.sizes).slices()
    return f"{region.name}{shown(places)} -> {share.spec.name}{shown([ours])}"


def shown(places: Sequence[tuple[slice, ...]]) -> str:
    """Return slices of one tensor in Python's words, those that lie side by side in equal steps as one.

    ``[0:96 +288 x8, 0:6144]`` are eight runs of 96 rows, 288 from one to the next.
    """
    if not places:
        return "[]"
    dims = []
    for parts in zip(*places, strict=True):
        first = parts[0]
        text = f"{first.start}:{first.stop}"
        steps = {after.start - before.start for before, after in pairwise(parts)}
        if steps - {0}:
            whole = len({part.stop - part.start for part in parts}) == 1 and len(steps) == 1
            text += f" +{steps.pop()} x{len(parts)}" if whole else "".join(f" {p.start}:{p.stop}" for p in parts[1:])
        dims.append(text)
    return f"[{', '.join(dims)}]"

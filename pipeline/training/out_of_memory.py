"""What to do where a training step does not fit into memory."""

from h2q.errors import UserError
from pipeline.config import RunConfig


def ran_out(error: BaseException) -> bool:
    """Whether this is how torch says that memory is full: of a GPU, or (no class of its own) of the host."""
    return type(error).__name__ == "OutOfMemoryError" or "DefaultCPUAllocator" in str(error)


def too_large(config: RunConfig, device: str) -> UserError:
    """One line: how much at a time did not fit into the device, and the options that make it less."""
    rows = config.training.lanes // (config.workers * config.accumulate)
    wider = [
        parts
        for parts in range(config.accumulate + 1, config.training.lanes // config.workers + 1)
        if config.training.lanes % (config.workers * parts) == 0
    ]
    ways = [f"raise --accumulate to {wider[0]}"] if wider else []
    if config.model.memory == "store" and config.model.halves:
        ways.append("use --model.memory reversible")
    if config.training.horizon > 1:
        ways.append(f"lower --training.horizon, through whose {config.training.horizon} chunks gradients run back")
    ways.append("lower --training.lanes" if rows > 1 else "lower --model.seq-len, --model.dim or --model.depth")
    return UserError(
        f"a micro-batch must fit into the memory of {device}, but {rows} rows of {config.chunk} bytes do not: "
        f"{', '.join(ways[:-1])}{' or ' if ways[:-1] else ''}{ways[-1]}"
    )

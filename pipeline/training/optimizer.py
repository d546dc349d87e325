"""AdamW over named parameter groups, and its state by name."""

import inspect
from typing import Any

import torch
from torch import nn

from pipeline.config import TrainingConfig
from pipeline.runs.checkpoint import Tensors


def _plain(method: Any) -> Any:
    """A method of torch's optimizers without the wrapper that keeps torch's compiler away from it."""
    return inspect.unwrap(method)


class AdamW(torch.optim.AdamW):
    """torch's AdamW with its plain methods: their wrappers load torch's compiler, which takes two seconds of a start,
    merely to be left alone by it. Nothing of torch itself is changed."""

    # torch would warn that what can be captured also runs without: evaluation, warm-up and `--graph no` do.
    _warned_capturable_if_run_uncaptured = True

    step = torch.no_grad()(_plain(torch.optim.AdamW.step))
    add_param_group = _plain(torch.optim.Optimizer.add_param_group)
    zero_grad = _plain(torch.optim.Optimizer.zero_grad)
    state_dict = _plain(torch.optim.Optimizer.state_dict)
    load_state_dict = _plain(torch.optim.Optimizer.load_state_dict)


def build_optimizer(model: nn.Module, training: TrainingConfig) -> AdamW:
    """AdamW with a group each for the structure bank, the factors, weight matrices, embeddings, tables of n-grams, and
    all else.

    The bank moves every layer at once, a factor is one core of a product, most rows of a table are not seen by a step:
    so each has its own factor on the learning rate (`scale` of its group), times that which the weight family has for
    its cores. Norms, biases and embeddings are not decayed. On CUDA each group's rate is a tensor there, which a
    captured step reads again at each replay.
    """
    device = next(model.parameters()).device
    cuda = device.type == "cuda"
    rates = {
        f"{layer}.{core}": rate
        for layer, module in model.named_modules()
        for core, rate in getattr(module, "rates", {}).items()
    }
    groups: dict[tuple[str, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        groups.setdefault((_group(name, parameter), rates.get(name, 1.0)), []).append(parameter)
    scales = {
        "bank": training.bank_lr,
        "factors": training.factor_lr,
        "embeddings": training.embedding_lr,
        "tables": training.table_lr,
    }
    decays = {"undecayed": 0.0, "embeddings": 0.0, "tables": training.table_decay}
    return AdamW(
        [
            {
                "name": name,
                "params": parameters,
                "scale": scales.get(name, 1.0) * rate,
                "lr": torch.tensor(training.learning_rate, device=device) if cuda else training.learning_rate,
                "weight_decay": decays.get(name, training.weight_decay),
            }
            for (name, rate), parameters in groups.items()
        ],
        lr=training.learning_rate,
        betas=(0.9, training.beta2),
        fused=True,
        capturable=cuda,
    )


def _group(name: str, parameter: nn.Parameter) -> str:
    owners = name.split(".")[:-1]  # a model may be a part of another: the decoder of a projector
    if "bank" in owners:
        return "bank"
    if name.endswith("factors"):
        return "factors"
    if "tables" in owners:
        return "tables"
    if "emb" in name:
        return "embeddings"
    # Those of neighbours themselves are no weight matrices: taps, spreads and powers, which start where they mean most.
    if parameter.ndim < 2 or "norm" in name or owners[-1:] == ["strides"]:
        return "undecayed"
    return "matrices"


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group its share of the rate."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(rate * group["scale"])
        else:
            group["lr"] = rate * group["scale"]


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: dict[torch.nn.Parameter, str]) -> Tensors:
    """The optimizer's state as tensors named `kind/parameter`."""
    return {
        f"{kind}/{name}": value
        for parameter, name in names.items()
        for kind, value in optimizer.state.get(parameter, {}).items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, names: dict[torch.nn.Parameter, str], tensors: Tensors) -> None:
    """Put back what `optimizer_tensors` gave."""
    parameters = {name: parameter for parameter, name in names.items()}
    state: dict[Any, Any] = optimizer.state
    for key, value in tensors.items():
        kind, _, name = key.partition("/")
        parameter = parameters[name]
        if kind in state[parameter]:
            state[parameter][kind].copy_(value)  # in place: a captured step knows its tensors by their addresses
        else:
            # AdamW's fused step counts on the parameter's device.
            state[parameter][kind] = value.to(parameter.device)

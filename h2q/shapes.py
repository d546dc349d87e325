"""Models of shapes alone, for what counts parameters or checks a checkpoint before it is read."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


@contextmanager
def shapes_only() -> Iterator[None]:
    """A model built in here has shapes and dtypes, but neither values nor storage; no random number is drawn for it.

    To draw on the meta device torch imports its compiler, two seconds of every start.
    """
    with torch.device("meta"), _Undrawn():
        yield


class _Undrawn(TorchFunctionMode):
    """`torch.nn.init` leaves a tensor as it is."""

    def __torch_function__(self, func: Callable, types: object, args: Any = (), kwargs: Any = None) -> Any:
        given = {} if kwargs is None else kwargs
        if getattr(func, "__module__", None) == "torch.nn.init":
            tensor: Tensor = given["tensor"] if "tensor" in given else args[0]
            return tensor
        return func(*args, **given)

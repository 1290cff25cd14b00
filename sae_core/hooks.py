"""Hook points: modules of a language model by path, read or replaced during a forward pass."""

import difflib
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


class _Stop(Exception):
    """Ends a forward pass at the hook point: what comes after it is never computed."""


def check_hook(model: nn.Module, hook: str) -> nn.Module:
    """The module with this path, as in ``model.named_modules()``.

    Raises:
        ValueError: if there is none (the message has the range of layers, or near names), or if it is a mere list
            of modules, which has no output.
    """
    modules: dict[str, nn.Module] = dict(model.named_modules())
    module = modules.get(hook)
    if module is not None and hook and not isinstance(module, nn.ModuleList | nn.ModuleDict):
        return module
    if module is not None:
        children = [f"{hook}.{name}".lstrip(".") for name, _ in module.named_children()]
        raise ValueError(f"hook {hook!r} has no output of its own; name one of its parts, for example {children[0]!r}")
    parts = hook.split(".")
    for i, part in enumerate(parts):
        layers = modules.get(".".join(parts[:i]))
        if isinstance(layers, nn.ModuleList) and part.isdigit() and int(part) >= len(layers):
            raise ValueError(f"hook {hook!r}: layer {part} is out of range: 0 to {len(layers) - 1}")
    near = difflib.get_close_matches(hook, [name for name in modules if name], n=4, cutoff=0.5)
    hint = f"near names: {', '.join(near)}" if near else f"the model begins with: {', '.join(list(modules)[1:5])}"
    raise ValueError(f"no module {hook!r} in {type(model).__name__}; {hint}")


def _tensor(output: Any, hook: str, shape: torch.Size) -> Tensor:
    """The tensor in a module's output (the first element of a tuple), one vector for each token."""
    tensor = output[0] if isinstance(output, tuple) else output
    if not isinstance(tensor, Tensor) or tensor.dim() != 3 or tensor.shape[:2] != shape:
        got = list(tensor.shape) if isinstance(tensor, Tensor) else type(tensor).__name__
        raise ValueError(
            f"hook {hook!r}: expected an output of shape [batch, tokens, width] = [{shape[0]}, {shape[1]}, width], "
            f"got {got}; choose a module that gives a vector for each token, such as a whole layer"
        )
    return tensor


@torch.no_grad()
def read_output(model: nn.Module, hook: str, token_ids: Int[Tensor, "b l"]) -> Float[Tensor, "b l d"]:
    """Output of a module, in the number format of the model; the forward pass ends there.

    Raises:
        ValueError: if there is no such module, the forward pass does not call it, or its output is not a vector for
            each token.
    """
    found: list[Tensor] = []

    def stop(module: nn.Module, inputs: Any, output: Any) -> None:
        found.append(_tensor(output, hook, token_ids.shape))
        raise _Stop

    handle = check_hook(model, hook).register_forward_hook(stop)
    try:
        model(input_ids=token_ids, use_cache=False)
    except _Stop:
        return found[0]
    finally:
        handle.remove()
    raise ValueError(
        f"hook {hook!r}: the forward pass of {type(model).__name__} does not call this module; choose another"
    )


@torch.no_grad()
def logits_with(
    model: nn.Module,
    token_ids: Int[Tensor, "b l"],
    hook: str | None,
    replace: Callable[[Tensor], Tensor] | None,
) -> Float[Tensor, "b l vocab"]:
    """Logits, with a module's output replaced on the way where ``replace`` is given.

    ``replace`` gets the output as float32 and returns the same shape; the result continues in the format of the
    model, so that a replacement that returns its argument changes no bit.

    Raises:
        ValueError: if ``replace`` comes without a hook, or returns another shape.
    """
    if replace is None:
        return model(input_ids=token_ids, use_cache=False).logits  # type: ignore[no-any-return]
    if hook is None:
        raise ValueError("replace needs the hook whose output it replaces: got hook=None; name the module")

    def substitute(module: nn.Module, inputs: Any, output: Any) -> Any:
        old = _tensor(output, hook, token_ids.shape)
        new = replace(old.float())
        if new.shape != old.shape:
            raise ValueError(f"replace must keep the shape {list(old.shape)}: got {list(new.shape)}")
        new = new.to(old.dtype)
        return (new, *output[1:]) if isinstance(output, tuple) else new

    handle = check_hook(model, hook).register_forward_hook(substitute)
    try:
        return model(input_ids=token_ids, use_cache=False).logits  # type: ignore[no-any-return]
    finally:
        handle.remove()

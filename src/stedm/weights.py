"""Published weights: read without executing code, put into a network strictly by name and shape."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from stedm.errors import UserError

PICKLED = (".ckpt", ".pt", ".pth", ".bin")


class _Unread:
    """Stands in for a class of Lightning, whose bookkeeping lies beside the tensors of original checkpoints."""

    def __init__(self, *_: object, **__: object) -> None:
        pass


def existing(path: Path) -> Path:
    """Return the path of a file of weights that is there.

    Raises
    ------
    UserError
        If it is not.
    """
    if not Path(path).is_file():
        raise UserError(f"{path}: no such file; give the path of the published weights.")
    return Path(path)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a ``.safetensors`` file, or of what torch pickles (``.ckpt``, ``.pt``, ``.pth``, ``.bin``).

    Pickles go through torch's weights-only reader, which executes nothing.

    Raises
    ------
    UserError
        If the file is missing, is of another kind, is damaged, or holds more than tensors and plain values.
    """
    path = existing(path)
    if path.suffix != ".safetensors" and path.suffix not in PICKLED:
        raise UserError(f"{path}: weights are read from .safetensors, {', '.join(PICKLED)}, found {path.suffix!r}.")
    try:
        tensors = load_file(path) if path.suffix == ".safetensors" else _unpickle(path)
    except (SafetensorError, UnpicklingError, RuntimeError, ValueError, EOFError) as error:
        reason = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
        raise UserError(f"{path}: the weights cannot be read safely ({reason}); download them again.") from None
    if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise UserError(f"{path}: expected named tensors, found something else; give a state dict.")
    return dict(tensors)


def _unpickle(path: Path) -> object:
    unknown = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    harmless = [(_Unread, name) for name in unknown if name.startswith("pytorch_lightning.")]
    with torch.serialization.safe_globals(harmless):
        content = torch.load(path, map_location="cpu", weights_only=True)
    return content.get("state_dict", content) if isinstance(content, dict) else content


def without(tensors: Mapping[str, Tensor], *prefixes: str) -> dict[str, Tensor]:
    """Leave out tensors that a published file holds beside those of the network: losses, a classifier."""
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(prefixes)}


def check_tensors(tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], source: Path) -> None:
    """Compare the tensors of a file with the published names and shapes.

    Raises
    ------
    UserError
        Naming the first tensor that is missing, surplus or of another shape.
    """
    remedy = "give the weights of the published architecture"
    for name, shape in shapes.items():
        if name not in tensors:
            raise UserError(f"{source}: the tensor {name!r} is missing; {remedy}.")
        found = tuple(tensors[name].shape)
        if found != tuple(shape):
            raise UserError(f"{source}: the tensor {name!r} has the shape {found}, expected {tuple(shape)}; {remedy}.")
    surplus = sorted(set(tensors) - set(shapes))
    if surplus:
        raise UserError(f"{source}: the tensor {surplus[0]!r} is none of this network's; {remedy}.")


def load_exactly(
    module: nn.Module, tensors: Mapping[str, Tensor], source: Path, *, prefix: str = "", new: tuple[str, ...] = ()
) -> None:
    """Put tensors into a network, strictly.

    Parameters
    ----------
    module
        The network.
    tensors
        Tensors by their names in the file.
    source
        The file, for the error.
    prefix
        What stands before the network's own names in the file.
    new
        Beginnings of names that only the network has; these keep their values.

    Raises
    ------
    UserError
        See :func:`check_tensors`.
    """
    own = module.state_dict()
    names = {prefix + name: name for name in own if not (new and name.startswith(new))}
    check_tensors(tensors, {name: tuple(own[ours].shape) for name, ours in names.items()}, source)
    module.load_state_dict(own | {ours: tensors[name] for name, ours in names.items()})

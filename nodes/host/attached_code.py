"""What other nodes attach to a model beside weights (wrappers, hooks, replaced objects), and how it is told apart.

Code has no content that could be compared after a restart. A function of a module that has nothing bound to it is known
by its name and what it is compiled to. Any other object gets a name of its own, which it keeps as long as it lives and
which no other object ever has: two different ones are never taken for one, and the same one is not recognised after a
restart, which costs computing again.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import types
import uuid
import weakref
from collections.abc import Mapping
from enum import Enum
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

# What of a ModelPatcher, beside patches of weights, changes what it computes; an ordinary model has none of it.
CHANGING = ("injections", "forced_hooks", "hook_patches", "weight_wrapper_patches", "wrappers", "object_patches")
_REACHED = ("callbacks", "additional_models", "attachments")  # by the code that is attached
_INERT = {"lora_metadata"}  # what a LoRA's file says of itself; core's load_lora_for_models attaches it
_PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, Enum)

_own_names: dict[int, tuple[weakref.ref[Any], str]] = {}


def attached(patcher: ModelPatcher) -> dict[str, Any]:
    """Name -> what is attached to a model; empty for an ordinary one."""
    return filled({name: getattr(patcher, name, None) for name in (*CHANGING, *_REACHED)})


def filled(value: Any) -> Any:
    """A value without what is empty in its mappings: a new ModelPatcher has mappings of empty mappings."""
    if not isinstance(value, Mapping):
        return value
    kept = {key: filled(part) for key, part in value.items() if key not in _INERT}
    return {key: part for key, part in kept.items() if part is not None and not (_is_container(part) and not part)}


def is_plain(value: Any) -> bool:
    """Whether `repr` tells everything about a value, and the same after a restart."""
    if type(value) is dict:
        return all(is_plain(part) for pair in value.items() for part in pair)
    if type(value) in (list, tuple):
        return all(map(is_plain, value))
    return isinstance(value, _PLAIN)


def name_of(value: Any) -> str:
    """What an object that is not data is told apart by."""
    if isinstance(value, types.MethodType):
        return f"{value.__func__.__qualname__} of {name_of(value.__self__)}"
    if isinstance(value, type):
        return f"{value.__module__}.{value.__qualname__}"
    if isinstance(value, types.FunctionType) and not value.__closure__:
        defaults = (value.__defaults__, value.__kwdefaults__)
        if is_plain(defaults):
            return f"{value.__module__}.{value.__qualname__}{defaults} {_compiled(value.__code__)}"
    return _own_name(value)


def _own_name(value: Any) -> str:
    key = id(value)
    known = _own_names.get(key)
    if known and known[0]() is value:
        return known[1]
    name = uuid.uuid4().hex
    with contextlib.suppress(TypeError):  # where it cannot be followed, it has another name each time
        _own_names[key] = weakref.ref(value, functools.partial(_forget, key)), name
    return name


def _forget(key: int, _: weakref.ref[Any]) -> None:
    _own_names.pop(key, None)


def _compiled(code: types.CodeType) -> str:
    digest = hashlib.sha256(code.co_code + repr(code.co_names).encode())
    for constant in code.co_consts:
        digest.update((_compiled(constant) if isinstance(constant, types.CodeType) else repr(constant)).encode())
    return digest.hexdigest()[:16]


def _is_container(value: Any) -> bool:
    return isinstance(value, Mapping | list | tuple)

"""Public names are documented, and the agreed ones are there."""

import importlib
import inspect
import pkgutil

import jax
import pytest

import jmamba
import jmamba_kernels

AGREED = {
    "jmamba.ops": (
        *("selective_scan", "selective_state_update", "ssd", "ssd_state_update"),
        "causal_conv1d",
    ),
    "jmamba": (
        *("MambaConfig", "MambaLM", "Mamba2Config", "Mamba2LM", "Vim", "VimConfig"),
        *("generate", "trace"),
    ),
    "jmamba.attention": ("hidden_attention", "explain"),
    "jmamba.dynamics": ("token_jacobian",),
}


def modules():
    """Return all modules of both packages."""
    names = ["jmamba", "jmamba_kernels"]
    for package in (jmamba, jmamba_kernels):
        found = pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
        names += [info.name for info in found]
    return names


def public_members(module):
    """Return (name, object) of the public functions and classes a module defines."""
    return [
        (name, value)
        for name, value in vars(module).items()
        if not name.startswith("_")
        and getattr(value, "__module__", None) == module.__name__
        and (inspect.isroutine(inspect.unwrap(value)) or inspect.isclass(value))
    ]


@pytest.mark.parametrize("module", AGREED)
def test_agreed_names_are_there(module):
    loaded = importlib.import_module(module)
    missing = [name for name in AGREED[module] if not callable(getattr(loaded, name))]
    assert not missing


@pytest.mark.parametrize("name", modules())
def test_public_names_are_documented(name):
    module = importlib.import_module(name)
    assert (module.__doc__ or "").strip(), f"{name} does not say what it is"
    for member, value in public_members(module):
        documented = inspect.getdoc(value) or ""
        # a NamedTuple without a docstring gets its signature for one
        assert documented and not documented.startswith(f"{member}("), member
        assert documented[0].isupper() and "." in documented, f"{member}: {documented}"


def exported():
    """Return the names that the packages' __init__ files give to users."""
    for package in ("jmamba", "jmamba.ops", "jmamba.attention", "jmamba.dynamics",
                    "jmamba.checkpoints", "jmamba.evaluation"):  # fmt: skip
        for name, value in vars(importlib.import_module(package)).items():
            if not name.startswith("_") and not inspect.ismodule(value):
                yield pytest.param(value, id=f"{package}.{name}")


@pytest.mark.parametrize("value", list(exported()))
def test_exported_functions_have_typed_arguments(value):
    if not inspect.isfunction(inspect.unwrap(value)):
        return
    signature = inspect.signature(value)
    for parameter in signature.parameters.values():
        if parameter.name in ("dtype", "param_dtype", "self"):
            continue
        assert parameter.annotation is not parameter.empty, parameter
    assert signature.return_annotation is not signature.empty


def test_version_of_jax_is_supported():
    assert jax.__version_info__ >= (0, 7, 2)

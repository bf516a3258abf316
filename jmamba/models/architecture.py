"""Architectures: what the library must know of one to load, save and convert it."""

import dataclasses
import reprlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from jmamba.files.errors import CheckpointError
from jmamba.files.keys import ParameterPath, Row, plain_table
from jmamba.files.untrusted import reading
from jmamba.models.gguf_dialect import GGUFDialect

Raw = Mapping[str, Any]
"""What a config.json says."""

Shapes = Mapping[str, tuple[int, ...]]
"""Name -> shape of the tensors of a checkpoint."""

PLAIN = "plain"
"""Layout whose names follow from the parameters' own."""

_HARMLESS = frozenset(
    "model_type architectures dtype torch_dtype transformers_version tokenizer"
    " bos_token_id eos_token_id pad_token_id unpadded_vocab_size".split()
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BareFiles:
    """Weight files without a config.json, as an architecture's authors released them.

    Attributes:
      layout: that of their names.
      infer_config: called as infer_config(shapes, arguments, where, changes) with the
        tensors' shapes, the training arguments or None, what to call the file, and
        fields that are known better; returns the configuration.
      released: files to look for on the Hub, the one to prefer first.
    """

    layout: str
    infer_config: Callable[..., Any]
    released: tuple[str, ...] = ()

    def includes(self, place: Path) -> bool:
        """Say whether a file, or a folder without config.json, is of this kind."""
        return place.is_file() or any(place.glob("*.pth"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Architecture:
    """A kind of model: its classes, and how its checkpoints are written.

    Only the first three are needed. Then config.json holds the configuration's fields
    and `"model_type": name`, and tensors have the names of the parameters, layers
    numbered: `layers.0.mixer.A_log`.

    Attributes:
      name: what errors and `config.json` call it.
      model_class: the model, called as
        model_class(config, dtype=, param_dtype=, remat=, rngs=).
      config_class: its configuration, a dataclass.
      model_types: values of "model_type" that are its own; () for its name.
      owns: whether a config.json is its own; None to ask `model_types`.
      read_config: returns the configuration and the layout of the weights that a
        config.json tells; raises a ValueError that says what is wrong with it.
      write_config: called as write_config(config, dtype=), returns the config.json.
      tables: layout -> rows of its key table.
      layout_to_write: the layout that a model of a configuration is saved in.
      base_prefix: what stands before the names of all tensors but the head's; files
        of a model without its head lack it.
      copies: called with a configuration, returns key -> parameter of tensors that a
        checkpoint may hold a second time, such as a head that is the embedding.
      explain: called as explain(found, config) when tensors do not fit, with the shapes
        found; returns the sentence that says what to do.
      bare: files without config.json; None if there are none.
      refusal: what a model of a configuration is that transformers does not read; None
        if it does.
      tokenizer_of: where the tokenizer of a config.json is if it is not beside it.
      gguf: how llama.cpp keeps its models; None if it does not know them.

    Examples:
      >>> from jmamba import MambaLM
      >>> architecture_of(MambaLM).model_types
      ('mamba', 'falcon_mamba')
    """

    name: str
    model_class: type
    config_class: type
    model_types: tuple[str, ...] = ()
    owns: Callable[[Raw], bool] | None = None
    read_config: Callable[[Raw], tuple[Any, str]] | None = None
    write_config: Callable[..., dict[str, Any]] | None = None
    tables: Mapping[str, tuple[Row, ...]] = dataclasses.field(default_factory=dict)
    layout_to_write: Callable[[Any], str] = lambda config: PLAIN
    base_prefix: str = ""
    copies: Callable[[Any], Mapping[str, ParameterPath]] = lambda config: {}
    explain: Callable[[Shapes, Any], str] = lambda found, config: (
        "Correct config.json, or save the model again."
    )
    bare: BareFiles | None = None
    refusal: Callable[[Any], str | None] | None = None
    tokenizer_of: Callable[[Raw], str | None] = lambda raw: None
    gguf: GGUFDialect | None = None

    def __post_init__(self):
        """Fill in what follows from the name and the classes."""
        kind = self.model_class.__name__
        defaults = {
            "model_types": (self.name,),
            "owns": lambda raw: raw.get("model_type") in self.model_types,
            "read_config": lambda raw: (read_fields(self.config_class, raw), PLAIN),
            "write_config": lambda config, *, dtype: write_fields(
                config, name=self.name, kind=kind, dtype=dtype
            ),
            "refusal": lambda config: f"is a {kind}",
        }
        for name, default in defaults.items():
            if not getattr(self, name):
                object.__setattr__(self, name, default)

    def table(self, layout: str, paths: Iterable[ParameterPath]) -> tuple[Row, ...]:
        """Return the key table of a layout, for a model with these parameters."""
        return self.tables[layout] if layout in self.tables else plain_table(paths)

    def check_owned(self, raw: Raw, where: str) -> None:
        """Raise unless a config.json is of this architecture.

        Raises:
          CheckpointError: it is of another, or of an unknown one.
        """
        if self in owners(raw, where):
            return
        kind = self.model_class.__name__
        other = find_architecture(raw, where).model_class.__name__
        raise CheckpointError(
            f"{where} describes a model of type {raw.get('model_type')!r}, not a "
            f"{kind} ({_listed(self.model_types)}): such models load with "
            f"{other}.from_pretrained."
        )

    def read(self, raw: Raw, where: str) -> tuple[Any, str]:
        """Return the configuration and the layout that a config.json tells.

        Raises:
          CheckpointError: it is of another architecture, or says something wrong.
        """
        self.check_owned(raw, where)
        assert self.read_config is not None
        with reading(where, "is no configuration of a model", "restore it"):
            try:
                return self.read_config(raw)
            except (ValueError, TypeError) as error:  # the configuration's checks too
                raise CheckpointError(f"{where}: {error}") from error


_REGISTERED: dict[str, Architecture] = {}


def register(architecture: Architecture) -> Architecture:
    """Make an architecture known; one of the same name is replaced.

    Raises:
      ValueError: another architecture has one of its model types.

    Examples:
      >>> register(architecture_of("mamba")).name
      'mamba'
    """
    for other in registered():
        shared = set(other.model_types) & set(architecture.model_types)
        if other.name != architecture.name and shared:
            raise ValueError(
                f"{architecture.name!r} names the model types {_listed(shared)}, which "
                f"are {other.name!r}'s already; give others."
            )
    _REGISTERED[architecture.name] = architecture
    return architecture


def registered() -> tuple[Architecture, ...]:
    """Return all architectures that are known."""
    return tuple(_REGISTERED.values())


def architecture_of(known_by: Any) -> Architecture:
    """Return the architecture of a model, a configuration, their class, or a name.

    Raises:
      TypeError: it is of no registered one.

    Examples:
      >>> from jmamba import MambaConfig
      >>> architecture_of(MambaConfig(vocab_size=9, d_model=8, num_layers=1)).name
      'mamba'
    """
    if isinstance(known_by, str) and known_by in _REGISTERED:
        return _REGISTERED[known_by]
    kind = known_by if isinstance(known_by, type) else type(known_by)
    for ancestor in kind.__mro__:
        for one in reversed(registered()):
            if ancestor in (one.model_class, one.config_class):
                return one
    raise TypeError(
        f"{kind.__name__} is of no registered architecture "
        f"({_listed(_REGISTERED)}); type register(Architecture(name=..., "
        "model_class=..., config_class=...)) of jmamba.models first."
    )


def architectures_below(model_class: type) -> tuple[Architecture, ...]:
    """Return the architectures whose models a class includes, itself if registered.

    Raises:
      TypeError: it includes none.

    Examples:
      >>> from jmamba.models.language_model import LanguageModel
      >>> "mamba" in [one.name for one in architectures_below(LanguageModel)]
      True
    """
    below = [one for one in registered() if issubclass(one.model_class, model_class)]
    return tuple(below) if below else (architecture_of(model_class),)


def owners(raw: Raw, where: str = "config.json") -> tuple[Architecture, ...]:
    """Return the architectures whose config.json this is.

    Raises:
      CheckpointError: its "model_type" is no text.
    """
    kind = raw.get("model_type")
    if kind is not None and not isinstance(kind, str):
        raise CheckpointError(
            f"{where}: model_type must be a text, but is {reprlib.repr(kind)}."
        )
    return tuple(one for one in registered() if one.owns is not None and one.owns(raw))


def find_architecture(raw: Raw, where: str = "config.json") -> Architecture:
    """Return the architecture whose config.json this is.

    Raises:
      CheckpointError: no registered one owns it.

    Examples:
      >>> find_architecture({"model_type": "falcon_mamba"}).name
      'mamba'
    """
    found = owners(raw, where)
    if found:
        return found[0]
    types = [kind for one in registered() for kind in one.model_types]
    raise CheckpointError(
        f"{where} describes a model of type {raw.get('model_type')!r}; jmamba reads "
        f"{_listed(types)}. Another architecture is added with register of "
        "jmamba.models."
    )


def read_fields(config_class: Any, raw: Raw) -> Any:
    """Return the configuration whose fields stand in a config.json by name.

    Raises:
      ValueError: a field is unknown or impossible.
    """
    known = {field.name for field in _written(config_class)}
    unknown = sorted(set(raw) - known - _HARMLESS)
    if unknown:
        raise ValueError(
            f"{config_class.__name__} has no fields {', '.join(unknown)}; it has "
            f"{', '.join(sorted(known))}."
        )
    return config_class(
        **{
            name: tuple(value) if isinstance(value, list) else value  # to have a hash
            for name, value in raw.items()
            if name in known
        }
    )


def write_fields(config: Any, *, name: str, kind: str, dtype: str) -> dict[str, Any]:
    """Return a config.json of a configuration's fields by name."""
    fields = {field.name: getattr(config, field.name) for field in _written(config)}
    return {"architectures": [kind], "model_type": name, **fields, "dtype": dtype}


def _written(config: Any) -> list[dataclasses.Field]:
    """Return the fields that say what a model is."""
    return [f for f in dataclasses.fields(config) if f.init and f.compare]


def _listed(names: Iterable[str]) -> str:
    """Return names as "a", "b" and "c"."""
    quoted = [f'"{name}"' for name in names]
    return " and ".join([", ".join(quoted[:-1])] * (len(quoted) > 1) + quoted[-1:])

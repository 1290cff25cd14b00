"""Read ``pipelines/defs`` folder by folder, so that a broken file takes nothing else down."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import TypeVar

import dagster as dg
import yaml
from dagster.components import Component

from assets.components import LanguageModel, Study, SyntheticStudy
from assets.recording import StoreResource
from sae_core.config import ModelConfig, StudyConfig
from sae_core.synthetic_config import SyntheticStudyConfig

C = TypeVar("C", bound=Component)
_KINDS = (LanguageModel, Study, SyntheticStudy)
"""In the order in which they need each other."""
_FILES = ("defs.yaml", "component.yaml")


@dataclass(frozen=True)
class BrokenFile:
    """A folder of ``pipelines/defs`` that defines nothing, and why."""

    folder: Path
    """Below the project's root."""
    error: str
    """The whole text, with file, line and reason."""
    names: frozenset[str]
    """What its models and studies are called, as far as that can be read, and the name of the folder."""

    def is_called(self, name: str) -> bool:
        """Whether a user who asks for this name may mean it; - is the same as _."""
        return _plain(name) in {_plain(each) for each in self.names}

    def __str__(self) -> str:
        return f"{self.folder} is broken: {self.error}"


@dataclass(frozen=True)
class ProjectFiles:
    """What the YAML files define, by name, and which of them are broken."""

    studies: dict[str, tuple[StudyConfig, ModelConfig]]
    """Studies on a language model, each with its model."""
    synthetic: dict[str, SyntheticStudyConfig]
    models: dict[str, ModelConfig] = field(default_factory=dict)
    broken: tuple[BrokenFile, ...] = ()
    definitions: dg.Definitions = field(default_factory=dg.Definitions)
    """Assets, schedules and jobs of the sound files, and an asset ``broken/<folder>`` for each of the others."""


def load_project(root: Path) -> ProjectFiles:
    """Every folder of ``<root>/pipelines/defs`` by itself.

    A file that cannot be read, names a model that is not there, or takes a name that another one has (then both: none
    of them has a better right to it) is broken; the others stand.
    """
    defs = root / "pipelines" / "defs"
    folders = [_Folder(root, folder) for folder in _folders(defs)]
    for folder in folders:
        folder.read()
    _refuse_equal_names(folders)
    sound = sorted((folder for folder in folders if folder.error is None), key=_Folder.rank)
    for folder in sound:
        folder.build(folders)
    broken = tuple(folder.broken() for folder in folders if folder.error is not None)
    found = [part for folder in folders for part in folder.components if folder.error is None]
    models = {part.config.name: part.config for part in found if isinstance(part, LanguageModel)}
    studies = [part.config for part in found if isinstance(part, Study)]
    return ProjectFiles(
        studies={study.name: (study, models[study.model]) for study in studies},
        synthetic={part.config.name: part.config for part in found if isinstance(part, SyntheticStudy)},
        models=models,
        broken=broken,
        definitions=dg.Definitions.merge(
            *(folder.definitions for folder in folders if folder.error is None),
            dg.Definitions(assets=list(_placeholders(broken))),
        ),
    )


class _Tree(dg.ComponentTree):
    """The components of one folder; what they ask for, they are given from all sound folders."""

    @cached_property
    def of_project(self) -> list[Component]:
        """Of all folders; filled before anything is built."""
        return []

    def get_all_components(self, of_type: type[C]) -> list[C]:
        """Those of the project, not of the folder."""
        return [part for part in self.of_project if isinstance(part, of_type)]

    def own_components(self, of_type: type[C]) -> list[C]:
        """Those of the folder."""
        return super().get_all_components(of_type)


class _Folder:
    """A folder with a YAML file (or Python definitions), on its way from text to definitions."""

    def __init__(self, root: Path, path: Path):
        self.root, self.path = root, path
        self.components: list[LanguageModel | Study | SyntheticStudy] = []
        self.definitions = dg.Definitions()
        self.error: str | None = None
        # Dagster wants the module of the folder; importing it would need an __init__.py in each.
        module = ModuleType(".".join(path.relative_to(root).parts))
        module.__file__ = str(path / "__init__.py")
        self._tree = _Tree(defs_module=module, project_root=root)

    def read(self) -> None:
        """Read and check the YAML against its schema."""
        # Whatever a user's file makes Dagster, YAML or pydantic raise is shown with the file, and not swallowed.
        try:
            own = self._tree.own_components
            self.components = [*own(LanguageModel), *own(Study), *own(SyntheticStudy)]
        except Exception as error:
            self.fail(_text(error))

    def rank(self) -> int:
        """Models before the studies that read them, those before the studies that show them."""
        return max((_KINDS.index(type(part)) for part in self.components), default=0)

    def build(self, folders: "Iterable[_Folder]") -> None:
        """Make the definitions, with what the other folders define."""
        folders = list(folders)
        sound = [part for other in folders if other.error is None for part in other.components]
        for kind, name, reader in self._needs():
            # A model and a study may have one name: what is broken matters where nothing sound has it.
            if any(isinstance(part, kind) and part.config.name == name for part in sound):
                continue
            for other in folders:
                if other is not self and other.error is not None and other.broken().is_called(name):
                    self.fail(f"{reader}, and {other.broken()}")
                    return
        self._tree.of_project.extend(sound)
        try:
            self.definitions = self._tree.build_defs_at_path(self.path)
            # Dagster looks at most of it only when it is asked for.
            store = dg.Definitions(resources={"store": StoreResource(root="")})
            dg.Definitions.validate_loadable(dg.Definitions.merge(self.definitions, store))
        except Exception as error:
            self.fail(_text(error))

    def _needs(self) -> Iterator[tuple[type[LanguageModel | Study], str, str]]:
        """What other files have to define: which kind, its name, and how to say who needs it."""
        for part in self.components:
            if isinstance(part, Study):
                yield LanguageModel, part.config.model, f"study {part.config.name} reads the model {part.config.model}"
            elif isinstance(part, SyntheticStudy) and (shown := part.config.language_model_study):
                # Without it the page would be made anew, without what it had of that study.
                yield Study, shown, f"study {part.config.name} shows the results of study {shown}"

    def fail(self, error: str) -> None:
        """Count it as broken."""
        self.error = error

    def broken(self) -> BrokenFile:
        """What is to be said of it."""
        assert self.error is not None
        return BrokenFile(self.path.relative_to(self.root), self.error, self._names())

    def _names(self) -> frozenset[str]:
        names = {self.path.name, *(part.config.name for part in self.components)}
        for file in (self.path / name for name in _FILES):
            if file.is_file() and not self.components:
                # Not the YAML, which may not be any: the first `name:` is that of the model or study.
                found = re.search(r"^\s*name:\s*[\"']?([A-Za-z0-9_-]+)", file.read_text(errors="replace"), re.MULTILINE)
                names |= {found[1]} if found else set()
        return frozenset(names)


def _folders(parent: Path) -> Iterator[Path]:
    """The outermost folders that hold something to load."""
    for folder in sorted(path for path in parent.iterdir() if path.is_dir() and path.name[0] not in "._"):
        holds = [*(folder / name for name in _FILES), *(p for p in folder.glob("*.py") if p.name != "__init__.py")]
        if any(path.is_file() for path in holds):
            yield folder
        else:
            yield from _folders(folder)


def _refuse_equal_names(folders: list[_Folder]) -> None:
    """Models share names, and studies with synthetic ones: their assets would have the same keys."""
    for kinds, what in (((LanguageModel,), "model"), ((Study, SyntheticStudy), "study")):
        named = [
            (part.config.name, folder)
            for folder in folders
            for part in folder.components
            if isinstance(part, kinds) and folder.error is None
        ]
        counts = Counter(_plain(name) for name, _ in named)
        for name, folder in named:
            if counts[_plain(name)] > 1:
                places = sorted({str(f.path.relative_to(f.root)) for n, f in named if _plain(n) == _plain(name)})
                folder.fail(
                    f"the {what} name {name!r} is given more than once, in {' and '.join(places)} (- is the same as _, "
                    "and synthetic studies count); rename all but one (`name:` in its defs.yaml)"
                )


def _plain(name: str) -> str:
    # Dagster itself makes no difference between - and _ in a key.
    return name.replace("-", "_")


def _text(error: BaseException) -> str:
    """The message of what went wrong first: Dagster wraps it in pictures of its tree."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = str(error).strip()
    # pydantic's own pages say nothing about our settings.
    lines = [line for line in text.splitlines() if not line.startswith("    For further information visit")]
    text = "\n".join(lines) or type(error).__name__
    return text if isinstance(error, (ValueError, yaml.YAMLError)) else f"{type(error).__name__}: {text}"


def _placeholders(broken: Iterable[BrokenFile]) -> Iterator[dg.AssetsDefinition]:
    broken = list(broken)
    counts = Counter(file.folder.name for file in broken)
    for file in broken:
        name = file.folder.name if counts[file.folder.name] == 1 else "_".join(file.folder.parts[-2:])
        yield _placeholder(file, re.sub(r"[^A-Za-z0-9_-]", "_", name))


def _placeholder(file: BrokenFile, name: str) -> dg.AssetsDefinition:
    """An asset that says what is wrong with a file, in place of those that it would define."""
    fence = "`" * 4
    text = (
        f"`{file.folder}` defines nothing until this is put right; then reload the code location.\n\n"
        f"{fence}\n{file.error}\n{fence}"
    )

    @dg.asset(
        key=dg.AssetKey(["broken", name]),
        group_name="broken",
        kinds={"yaml"},
        description=text,
    )
    def broken_file() -> None:
        raise dg.Failure(str(file), allow_retries=False)

    return broken_file

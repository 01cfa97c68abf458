"""Find and import a chute by its reference.

A reference is `module:name`, where the module may be dotted, or `path/to/file.py:name`. The name defaults to `chute`.
Every failure is a LoadError with a message of one line.
"""

import importlib
import importlib.util
import os
import sys
import sysconfig
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import chutes
from chutes._extras import import_hint
from chutes.chute import Chute, ChutePack
from chutes.exception import LoadError

_DEFAULT_NAME = "chute"
_SKIPPED_PREFIXES = (  # file names in a traceback that start like this are not the author's
    f"{Path(chutes.__file__).parent}{os.sep}",
    f"{sysconfig.get_path('stdlib')}{os.sep}",
    "<frozen",
)


class Source(NamedTuple):
    """A parsed reference.

    Attributes:
        location: The part before the colon, unchanged.
        root: The folder to add to `sys.path`.
        module: The module's name, dotted if it is in a package.
        name: The chute's name in the module.
        file: The module's file if the reference is a path, else None.
    """

    location: str
    root: Path
    module: str
    name: str
    file: Path | None

    @property
    def entry(self) -> str:
        """The reference in the form `module:name`, which is valid if `root` is on `sys.path`."""
        return f"{self.module}:{self.name}"


def parse_reference(ref: str) -> Source:
    """Parse a reference, without a check that the file or module exists."""
    location, _, name = ref.partition(":")
    if not (location.endswith(".py") or "/" in location or "\\" in location):
        return Source(location, Path.cwd().resolve(), location, name or _DEFAULT_NAME, None)
    path = Path(location).expanduser()
    file = (path if path.suffix else Path(f"{path}.py")).resolve()
    return Source(location, file.parent, file.stem, name or _DEFAULT_NAME, file)


def locate(ref: str) -> Source:
    """Parse a reference, and check that its file or module exists, without an import. Raise LoadError if not.

    Of a dotted module only the top-level package is checked, because finding the rest would import it.
    """
    source = parse_reference(ref)
    if source.file is not None:
        if not source.file.is_file():
            raise LoadError(f"There is no file {source.location}. Check the path.")
        if source.file.suffix != ".py":
            raise _not_python(source)
        return source
    if not all(part.isidentifier() for part in source.module.split(".")):
        raise LoadError(f"{source.module!r} is not a module's name. Use module:name, or the path of a file.")
    _make_importable(source.root)
    package = source.module.partition(".")[0]
    if package not in sys.modules and importlib.util.find_spec(package) is None:
        raise _missing_module(source)
    return source


def load_chute(ref: str | Source) -> Chute:
    """Import the chute of a reference. Raise LoadError if that fails."""
    source = locate(ref) if isinstance(ref, str) else ref
    module = _import_module(source) if source.file is None else _import_file(source, source.file)
    found = _look_up(module, source)
    if isinstance(found, ChutePack):
        return found.chute
    if not isinstance(found, Chute):
        kind = type(found).__name__
        raise LoadError(f"{source.location}:{source.name} must be a Chute; got an object of type {kind}.")
    return found


def _import_file(source: Source, file: Path) -> ModuleType:
    _make_importable(source.root)
    spec = importlib.util.spec_from_file_location(source.module, file)
    if spec is None or spec.loader is None:
        raise _not_python(source)
    module = importlib.util.module_from_spec(spec)
    sys.modules[source.module] = module  # pydantic and pickle look up a class's module by name
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[source.module]
        if isinstance(error, KeyboardInterrupt):
            raise
        raise _import_failed(source, error) from error
    return module


def _import_module(source: Source) -> ModuleType:
    _make_importable(source.root)
    try:
        return importlib.import_module(source.module)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{source.module}.".startswith(f"{error.name}."):
            raise _missing_module(source) from error
        raise _import_failed(source, error) from error
    except (Exception, SystemExit) as error:
        raise _import_failed(source, error) from error


def _not_python(source: Source) -> LoadError:
    return LoadError(f"A chute's file must have a name that ends in .py; got {source.location}.")


def _missing_module(source: Source) -> LoadError:
    return LoadError(
        f"There is no module {source.module} in {source.root} or among the installed packages. Check its name, or run "
        "the command in its folder."
    )


def _make_importable(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _import_failed(source: Source, error: BaseException) -> LoadError:
    """Return a LoadError with the message and the location of the error that stopped the import."""
    if isinstance(error, SyntaxError):
        place = f"{Path(error.filename or source.location).name}:{error.lineno}"
        return LoadError(f"{source.location} is not valid Python: {error.msg} ({place}).")
    text = " ".join(str(error).split())
    return LoadError(
        f"{source.location} cannot be imported: {type(error).__name__}: {text}{raised_at(error)}.{import_hint(error)}"
    )


def raised_at(error: BaseException) -> str:
    """Return the last line of the author's code in a traceback, such as ` (file.py:3)`, or an empty string."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if "site-packages" not in frame.filename and not frame.filename.startswith(_SKIPPED_PREFIXES):
            return f" ({Path(frame.filename).name}:{frame.lineno})"
    return ""


def _look_up(module: ModuleType, source: Source) -> Any:
    found: Any = module
    for part in source.name.split("."):
        found = getattr(found, part, None)
        if found is None:
            names = [name for name, value in vars(module).items() if isinstance(value, (Chute, ChutePack))]
            chutes = ", ".join(f"{source.location}:{name}" for name in names)
            hint = f"It has {chutes}." if names else "Define one with `chute = Chute(...)`."
            raise LoadError(f"{source.location} has no chute named {source.name}. {hint}")
    return found

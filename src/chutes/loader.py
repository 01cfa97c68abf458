"""From what stands on the command line to the chute that it means.

`module:name`, a dotted module, or the path of a file; the name is `chute` unless it is given. Whatever is wrong is a
LoadError in one line, for the one who typed the command.
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
from chutes.chute import Chute, ChutePack
from chutes.exception import LoadError

_DEFAULT_NAME = "chute"
_NOT_THE_AUTHORS = (  # files that an exception passes through on its way to the author's own
    f"{Path(chutes.__file__).parent}{os.sep}",
    f"{sysconfig.get_path('stdlib')}{os.sep}",
    "<frozen",
)


class Source(NamedTuple):
    """Where a chute comes from: the folder that imports start from, its module, its name there, its file if given."""

    root: Path
    module: str
    name: str
    file: Path | None

    @property
    def entry(self) -> str:
        """The reference as it is from within the folder: `module:name`."""
        return f"{self.module}:{self.name}"


def locate(ref: str) -> Source:
    """Where the chute at `module:name`, at a dotted module, or in a file would be; it need not exist."""
    where, _, name = ref.partition(":")
    if not (where.endswith(".py") or "/" in where or "\\" in where):
        return Source(Path.cwd().resolve(), where, name or _DEFAULT_NAME, None)
    path = Path(where).expanduser()
    file = (path if path.suffix else Path(f"{path}.py")).resolve()
    return Source(file.parent, file.stem, name or _DEFAULT_NAME, file)


def load_chute(ref: str) -> Chute:
    """The chute at `module:name`, at a dotted module, or in a file. Raises LoadError."""
    source, where = locate(ref), ref.partition(":")[0]
    module = _from_file(where, source.file) if source.file else _from_name(where)
    found = _look_up(module, where, source.name)
    if isinstance(found, ChutePack):
        return found.chute
    if not isinstance(found, Chute):
        raise LoadError(f"{where}:{source.name} is not a Chute but a {type(found).__name__}")
    return found


def _from_file(where: str, path: Path) -> ModuleType:
    if not path.is_file():
        raise LoadError(f"There is no file {where}")
    _make_importable(path.parent)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise LoadError(f"{where} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # pydantic and pickle look a class's module up by its name
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[path.stem]
        if isinstance(error, KeyboardInterrupt):
            raise
        raise LoadError(_why(where, error)) from error
    return module


def _from_name(where: str) -> ModuleType:
    if not all(part.isidentifier() for part in where.split(".")):
        raise LoadError(f"{where!r} names no module: use module:name, or the path of a file")
    _make_importable(Path.cwd())
    try:
        return importlib.import_module(where)
    except ModuleNotFoundError as error:
        if error.name is not None and (where == error.name or where.startswith(f"{error.name}.")):
            raise LoadError(
                f"There is no module {where}: looked in {Path.cwd()} and among what is installed"
            ) from error
        raise LoadError(_why(where, error)) from error
    except (Exception, SystemExit) as error:
        raise LoadError(_why(where, error)) from error


def _make_importable(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _why(where: str, error: BaseException) -> str:
    """What stopped the import, in one line."""
    if isinstance(error, SyntaxError):
        return f"{where} is not valid Python: {error.msg} ({Path(error.filename or where).name}:{error.lineno})"
    text = " ".join(str(error).split())
    return f"{where} cannot be imported: {type(error).__name__}: {text}{raised_at(error)}"


def raised_at(error: BaseException) -> str:
    """The last line of the author's own that the exception came through, as ` (file.py:3)`; or nothing."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if "site-packages" not in frame.filename and not frame.filename.startswith(_NOT_THE_AUTHORS):
            return f" ({Path(frame.filename).name}:{frame.lineno})"
    return ""


def _look_up(module: ModuleType, where: str, name: str) -> Any:
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part, None)
        if found is None:
            others = [key for key, value in vars(module).items() if isinstance(value, (Chute, ChutePack))]
            hint = f"; it has {', '.join(f'{where}:{other}' for other in others)}" if others else ""
            raise LoadError(f"{where} has no {name}{hint}")
    return found

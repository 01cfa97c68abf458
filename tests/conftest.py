"""Shared fixtures, isolation between tests, and the order in which `make test` spreads files over processes."""

import gc
import logging
import os
import signal
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from _pytest.logging import LogCaptureHandler
from hypothesis import HealthCheck, settings

for name in ("XDG_CACHE_HOME", "HF_HOME", "HF_HUB_CACHE"):
    os.environ.pop(name, None)  # so that a test's HOME decides where caches are
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # hundreds of `chutes` processes would compile the sources each time
sys.dont_write_bytecode = False
os.environ.setdefault("OMP_NUM_THREADS", "1")  # threads only slow down models as small as these
torch.set_num_threads(1)
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before anything imports Triton, whose interpreter then runs the kernels
gc.disable()  # until pytest_collection_finish: the modules of the tests make a million objects, which stay

settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")  # no deadline, because the machine may be busy

ROOT = Path(__file__).parent
# The files that take longest. They start first, so that no process ends long after the others.
SLOW = (
    "promises/test_deploy_cluster.py",
    "promises/test_deploy_local.py",
    "docs/test_pages.py",
    "imagegen/test_families.py",
    "imagegen/flux/test_model.py",
    "imagegen/flux/test_kernels.py",
    "imagegen/flux/test_pipeline.py",
    "imagegen/flux/test_vae.py",
    "training/test_recipe.py",
    "training/test_bundled.py",
    "chutes/cli/test_run.py",
    "chutes/cli/test_build.py",
    "promises/test_http_clients.py",
)
# The files that start image services. One process runs them, so that they share the service and the imported libraries.
IMAGE_SERVICES = (
    "promises/test_a_killed_client_frees_the_engine.py",
    "promises/test_disconnects_in_every_stage.py",
    "promises/test_gpu_failures.py",
    "promises/test_health_while_generating.py",
    "promises/test_images_are_reproducible.py",
    "promises/test_images_have_the_requested_size.py",
    "promises/test_images_match_the_prompt.py",
    "promises/test_inpainting.py",
    "promises/test_other_models.py",
    "promises/test_readme_command.py",
    "chutes/cli/test_init.py",
    "docs/test_image_service.py",
)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes() -> None:
    """Collect garbage in the process that spreads the tests over others and imports none of them."""
    gc.enable()


def pytest_collection_finish() -> None:
    """Exempt what was imported from garbage collection: a pass over these objects takes a third of a second."""
    gc.freeze()
    gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out long tests unless `-m` names their marker, and run the longest files first."""
    left_out = [
        item
        for item in items
        if any(item.get_closest_marker(name) and name not in config.option.markexpr for name in ("soak", "fuzz"))
    ]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
    if config.pluginmanager.hasplugin("xdist") and (hasattr(config, "workerinput") or config.option.numprocesses):
        order = {file: place for place, file in enumerate((*SLOW, *IMAGE_SERVICES))}
        items.sort(key=lambda item: order.get(item.path.relative_to(ROOT).as_posix(), len(order)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Let one process run each file, and one all of IMAGE_SERVICES.

    The marker `xdist_group` has no effect: pytest-xdist 3.8 writes it where pytest 9.2 no longer reads it.
    """
    from xdist.scheduler import LoadScopeScheduling

    class FileScheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0].removeprefix(f"{ROOT.name}/")
            return "image services" if file in IMAGE_SERVICES else file

    return FileScheduling(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, Any, Any]:
    """Escape lone surrogates, which some tests log on purpose: pytest-xdist sends reports as UTF-8."""
    return _escaped((yield))


def _escaped(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {_escaped(key): _escaped(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_escaped(each) for each in value)
    return value


@pytest.fixture(autouse=True)
def isolated() -> Iterator[None]:
    """Restore what a test may change in its process: environment, import path, signal handlers and loggers."""
    environment, path = dict(os.environ), sys.path[:]
    signals = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    loggers = [logging.getLogger(name) for name in ("", "uvicorn", "uvicorn.error", "uvicorn.access")]
    states = [(each, each.handlers[:], each.level, each.propagate, each.disabled) for each in loggers]
    yield
    if os.environ != environment:
        os.environ.clear()
        os.environ.update(environment)
    sys.path[:] = path
    for number, handler in signals.items():
        if signal.getsignal(number) is not handler:
            signal.signal(number, handler)
    for logger, handlers, level, propagate, disabled in states:
        pytests = [each for each in logger.handlers if isinstance(each, LogCaptureHandler)]
        logger.handlers[:] = [*(each for each in handlers if not isinstance(each, LogCaptureHandler)), *pytests]
        logger.propagate, logger.disabled = propagate, disabled
        if logger.level != level:
            logger.setLevel(level)


@pytest.fixture(scope="session")
def bundled() -> Path:
    """Return the folder of the bundled model, which draws at 256 pixels, ten steps in half a second on one core."""
    return Path(__file__).parents[1] / "src" / "imagegen" / "bundled"


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a random FLUX pipeline of half a megabyte, which draws noise at 128 pixels."""
    from tests.imagegen import tiny

    return tiny.write(tmp_path_factory.mktemp("models") / "tiny", native_size=128)

"""The process of `benchmarks.flux.compare` that measures one checkout, chosen by `PYTHONPATH`.

Reads a measurement per line as JSON, `[name, argument, …]`, and writes its result as a line of JSON.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from typing import Any

import torch

from benchmarks.flux import weights
from benchmarks.flux.step import STEPS, Schedule, ours, release, scheduled
from imagegen.flux import pipeline as fast

PER_TURN = 12  # steps


class Worker:
    """The measurements; each method is one."""

    @torch.inference_mode()
    def describe(self) -> dict[str, str]:
        """Make the reference weights, and return the GPU's name and torch's version."""
        self.reference = weights.transformer()
        return {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__}

    @torch.inference_mode()
    def load(self, precision: str) -> dict[str, list[str]]:
        """Load the transformer; return digests of its outputs at three sizes and the kernels of a step in order."""
        self.model: Any = None
        release()
        self.model = ours(self.reference, precision)
        self.model.bind_scheduler(Schedule())
        self.inputs = scheduled(1024, 1024)
        first, second = self._step(), self._step()
        if not torch.equal(first, second):
            raise AssertionError("The replay of a step differs from its capture.")
        outputs = [first, *(self.model(**scheduled(*size), return_dict=False)[0] for size in ((512, 512), (640, 384)))]
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as trace:
            self._step()
            torch.cuda.synchronize()
        events = [event for event in trace.events() if event.device_type.name == "CUDA"]
        kernels = [event.name for event in sorted(events, key=lambda event: event.time_range.start)]
        return {"digests": [_digest(output) for output in outputs], "kernels": kernels}

    @torch.inference_mode()
    def steps(self) -> list[float]:
        """Return milliseconds of steps at 1024x1024, after two that are not counted."""
        times = []
        for _ in range(2 + PER_TURN):
            start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            self._step()
            stop.record()
            torch.cuda.synchronize()
            times.append(start.elapsed_time(stop))
        return times[2:]

    def load_pipeline(self) -> str:
        """Load the whole pipeline in bf16; return the digest of an image."""
        self.model = None
        release()
        self.pipeline = weights.pipeline(self.reference)
        fast.replace_modules(self.pipeline, precision="bf16")
        self.pipeline.set_progress_bar_config(disable=True)
        del self.reference
        release()
        return _digest(self._image())

    def images(self) -> list[float]:
        """Return the milliseconds of one image of 28 steps at 1024x1024, from prompt to pixels."""
        torch.cuda.synchronize()
        began = time.perf_counter()
        self._image()
        torch.cuda.synchronize()
        return [(time.perf_counter() - began) * 1e3]

    def _step(self) -> torch.Tensor:
        velocity: torch.Tensor = self.model(**self.inputs, return_dict=False)[0]
        return velocity

    def _image(self) -> torch.Tensor:
        pixels: torch.Tensor = self.pipeline(
            prompt="a dragon",
            width=1024,
            height=1024,
            num_inference_steps=STEPS,
            guidance_scale=3.5,
            generator=torch.Generator("cpu").manual_seed(5),
            output_type="pt",
        ).images
        return pixels


def _digest(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.float().cpu().numpy().tobytes()).hexdigest()


def main() -> None:
    """Answer each line of standard input; nothing else is written to standard output."""
    answers, sys.stdout = sys.stdout, sys.stderr
    worker = Worker()
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        print(json.dumps(getattr(worker, name)(*arguments)), file=answers, flush=True)


if __name__ == "__main__":
    main()

"""Copy diffusers' FLUX weights into a `FluxTransformer`, from a `state_dict` or from safetensors files.

Diffusers has separate layers for q, k and v, and for each block's modulation. Here they are row ranges of larger
layers, which `weight_map` lists. `read_weights` reads the files in parallel, as fast as the disk allows.
"""

from __future__ import annotations

import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from concurrent.futures import Future
    from pathlib import Path

    from torch import Tensor, nn

    from imagegen.flux.blocks import SelfAttention
    from imagegen.flux.linear import Linear
    from imagegen.flux.model import FluxTransformer

    Write = Callable[[Tensor], object]

_CHUNK = 32 << 20  # bytes per read: large enough for the disk, small enough to occupy all threads
_THREADS = 12


def weight_map(model: FluxTransformer) -> dict[str, Write]:  # noqa: C901 - one table, in the order of the model
    """Map each name in diffusers' `FluxTransformer2DModel.state_dict()` to a function that writes it to `model`."""
    writers: dict[str, Write] = {}

    def linear(name: str, layer: Linear, start: int = 0) -> None:
        for part in ("weight", "bias"):
            writers[f"{name}.{part}"] = partial(layer.write, part, start)

    def attention(name: str, part: SelfAttention, projections: tuple[str, ...], norms: tuple[str, str]) -> None:
        for index, projection in enumerate(projections):
            linear(f"{name}.{projection}", part.qkv, index * model.width)
        for norm, weight in zip(norms, part.norms, strict=True):
            writers[f"{name}.{norm}.weight"] = weight.data.copy_

    embedders = {
        "timestep_embedder": model.time_in,
        "text_embedder": model.vector_in,
        "guidance_embedder": model.guidance_in,
    }
    for name, embedder in embedders.items():
        if embedder is not None:
            linear(f"time_text_embed.{name}.linear_1", embedder.linear_1)
            linear(f"time_text_embed.{name}.linear_2", embedder.linear_2)
    linear("x_embedder", model.image_in)
    linear("context_embedder", model.text_in)

    layout = model.layout
    for index, double in enumerate(model.double_blocks):
        block = f"transformer_blocks.{index}"
        attention(f"{block}.attn", double.image, ("to_q", "to_k", "to_v"), ("norm_q", "norm_k"))
        text_projections = ("add_q_proj", "add_k_proj", "add_v_proj")
        attention(f"{block}.attn", double.text, text_projections, ("norm_added_q", "norm_added_k"))
        linear(f"{block}.attn.to_out.0", double.image.out)
        linear(f"{block}.attn.to_add_out", double.text.out)
        for name, stream in (("ff", double.image), ("ff_context", double.text)):
            linear(f"{block}.{name}.net.0.proj", stream.up)
            linear(f"{block}.{name}.net.2", stream.down)
        linear(f"{block}.norm1.linear", model.modulation, layout.offset(layout.image_triple(index)))
        linear(f"{block}.norm1_context.linear", model.modulation, layout.offset(layout.text_triple(index)))

    for index, single in enumerate(model.single_blocks):
        block = f"single_transformer_blocks.{index}"
        attention(f"{block}.attn", single, ("to_q", "to_k", "to_v"), ("norm_q", "norm_k"))
        linear(f"{block}.proj_mlp", single.up)
        linear(f"{block}.proj_out", single.out)
        linear(f"{block}.norm.linear", model.modulation, layout.offset(layout.single_triple(index)))
    linear("norm_out.linear", model.modulation, layout.offset(layout.triple_count))
    linear("proj_out", model.image_out)
    return writers


def copy_state(model: FluxTransformer, state: Mapping[str, Tensor]) -> None:
    """Copy diffusers' `state_dict` into `model`; its names may be those of layers with a fused LoRA.

    Raises ValueError if the names are not those of this architecture.
    """
    writers = weight_map(model)
    weights = {name.replace(".base_layer", ""): value for name, value in state.items() if "lora_" not in name}
    if weights.keys() != writers.keys():
        mismatched = ", ".join(sorted(weights.keys() ^ writers.keys())[:3])
        raise ValueError(f"The state dict is not of this FLUX architecture; missing or unknown weights: {mismatched}.")
    for name, write in writers.items():
        write(weights[name])


def parameter_map(module: nn.Module) -> dict[str, Write]:
    """Map the name of each parameter of a module to a function that writes it; tied parameters have several names."""
    parameters = module.named_parameters(remove_duplicate=False)
    return {name: value.data.copy_ for name, value in parameters}


@dataclass(frozen=True)
class _Entry:
    """One tensor in a safetensors file."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    descriptor: int
    """The open file's descriptor."""
    start: int
    """Offset of the tensor's bytes in the file."""
    size: int
    """Number of bytes."""


_DTYPES = {
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "F32": torch.float32,
    "F64": torch.float64,
    "I64": torch.int64,
    "F8_E4M3": torch.float8_e4m3fn,
}


def _entries(descriptor: int) -> Iterator[_Entry]:
    """Read a safetensors file's header: 8 bytes of length, then JSON, then the tensors' bytes."""
    size = int.from_bytes(os.pread(descriptor, 8, 0), "little")
    header: dict[str, Any] = json.loads(os.pread(descriptor, size, 8))
    header.pop("__metadata__", None)
    for name, value in header.items():
        start, stop = value["data_offsets"]
        yield _Entry(name, _DTYPES[value["dtype"]], tuple(value["shape"]), descriptor, 8 + size + start, stop - start)


def read_weights(
    files: list[Path],
    writers: Mapping[str, Write],
    progress: Callable[[float, float], None],
    device: torch.device | str = "cuda",
) -> int:
    """Read safetensors files onto a device with many parallel reads; return the number of bytes.

    Each tensor is passed to its writer as soon as it is on the device, so only tensors in flight are in memory twice.
    Reads for a GPU go through pinned buffers. `progress` takes the bytes read and their total.

    Raises ValueError if the files' names are not those of `writers`, and EOFError if a file is truncated.
    """
    descriptors = [os.open(path, os.O_RDONLY) for path in files]
    try:
        entries = [entry for descriptor in descriptors for entry in _entries(descriptor)]
        names = {entry.name for entry in entries}
        tied = {name for name in writers.keys() - names if name.endswith("embed_tokens.weight")}
        if mismatched := (writers.keys() - tied) ^ names:
            listed = ", ".join(sorted(mismatched)[:3])
            raise ValueError(f"The weight files do not fit the model; missing or unknown weights: {listed}.")
        total, done = sum(entry.size for entry in entries), 0
        batches = [entries[at : at + _THREADS] for at in range(0, len(entries), _THREADS)]
        with ThreadPoolExecutor(_THREADS) as pool:
            # The threads read the next batch while this one goes to its writers.
            pending = [_start_reads(pool, entry, device) for entry in batches[0]] if batches else []
            for following in [*batches[1:], []]:
                current, pending = pending, [_start_reads(pool, entry, device) for entry in following]
                for entry, values, reads in current:
                    for read in reads:
                        read.result()
                    writers[entry.name](values)
                    done += entry.size
                    progress(done, total)
        if torch.device(device).type == "cuda":
            # Not `torch.cuda.synchronize`, which would invalidate a graph that another thread captures.
            torch.cuda.current_stream().synchronize()
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
    return total


def _start_reads(
    pool: ThreadPoolExecutor, entry: _Entry, device: torch.device | str
) -> tuple[_Entry, Tensor, list[Future[None]]]:
    """Allocate memory for one tensor on the device and start its reads."""
    values = torch.empty(entry.shape, dtype=entry.dtype, device=device)
    target = values.flatten().view(torch.uint8)
    free = None
    if values.is_cuda:
        free = torch.cuda.Event()  # the allocator may reuse memory that queued kernels still read
        free.record()
    starts = range(0, entry.size, _CHUNK)
    return entry, values, [pool.submit(_read, entry, at, target[at : at + _CHUNK], free) for at in starts]


_thread = threading.local()  # each thread's pinned buffer and stream


def _read(entry: _Entry, at: int, target: Tensor, free: torch.cuda.Event | None) -> None:
    """Read the bytes of `target`: directly on a CPU, through this thread's pinned buffer and stream on a GPU."""
    if free is None:
        _fill(_bytes(target), entry, at)
        return
    if not hasattr(_thread, "buffer"):
        _thread.buffer = torch.empty(_CHUNK, dtype=torch.uint8, pin_memory=True)
        _thread.stream = torch.cuda.Stream()
    size = target.numel()
    _fill(_bytes(_thread.buffer[:size]), entry, at)
    with torch.cuda.stream(_thread.stream):
        _thread.stream.wait_event(free)
        target.copy_(_thread.buffer[:size], non_blocking=True)
    _thread.stream.synchronize()


def _bytes(values: Tensor) -> memoryview:
    array: Any = values.numpy()  # numpy's types do not declare that arrays are buffers
    return memoryview(array)


def _fill(view: memoryview, entry: _Entry, at: int) -> None:
    """Fill `view` with the bytes of a tensor from offset `at` on."""
    filled = 0
    while filled < len(view):
        read = os.preadv(entry.descriptor, [view[filled:]], entry.start + at + filled)
        if read == 0:
            raise EOFError(f"The weight file ends within {entry.name}: it is truncated. Download it again.")
        filled += read

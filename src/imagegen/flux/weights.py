"""Where each of diffusers' FLUX weights goes in our transformer, and reading them from disk at the disk's speed.

Diffusers keeps q, k and v, and each block's modulation, as layers of their own; here they are rows of larger ones.
`weight_map` says which, and serves both a `state_dict` in memory and safetensors files on disk.
"""

from __future__ import annotations

import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from concurrent.futures import Future
    from pathlib import Path

    from imagegen.flux.linear import Linear
    from imagegen.flux.model import FluxTransformer

    Write = Callable[[Tensor], object]

_CHUNK = 32 << 20  # bytes per read: large enough for the disk, small enough to spread over the threads
_THREADS = 12


def weight_map(model: FluxTransformer) -> dict[str, Write]:  # noqa: C901  # one table, in the model's order
    """Map each name in diffusers' `FluxTransformer2DModel.state_dict()` to what writes its tensor into `model`."""
    width, places = model.width, {}

    def linear(name: str, layer: Linear, start: int = 0) -> None:
        for part in ("weight", "bias"):
            places[f"{name}.{part}"] = _writer(layer, part, start)

    def norm(name: str, weight: nn.Parameter) -> None:
        places[f"{name}.weight"] = weight.data.copy_

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

    block: Any  # a module's children have no types of their own
    for index, block in enumerate(model.double_blocks):
        here = f"transformer_blocks.{index}"
        attn = f"{here}.attn"
        for row, name in enumerate(("to_q", "to_k", "to_v")):
            linear(f"{attn}.{name}", block.image.qkv, row * width)
        for row, name in enumerate(("add_q_proj", "add_k_proj", "add_v_proj")):
            linear(f"{attn}.{name}", block.text.qkv, row * width)
        norm(f"{attn}.norm_q", block.image.q_norm)
        norm(f"{attn}.norm_k", block.image.k_norm)
        norm(f"{attn}.norm_added_q", block.text.q_norm)
        norm(f"{attn}.norm_added_k", block.text.k_norm)
        linear(f"{attn}.to_out.0", block.image.out)
        linear(f"{attn}.to_add_out", block.text.out)
        for name, stream in (("ff", block.image), ("ff_context", block.text)):
            linear(f"{here}.{name}.net.0.proj", stream.up)
            linear(f"{here}.{name}.net.2", stream.down)
        linear(f"{here}.norm1.linear", model.modulation, 12 * index * width)
        linear(f"{here}.norm1_context.linear", model.modulation, (12 * index + 6) * width)

    after = 12 * len(model.double_blocks)
    for index, block in enumerate(model.single_blocks):
        here = f"single_transformer_blocks.{index}"
        for row, name in enumerate(("to_q", "to_k", "to_v")):
            linear(f"{here}.attn.{name}", block.qkv, row * width)
        norm(f"{here}.attn.norm_q", block.q_norm)
        norm(f"{here}.attn.norm_k", block.k_norm)
        linear(f"{here}.proj_mlp", block.up)
        linear(f"{here}.proj_out", block.out)
        linear(f"{here}.norm.linear", model.modulation, (after + 3 * index) * width)
    linear("norm_out.linear", model.modulation, (after + 3 * len(model.single_blocks)) * width)
    linear("proj_out", model.image_out)
    return places


def _writer(layer: Linear, part: str, start: int) -> Write:
    return lambda values: layer.write(part, start, values)


def copy_state(model: FluxTransformer, state: Mapping[str, Tensor]) -> None:
    """Fill `model` from diffusers' `state_dict`, in which fused LoRA layers may still be wrapped."""
    places = weight_map(model)
    plain = {name.replace(".base_layer", ""): value for name, value in state.items() if "lora_" not in name}
    if plain.keys() != places.keys():
        odd = sorted(plain.keys() ^ places.keys())
        raise ValueError(f"these are not the weights of this FLUX architecture: {', '.join(odd[:3])}")
    for name, write in places.items():
        write(plain[name])


def parameter_map(module: nn.Module) -> dict[str, Write]:
    """Map the name of each of a module's parameters to what writes it; of tied ones, each of their names."""
    parameters = module.named_parameters(remove_duplicate=False)
    return {name: value.data.copy_ for name, value in parameters}


@dataclass(frozen=True)
class _Entry:
    """One tensor in a safetensors file."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    file: int  # its descriptor
    start: int  # of its bytes
    size: int


_DTYPES = {
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "F32": torch.float32,
    "F64": torch.float64,
    "I64": torch.int64,
    "F8_E4M3": torch.float8_e4m3fn,
}


def _entries(file: int) -> Iterator[_Entry]:
    """Read a safetensors file's header: 8 bytes of length, then JSON, then the tensors' bytes."""
    size = int.from_bytes(os.pread(file, 8, 0), "little")
    header: dict[str, Any] = json.loads(os.pread(file, size, 8))
    header.pop("__metadata__", None)
    for name, value in header.items():
        start, stop = value["data_offsets"]
        yield _Entry(name, _DTYPES[value["dtype"]], tuple(value["shape"]), file, 8 + size + start, stop - start)


def stream(
    files: list[Path],
    places: Mapping[str, Write],
    progress: Callable[[float, float], None],
    device: torch.device | str = "cuda",
) -> int:
    """Read safetensors files onto a device, many reads at a time, to a GPU through pinned buffers; return the bytes.

    Each tensor passes `places` once it is there, so nothing is held twice but the tensors in flight. `progress` takes
    the bytes done and their total. Names in neither or missing from the files are an error.
    """
    handles = [os.open(path, os.O_RDONLY) for path in files]
    try:
        entries = [entry for handle in handles for entry in _entries(handle)]
        names = {entry.name for entry in entries}
        tied = {name for name in places.keys() - names if name.endswith("embed_tokens.weight")}
        odd = (places.keys() - tied) ^ names
        if odd:
            raise ValueError(f"the files do not fit the model: {', '.join(sorted(odd)[:3])}")
        total, done = sum(entry.size for entry in entries), 0
        batches = [entries[at : at + _THREADS] for at in range(0, len(entries), _THREADS)]
        with ThreadPoolExecutor(_THREADS) as pool:
            # The next batch is being read while this one is written to its place.
            pending = [_begin(pool, entry, device) for entry in batches[0]] if batches else []
            for following in [*batches[1:], []]:
                current, pending = pending, [_begin(pool, entry, device) for entry in following]
                for entry, values, reads in current:
                    for read in reads:
                        read.result()
                    places[entry.name](values)
                    done += entry.size
                    progress(done, total)
        if torch.device(device).type == "cuda":
            # Not of the whole GPU: that would spoil a graph which another thread is recording.
            torch.cuda.current_stream().synchronize()
    finally:
        for handle in handles:
            os.close(handle)
    return total


def _begin(
    pool: ThreadPoolExecutor, entry: _Entry, device: torch.device | str
) -> tuple[_Entry, Tensor, list[Future[None]]]:
    """Start the reads of one tensor into memory of its own on the device."""
    values = torch.empty(entry.shape, dtype=entry.dtype, device=device)
    target = values.flatten().view(torch.uint8)
    free = None
    if values.is_cuda:
        free = torch.cuda.Event()  # the allocator may hand out memory whose last use is still to run
        free.record()
    starts = range(0, entry.size, _CHUNK)
    return entry, values, [pool.submit(_read, entry, at, target[at : at + _CHUNK], free) for at in starts]


_own = threading.local()


def _read(entry: _Entry, at: int, target: Tensor, free: torch.cuda.Event | None) -> None:
    """Read the bytes of `target`: in place, or into this thread's pinned buffer and over on its own stream."""
    if free is None:
        _fill(_bytes(target), entry, at)
        return
    if not hasattr(_own, "buffer"):
        _own.buffer = torch.empty(_CHUNK, dtype=torch.uint8, pin_memory=True)
        _own.stream = torch.cuda.Stream()
    size = target.numel()
    _fill(_bytes(_own.buffer[:size]), entry, at)
    with torch.cuda.stream(_own.stream):
        _own.stream.wait_event(free)
        target.copy_(_own.buffer[:size], non_blocking=True)
    _own.stream.synchronize()


def _bytes(values: Tensor) -> memoryview:
    array: Any = values.numpy()  # numpy's types do not say that it is a buffer
    return memoryview(array)


def _fill(view: memoryview, entry: _Entry, at: int) -> None:
    """Fill `view` with the bytes of a tensor from `at` on."""
    got = 0
    while got < len(view):
        read = os.preadv(entry.file, [view[got:]], entry.start + at + got)
        if read == 0:
            raise EOFError(f"the file ends within {entry.name}")
        got += read

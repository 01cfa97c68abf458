from pathlib import Path

import torch

from training import config
from training.captions import vocabulary
from training.drawings import dataset
from training.models import flux
from training.models.flux import clip_token_ids, pack_latents, sample, unpack_latents


def test_forward_equals_diffusers(drawings_zip: Path) -> None:
    smoke = config.SMOKE
    loaded = dataset.read(drawings_zip, smoke.size)
    model = flux.build(smoke, loaded).eval()
    for parameter in model.parameters():  # zero modulations would hide differences
        if not parameter.abs().sum():
            torch.nn.init.normal_(parameter, std=0.05)
    token_ids = torch.from_numpy(
        vocabulary.encode(vocabulary.vocabulary(loaded.names), ["a ball", "a box"], smoke.max_tokens)
    ).long()
    noisy, sigma, guidance = torch.randn(2, 16, 64), torch.tensor([0.3, 0.7]), torch.tensor([7.5, 2.0])
    with torch.no_grad():
        ours = model(noisy, token_ids, sigma, guidance, model.rope(smoke.max_tokens, torch.device("cpu")))
        grid = torch.zeros(4, 4, 3)
        grid[..., 1] += torch.arange(4)[:, None]
        grid[..., 2] += torch.arange(4)[None, :]
        theirs = model.transformer(
            noisy,
            model.t5(token_ids).last_hidden_state,
            model.clip(clip_token_ids(token_ids)).pooler_output,
            sigma,
            grid.view(-1, 3),
            torch.zeros(smoke.max_tokens, 3),
            guidance,
            return_dict=False,
        )[0]
    assert float((ours - theirs).abs().max()) < 1e-5


def test_pack_latents_equals_diffusers() -> None:
    from diffusers import FluxPipeline

    latents = torch.randn(2, 16, 8, 8)
    assert torch.equal(pack_latents(latents), FluxPipeline._pack_latents(latents, 2, 16, 8, 8))
    assert torch.equal(unpack_latents(pack_latents(latents), 4), latents)


def test_clip_token_ids_always_end_with_the_end_token() -> None:
    full = torch.tensor([[5, 6, 7, 8, vocabulary.END_ID], [5, vocabulary.END_ID, 0, 0, 0]])
    assert clip_token_ids(full).tolist() == [
        [vocabulary.START_ID, 5, 6, 7, vocabulary.END_ID],
        [vocabulary.START_ID, 5, vocabulary.END_ID, 0, 0],
    ]


def test_sampling_is_deterministic(drawings_zip: Path) -> None:
    smoke = config.SMOKE
    model = flux.build(smoke, dataset.read(drawings_zip, smoke.size))
    token_ids, noise = torch.full((1, smoke.max_tokens), 1), torch.randn(1, 16, 64)
    one = sample(model, token_ids, noise, steps=2, shift=2.0, guidance=7.5)
    assert torch.equal(one, sample(model, token_ids, noise, steps=2, shift=2.0, guidance=7.5))

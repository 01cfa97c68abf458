"""The model that is trained: FLUX's transformer with both text encoders, as one module from tokens to velocity."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from diffusers import FluxTransformer2DModel
from torch import nn

from training import machine
from training.text import clip_encoder, t5_encoder
from training.vocabulary import END_ID, PAD_ID, START_ID

if TYPE_CHECKING:
    from torch import Tensor

    from training.config import Config


class Painter(nn.Module):
    """Noisy tokens, captions, noise level and guidance in; the velocity from picture to noise out."""

    def __init__(self, config: Config, vocabulary_size: int) -> None:
        super().__init__()
        self.transformer = FluxTransformer2DModel(
            in_channels=64,
            num_layers=config.double_blocks,
            num_single_layers=config.single_blocks,
            attention_head_dim=config.head_width,
            num_attention_heads=config.heads,
            joint_attention_dim=config.t5_width,
            pooled_projection_dim=config.clip_width,
            guidance_embeds=True,
            axes_dims_rope=config.rope_axes,
        )
        self.t5 = t5_encoder(config, vocabulary_size)
        self.clip = clip_encoder(config, vocabulary_size)
        self.side = config.tokens
        self.max_words = config.max_words
        _start_as_identity(self.transformer)

    def forward(
        self, noisy: Tensor, words: Tensor, sigma: Tensor, guidance: Tensor, rope: tuple[Tensor, Tensor]
    ) -> Tensor:
        """(batch, tokens, 64), (batch, words), (batch,), (batch,) -> (batch, tokens, 64).

        The same walk as `FluxTransformer2DModel.forward`, except that noise level and guidance stay in full
        precision until they are embedded; half precision would blur a guidance of 7.5.
        """
        flux = self.transformer
        states = self.t5(words).last_hidden_state
        pooled = self.clip(clip_words(words[:, : self.max_words])).pooler_output
        hidden = flux.x_embedder(noisy)
        modulation = flux.time_text_embed(sigma * 1000, guidance * 1000, pooled)
        context = flux.context_embedder(states)
        for block in flux.transformer_blocks:
            context, hidden = block(
                hidden_states=hidden, encoder_hidden_states=context, temb=modulation, image_rotary_emb=rope
            )
        for block in flux.single_transformer_blocks:
            context, hidden = block(
                hidden_states=hidden, encoder_hidden_states=context, temb=modulation, image_rotary_emb=rope
            )
        velocity: Tensor = flux.proj_out(flux.norm_out(hidden, modulation))
        return velocity

    def rope(self, words: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Rotary embeddings of that many text tokens (all at the origin) and of the image's grid."""
        grid = torch.zeros(self.side, self.side, 3)
        grid[..., 1] = torch.arange(self.side)[:, None]
        grid[..., 2] = torch.arange(self.side)[None, :]
        ids = torch.cat((torch.zeros(words, 3), grid.view(-1, 3)))
        cos, sin = self.transformer.pos_embed(ids)
        return cos.to(device), sin.to(device)


def clip_words(words: Tensor) -> Tensor:
    """T5's token ids as CLIP's: <s> before them; a caption that filled all places ends in </s> still."""
    shifted = torch.cat((torch.full_like(words[:, :1], START_ID), words[:, :-1]), 1)
    ended = (shifted == END_ID).any(1, keepdim=True)
    last = torch.where(ended, shifted[:, -1:], END_ID)
    return torch.cat((shifted[:, :-1], last), 1)


def padded(words: Tensor, length: int) -> Tensor:
    """Captions with padding up to a length."""
    return nn.functional.pad(words, (0, length - words.shape[1]), value=PAD_ID)


def empty_words(words: Tensor) -> Tensor:
    """Empty captions of the same shape."""
    empty = torch.full_like(words, PAD_ID)
    empty[:, 0] = END_ID
    return empty


@torch.no_grad()
def draw(
    model: Painter,
    words: Tensor,
    noise: Tensor,
    *,
    steps: int,
    shift: float,
    guidance: float,
    scale: float | None = None,
) -> Tensor:
    """Euler's method from noise to latent tokens; with `scale`, by classifier-free guidance on top of the embedding."""
    model.eval()
    device = noise.device
    rope = model.rope(words.shape[1], device)
    even = torch.linspace(1, 1 / steps, steps)
    sigmas = [*(shift * even / (1 + (shift - 1) * even)).tolist(), 0.0]
    level = torch.full((len(words),), guidance, device=device)
    for now, following in pairwise(sigmas):
        sigma = torch.full((len(words),), now, device=device)
        with machine.half(device):
            velocity = model(noise, words, sigma, level, rope).float()
            if scale is not None:
                without = model(noise, empty_words(words), sigma, level, rope).float()
                velocity = without + scale * (velocity - without)
        noise = noise + (following - now) * velocity
    return noise


def _start_as_identity(flux: FluxTransformer2DModel) -> None:
    """Zero the modulations and the output (adaLN-zero): training starts from blocks that do nothing."""
    for name, module in flux.named_modules():
        if isinstance(module, nn.Linear) and (
            name.endswith((".norm.linear", "norm1.linear", "norm1_context.linear", "norm_out.linear"))
            or name == "proj_out"
        ):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)

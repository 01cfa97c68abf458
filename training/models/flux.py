"""The trained model: FLUX's transformer and both text encoders in one module, and its sampler."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from diffusers import FluxTransformer2DModel
from torch import nn

from training.captions import vocabulary
from training.captions.vocabulary import END_ID, PAD_ID, START_ID
from training.checkpoints import load_state
from training.distributed import autocast
from training.models.text_encoders import clip_encoder, t5_encoder

if TYPE_CHECKING:
    from torch import Tensor

    from training.config import Config
    from training.drawings.dataset import Drawings

NAME = "transformer"


class FluxWithEncoders(nn.Module):
    """A model of the velocity from image to noise, given noisy tokens, captions, noise level and guidance."""

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
        self.side = config.tokens_per_side
        self.max_tokens = config.max_tokens
        _zero_modulations(self.transformer)

    def forward(
        self, noisy: Tensor, token_ids: Tensor, sigma: Tensor, guidance: Tensor, rope: tuple[Tensor, Tensor]
    ) -> Tensor:
        """Map (batch, tokens, 64), (batch, length), (batch,), (batch,) to (batch, tokens, 64).

        This computes the same as `FluxTransformer2DModel.forward`, but embeds noise level and guidance in full
        precision: bfloat16 has too few digits for a guidance of 7.5 times 1000.
        """
        flux = self.transformer
        states = self.t5(token_ids).last_hidden_state
        pooled = self.clip(clip_token_ids(token_ids[:, : self.max_tokens])).pooler_output
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

    def rope(self, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return cosine and sine of the rotary embedding, for `length` text tokens at the origin and the image grid."""
        grid = torch.zeros(self.side, self.side, 3)
        grid[..., 1] = torch.arange(self.side)[:, None]
        grid[..., 2] = torch.arange(self.side)[None, :]
        ids = torch.cat((torch.zeros(length, 3), grid.view(-1, 3)))
        cos, sin = self.transformer.pos_embed(ids)
        return cos.to(device), sin.to(device)


def clip_token_ids(token_ids: Tensor) -> Tensor:
    """Convert T5 token ids to CLIP's: prepend <s>, and end truncated captions with </s>."""
    shifted = torch.cat((torch.full_like(token_ids[:, :1], START_ID), token_ids[:, :-1]), 1)
    ended = (shifted == END_ID).any(1, keepdim=True)
    last = torch.where(ended, shifted[:, -1:], END_ID)
    return torch.cat((shifted[:, :-1], last), 1)


def pad_captions(token_ids: Tensor, length: int) -> Tensor:
    """Pad captions to a length."""
    return nn.functional.pad(token_ids, (0, length - token_ids.shape[1]), value=PAD_ID)


def empty_captions(token_ids: Tensor) -> Tensor:
    """Return empty captions of the same shape."""
    empty = torch.full_like(token_ids, PAD_ID)
    empty[:, 0] = END_ID
    return empty


def build(config: Config, drawings: Drawings) -> FluxWithEncoders:
    """Return the untrained model; the weights depend on the seed alone."""
    torch.manual_seed(config.seed)
    return FluxWithEncoders(config, len(vocabulary.vocabulary(drawings.names)))


def load(config: Config, drawings: Drawings, device: torch.device) -> FluxWithEncoders:
    """Load the trained model from the run's folder."""
    model = build(config, drawings).to(device)
    load_state(model, config.run / f"{NAME}.safetensors")
    return model.eval()


def pack_latents(latents: Tensor) -> Tensor:
    """Pack (batch, 16, height, width) into tokens (batch, height * width / 4, 64), in FLUX's order."""
    batch, channels, height, width = latents.shape
    latents = latents.view(batch, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return latents.reshape(batch, height * width // 4, channels * 4)


def unpack_latents(tokens: Tensor, side: int) -> Tensor:
    """Unpack tokens (batch, side * side, 64) into latents (batch, 16, 2 * side, 2 * side)."""
    batch = len(tokens)
    latents = tokens.view(batch, side, side, 16, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return latents.reshape(batch, 16, 2 * side, 2 * side)


@torch.no_grad()
def sample(
    model: FluxWithEncoders,
    token_ids: Tensor,
    noise: Tensor,
    *,
    steps: int,
    shift: float,
    guidance: float,
    scale: float | None = None,
) -> Tensor:
    """Integrate from noise to latent tokens with Euler's method.

    `scale` adds classifier-free guidance, for a model without guidance distillation.
    """
    model.eval()
    device = noise.device
    rope = model.rope(token_ids.shape[1], device)
    uniform = torch.linspace(1, 1 / steps, steps)
    sigmas = [*(shift * uniform / (1 + (shift - 1) * uniform)).tolist(), 0.0]
    embedded_guidance = torch.full((len(token_ids),), guidance, device=device)
    for current, following in pairwise(sigmas):
        sigma = torch.full((len(token_ids),), current, device=device)
        with autocast(device):
            velocity = model(noise, token_ids, sigma, embedded_guidance, rope).float()
            if scale is not None:
                unconditional = model(noise, empty_captions(token_ids), sigma, embedded_guidance, rope).float()
                velocity = unconditional + scale * (velocity - unconditional)
        noise = noise + (following - current) * velocity
    return noise


def _zero_modulations(flux: FluxTransformer2DModel) -> None:
    """Set modulations and output to zero (adaLN-zero), so that every block starts as the identity."""
    for name, module in flux.named_modules():
        if isinstance(module, nn.Linear) and (
            name.endswith((".norm.linear", "norm1.linear", "norm1_context.linear", "norm_out.linear"))
            or name == "proj_out"
        ):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)

"""Tiny pipelines of diffusers with random weights, without text encoders, and the velocities that they follow."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import diffusers
import torch
from torch import Tensor

PLAIN_VAE = {
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": (4,),
    "norm_num_groups": 1,
    "layers_per_block": 1,
    "down_block_types": ("DownEncoderBlock2D",),
    "up_block_types": ("UpDecoderBlock2D",),
    "use_quant_conv": False,
    "use_post_quant_conv": False,
    "shift_factor": 0.06,
    "scaling_factor": 1.5,
}
FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}


@dataclass(frozen=True)
class Case:
    """A pipeline, its noise [B, ...], its prompt, and its network as a function of (x, σ [B], negative prompt?)."""

    pipe: Any
    noise: Tensor
    prompt: dict[str, Tensor]
    network: Callable[[Tensor, Tensor, bool], Tensor]
    negative: dict[str, Tensor] = field(default_factory=dict)
    size: dict[str, Any] = field(default_factory=lambda: {"height": 8, "width": 8})
    guides: str = "guidance_scale"

    def draw(self, steps: int, guidance: float, **more: Any) -> Tensor:
        """Call the pipeline for latents."""
        negative = self.negative if guidance != 1 else {}
        given = {"latents": self.noise.clone(), "num_inference_steps": steps, self.guides: guidance, **self.prompt}
        return self.pipe(**given, **negative, **self.size, output_type="latent", **more)[0]

    def velocity(self, guidance: float) -> Callable[[Tensor, Tensor], Tensor]:
        """The guided velocity, from noise (t = 0) to data."""

        def v(x: Tensor, t: Tensor) -> Tensor:
            one = self.network(x, 1 - t, False)
            if guidance == 1:
                return -one
            other = self.network(x, 1 - t, True)
            return -(other + guidance * (one - other))

        return v


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def quiet(pipe: Any) -> Any:
    pipe.set_progress_bar_config(disable=True)
    return pipe


def sd3() -> Case:
    """Stable Diffusion 3: a grid shifted by 3."""
    torch.manual_seed(0)
    net = diffusers.SD3Transformer2DModel(
        sample_size=8,
        patch_size=1,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=16,
        caption_projection_dim=16,
        pooled_projection_dim=16,
    )
    names = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "text_encoder_3", "tokenizer_3")
    pipe = diffusers.StableDiffusion3Pipeline(
        transformer=net,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=diffusers.AutoencoderKL(latent_channels=4, **PLAIN_VAE),
        **dict.fromkeys(names),
    )
    prompts = [(noise(seed, 2, 5, 16), noise(seed + 1, 2, 16)) for seed in (1, 3)]

    def network(x: Tensor, sigma: Tensor, negative: bool) -> Tensor:
        text, pooled = prompts[negative]
        return net(x, timestep=1000 * sigma, encoder_hidden_states=text, pooled_projections=pooled).sample

    given = [{"prompt_embeds": text, "pooled_prompt_embeds": pooled} for text, pooled in prompts]
    negative = {f"negative_{name}": value for name, value in given[1].items()}
    return Case(quiet(pipe), noise(5, 2, 4, 8, 8), given[0], network, negative)


def flux() -> Case:
    """Flux: packed latents [B, sequence, C], and a shift that depends on their number."""
    torch.manual_seed(0)
    net = diffusers.FluxTransformer2DModel(
        patch_size=1,
        in_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=1,
        joint_attention_dim=16,
        pooled_projection_dim=16,
        axes_dims_rope=(4, 6, 6),
        guidance_embeds=False,
    )
    pipe = diffusers.FluxPipeline(
        transformer=net,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0),
        vae=diffusers.AutoencoderKL(latent_channels=1, **PLAIN_VAE),
        **dict.fromkeys(("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")),
    )
    prompts = [(noise(seed, 2, 5, 16), noise(seed + 1, 2, 16)) for seed in (1, 3)]
    ids = diffusers.FluxPipeline._prepare_latent_image_ids(2, 4, 4, "cpu", torch.float32)

    def network(x: Tensor, sigma: Tensor, negative: bool) -> Tensor:
        text, pooled = prompts[negative]
        where = {"txt_ids": torch.zeros(5, 3), "img_ids": ids, "guidance": None}
        return net(x, timestep=sigma, encoder_hidden_states=text, pooled_projections=pooled, **where).sample

    given = [{"prompt_embeds": text, "pooled_prompt_embeds": pooled} for text, pooled in prompts]
    negative = {f"negative_{name}": value for name, value in given[1].items()}
    return Case(quiet(pipe), noise(5, 2, 16, 4), given[0], network, negative, guides="true_cfg_scale")


def wan() -> Case:
    """Wan: videos [B, C, T, H, W], by UniPC."""
    torch.manual_seed(0)
    net = diffusers.WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=16,
        out_channels=16,
        text_dim=16,
        freq_dim=16,
        ffn_dim=16,
        num_layers=1,
        cross_attn_norm=True,
        rope_max_seq_len=32,
    )
    pipe = diffusers.WanPipeline(
        transformer=net,
        scheduler=diffusers.UniPCMultistepScheduler(**FLOW),
        vae=diffusers.AutoencoderKLWan(
            base_dim=2, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True]
        ),
        **dict.fromkeys(("text_encoder", "tokenizer")),
    )
    texts = [noise(1, 2, 6, 16), noise(2, 2, 6, 16)]

    def network(x: Tensor, sigma: Tensor, negative: bool) -> Tensor:
        return net(x, timestep=1000 * sigma, encoder_hidden_states=texts[negative]).sample

    size = {"height": 32, "width": 32, "num_frames": 5}
    prompt, negative = {"prompt_embeds": texts[0]}, {"negative_prompt_embeds": texts[1]}
    return Case(quiet(pipe), noise(5, 2, 16, 2, 4, 4), prompt, network, negative, size)


def sana() -> Case:
    """Sana: DPM-Solver++ on a grid shifted by 3."""
    torch.manual_seed(0)
    net = diffusers.SanaTransformer2DModel(
        patch_size=1,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_attention_heads=2,
        attention_head_dim=4,
        num_cross_attention_heads=2,
        cross_attention_head_dim=4,
        cross_attention_dim=8,
        caption_channels=8,
        sample_size=16,
    )
    blocks = {
        "block_types": ("ResBlock", "EfficientViTBlock"),
        "block_out_channels": (8, 8),
        "layers_per_block": (1, 1),
    }
    sides = {f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in blocks.items()}
    scales = dict.fromkeys(("encoder_qkv_multiscales", "decoder_qkv_multiscales"), ((), (5,)))
    pipe = diffusers.SanaPipeline(
        transformer=net,
        scheduler=diffusers.DPMSolverMultistepScheduler(**FLOW),
        vae=diffusers.AutoencoderDC(
            latent_channels=4,
            attention_head_dim=2,
            downsample_block_type="conv",
            upsample_block_type="interpolate",
            decoder_norm_types="rms_norm",
            decoder_act_fns="silu",
            **sides,
            **scales,
        ),
        **dict.fromkeys(("text_encoder", "tokenizer")),
    )
    texts, mask = [noise(1, 2, 6, 8), noise(2, 2, 6, 8)], torch.ones(2, 6)

    def network(x: Tensor, sigma: Tensor, negative: bool) -> Tensor:
        text = {"encoder_hidden_states": texts[negative], "encoder_attention_mask": mask}
        return net(x, timestep=1000 * sigma, **text).sample

    prompt = {"prompt_embeds": texts[0], "prompt_attention_mask": mask, "negative_prompt": None}
    negative = {"negative_prompt_embeds": texts[1], "negative_prompt_attention_mask": mask}
    size = {"height": 32, "width": 32, "use_resolution_binning": False}
    return Case(quiet(pipe), noise(5, 2, 4, 16, 16), prompt, network, negative, size)

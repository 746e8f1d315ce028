"""Write a LoRA of random weights for a live test."""

import torch
from safetensors.torch import save_file


def write_lora(path, unet, rank=2):
    """Write a random LoRA in kohya's format, for the UNet's cross-attention and the text encoder."""
    generator = torch.Generator().manual_seed(5)
    tensors = {}

    def layer(name, out_width, in_width):
        tensors[f"{name}.lora_down.weight"] = torch.randn(rank, in_width, generator=generator)
        tensors[f"{name}.lora_up.weight"] = torch.randn(out_width, rank, generator=generator) * 0.1
        tensors[f"{name}.alpha"] = torch.tensor(float(rank))

    for level, mult in enumerate(unet.channel_mult[:3]):
        width = unet.model_channels * mult
        for block in range(unet.res_blocks):
            start = f"lora_unet_down_blocks_{level}_attentions_{block}_transformer_blocks_0"
            layer(f"{start}_attn1_to_q", width, width)
            layer(f"{start}_attn2_to_k", width, unet.context_width)
    for number in range(2):
        start = f"lora_te_text_model_encoder_layers_{number}"
        layer(f"{start}_self_attn_q_proj", unet.context_width, unet.context_width)
        layer(f"{start}_mlp_fc1", 4 * unet.context_width, unet.context_width)
    path.parent.mkdir(parents=True)
    save_file(tensors, path)

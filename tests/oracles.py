"""The same networks in diffusers and transformers, with the weights of ours: what ours are compared with."""

from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from ldznet.hosts.diffusers.unet_names import diffusers_unet_names


def diffusers_unet(unet):
    """Return diffusers' UNet with the weights of ours."""
    structure = unet.unet_config
    text = ["CrossAttn" if depth else "" for depth in structure.depths]
    # For a level without transformers the number is not used; for the last one it is the middle block's.
    depths = [depth or 1 for depth in structure.depths]
    depths[-1] = structure.middle_depth
    channels = [structure.model_channels * mult for mult in structure.channel_mult]
    settings = {
        "in_channels": structure.in_channels,
        "out_channels": structure.out_channels,
        "block_out_channels": channels,
        "down_block_types": [f"{kind}DownBlock2D" for kind in text],
        "up_block_types": [f"{kind}UpBlock2D" for kind in reversed(text)],
        "layers_per_block": structure.res_blocks,
        "transformer_layers_per_block": depths,
        "cross_attention_dim": structure.context_width,
        "attention_head_dim": [structure.heads_for(width) for width in channels],
        "use_linear_projection": structure.linear_projection,
    }
    if unet.label_width:
        pooled = structure.context_width // 2
        settings |= {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": (unet.label_width - pooled) // 6,
            "projection_class_embeddings_input_dim": unet.label_width,
        }
    theirs = UNet2DConditionModel(**settings)
    names = diffusers_unet_names(unet.state_dict(), structure)
    return _with_weights(theirs, {names[name]: tensor for name, tensor in unet.state_dict().items()})


def diffusers_vae(vae):
    """Return diffusers' autoencoder with the weights of ours."""
    levels = vae.encoder.down_blocks
    widths = [block.resnets[0].conv1.out_channels for block in reversed(vae.decoder.up_blocks)]
    theirs = AutoencoderKL(
        block_out_channels=widths,
        down_block_types=["DownEncoderBlock2D"] * len(widths),
        up_block_types=["UpDecoderBlock2D"] * len(widths),
        latent_channels=4,
        layers_per_block=len(levels[0].resnets),
        scaling_factor=vae.scale,
    )
    return _with_weights(theirs, vae.state_dict())


def transformers_text(model):
    """Return transformers' text encoder with the weights of ours."""
    config = CLIPTextConfig(
        vocab_size=model.config.vocabulary,
        hidden_size=model.config.width,
        intermediate_size=model.config.inner_width,
        num_hidden_layers=model.config.layers,
        num_attention_heads=model.config.heads,
        max_position_embeddings=model.config.length,
        hidden_act="quick_gelu" if model.config.quick_gelu else "gelu",
        projection_dim=model.config.projection or 512,
        bos_token_id=model.config.vocabulary - 2,
        eos_token_id=model.config.vocabulary - 1,
    )
    theirs = (CLIPTextModelWithProjection if model.config.projection else CLIPTextModel)(config)
    # Versions of transformers differ in whether `text_model.` stands in front of a name.
    names = {name.removeprefix("text_model."): name for name in theirs.state_dict()}
    return _with_weights(theirs, {names[name]: tensor for name, tensor in model.state_dict().items()})


def _with_weights(module, state):
    module.load_state_dict(state)
    return module.eval().requires_grad_(False)

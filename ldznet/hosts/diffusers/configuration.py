"""Read the .yaml beside a checkpoint: the parameters of the original code, in the form of webuis."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ldznet.errors import HostError
from ldznet.hosts.host import Prediction

# part -> the names of its section in the code of 1.x and 2.x, and of XL
_SECTIONS = {
    "unet": ("unet_config", "network_config"),
    "text": ("cond_stage_config", "conditioner_config"),
    "denoiser": ("denoiser_config",),
}
# Keys in use for a schedule that ends in pure noise.
_ZERO_SNR = ("zero_terminal_snr", "rescale_betas_zero_snr", "zero_snr", "use_zero_snr", "ztsnr")


def read_configuration(checkpoint: Path) -> dict[str, Any]:
    """Return the parameters in the .yaml of the same name; empty where there is none.

    Raises:
        HostError: the file is not a configuration of Stable Diffusion.
    """
    path = checkpoint.with_suffix(".yaml")
    if not os.path.isfile(path):
        return {}
    import yaml

    try:
        # "utf-8-sig": some editors on Windows begin the file with a mark. Never the code page of the system.
        params = yaml.safe_load(path.read_text(encoding="utf-8-sig"))["model"]["params"]
        if not isinstance(params, dict):
            raise TypeError(f"its params are {params!r}")
        for name in (name for names in _SECTIONS.values() for name in names):
            if not isinstance(part := _section(params, name), dict):
                raise TypeError(f"its {name} is {part!r}")
    except (OSError, yaml.YAMLError, KeyError, TypeError, UnicodeDecodeError) as why:
        raise HostError(
            f"{path} lies beside the checkpoint, but is no configuration of Stable Diffusion ({why}). Fix or "
            "remove it."
        ) from why
    return params


def section(configuration: Mapping[str, Any], part: str) -> dict[str, Any]:
    """Return the parameters of "unet", "text" or "denoiser"; empty where the configuration has none."""
    merged: dict[str, Any] = {}
    for name in _SECTIONS[part]:
        merged |= _section(configuration, name)
    return merged


def _section(configuration: Mapping[str, Any], name: str) -> Any:
    part = configuration.get(name, {})
    return part.get("params", {}) if isinstance(part, dict) else part


def configured_prediction(configuration: Mapping[str, Any]) -> Prediction | None:
    """Return what the model predicts according to its configuration; None where that is not written.

    Raises:
        HostError: the model predicts something else than noise or v.
    """
    known: Mapping[str, Prediction] = {"eps": "noise", "v": "v"}
    if (parameterization := configuration.get("parameterization")) is not None:
        if parameterization in known:
            return known[parameterization]
        raise HostError(
            f'The .yaml beside the checkpoint says that the model predicts "{parameterization}", but ldznet knows '
            '"eps" (noise) and "v" only. Correct the .yaml, or use another model.'
        )
    # The code of XL names the prediction by a class, such as ...denoiser_scaling.VScaling.
    scaling = section(configuration, "denoiser").get("scaling_config", {})
    target = str(scaling.get("target", "")) if isinstance(scaling, dict) else ""
    kind = target.rpartition(".")[2]
    return "v" if kind.startswith("VScaling") else "noise" if kind.startswith("EpsScaling") else None


def has_zero_snr(configuration: Mapping[str, Any]) -> bool:
    """Return whether the configuration asks for a zero terminal signal-to-noise ratio."""
    denoiser = section(configuration, "denoiser")
    discretization = denoiser.get("discretization_config", {})
    target = str(discretization.get("target", "")) if isinstance(discretization, dict) else ""
    return "ZeroSNR" in target or any(
        bool(place.get(key)) for place in (configuration, denoiser) for key in _ZERO_SNR
    )

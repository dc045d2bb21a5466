"""Recompute recorded numbers of Open-Sora v1.2: `python -m phys4d.models.open_sora.conformance VECTORS.json`.

Weights and inputs have a closed form, so a file holds results only:

    T(shape, k)[i] = float32(1.3 sin(0.7 (i + 1) k + 0.3 k))    (row-major, i from 0)

The weights that train, in sorted order of their names, j from 0, are 0.05 T(shape, 1 + 0.01 j); those of the
temporal autoencoder's norms are that plus 1. The video is T(., 1.0), the text T(., 1.7). A file is of one of
three kinds, told by what is in it: cases of the transformer (each with a `config`), a case of the temporal
autoencoder with its published layout (`case`, `published`), or the transformer's published layout (`keys`).
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from phys4d.models.open_sora.stdit3 import STDiT3
from phys4d.models.open_sora.temporal_vae import TemporalVae

TOLERANCE = 1e-3
"""Largest relative deviation allowed."""


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What was found out about a file."""

    what: str
    """What was compared, for the printed line."""
    deviation: float
    """Largest |got - recorded| / |recorded|; infinite for a wrong shape or layout, or for NaN."""
    problem: str = ""
    """The first difference in layout, if there is one."""


def closed_form_tensor(shape: Sequence[int], k: float) -> Float[Tensor, ...]:
    """T(shape, k) of the module's docstring, float32."""
    index = np.arange(math.prod(shape))
    values = 1.3 * np.sin(0.7 * (index + 1) * k + 0.3 * k)
    return torch.from_numpy(values.astype(np.float32)).reshape(tuple(shape))


@torch.no_grad()
def fill(module: nn.Module, *, norms_near_one: bool) -> int:
    """Give every weight that trains its closed form.

    Returns:
        How many weights train.
    """
    trained = sorted((name, p) for name, p in module.named_parameters() if p.requires_grad)
    for j, (name, parameter) in enumerate(trained):
        parameter.copy_(0.05 * closed_form_tensor(parameter.shape, 1 + 0.01 * j))
        if norms_near_one and parameter.ndim == 1 and name.endswith("weight"):
            parameter.add_(1.0)
    return len(trained)


def layout_difference(module: nn.Module, keys: Mapping[str, Sequence[int]]) -> str:
    """The first difference between a module's state dict and a published layout; empty if there is none."""
    ours = {name: list(tensor.shape) for name, tensor in module.state_dict().items()}
    for name, shape in keys.items():
        if name not in ours:
            return f"{name} is published, not here"
        if ours[name] != list(shape):
            return f"{name} is published with shape {list(shape)}, here {ours[name]}"
    extra = sorted(ours.keys() - keys.keys())
    return f"{extra[0]} is here, not published" if extra else ""


def relative_deviation(got: Tensor, recorded: Mapping[str, Any], shape_key: str = "shape") -> float:
    """Largest deviation of a tensor's recorded statistics and first and last values."""
    flat = got.double().flatten()
    values = {
        "mean": [flat.mean().item()],
        "abs_mean": [flat.abs().mean().item()],
        "std": [flat.std().item()],
        "first8": flat[:8].tolist(),
        "last8": flat[-8:].tolist(),
    }
    known = [name for name in values if name in recorded]
    if not known or list(recorded.get(shape_key, got.shape)) != list(got.shape):
        return math.inf
    worst = 0.0
    for name in known:
        expected = np.atleast_1d(recorded[name])
        error = np.abs(np.array(values[name]) - expected) / np.abs(expected)
        worst = max(worst, math.inf if np.isnan(error).any() else float(error.max()))
    return worst


@torch.no_grad()
def transformer_output(case: Mapping[str, Any], model: STDiT3) -> Tensor:
    """What a filled transformer gives for a case's inputs, at the frames that are compared."""
    x = closed_form_tensor(case["x"], 1.0)
    batch, _, frames, _, _ = x.shape
    num_tokens = case["text_tokens"]
    text = closed_form_tensor((batch, num_tokens, case["config"]["caption_channels"]), 1.7)
    text_mask = torch.ones(batch, num_tokens, dtype=torch.bool)
    text_mask[1, case["text_valid_second"] :] = False
    generated = torch.ones(batch, frames, dtype=torch.bool)
    generated[:, 0] = False
    output = model(
        x,
        torch.tensor(case["timesteps"]),
        text,
        height=case["height"],
        width=case["width"],
        fps=case["fps"],
        text_mask_BL=text_mask,
        generated_BT=generated if case["first_frame_masked"] else None,
    ).sample
    return output if case["compared"] == "all" else output[:, :, 1:]


def check_transformer(cases: Mapping[str, Mapping[str, Any]]) -> Iterator[Checked]:
    """Every case of a transformer file."""
    for name, case in cases.items():
        model = STDiT3(**case["config"]).eval()
        num_trained = fill(model, norms_near_one=False)
        if num_trained != case["trainable"]:
            problem = f"{case['trainable']} weights train in the published class, {num_trained} here"
            yield Checked(what=name, deviation=math.inf, problem=problem)
            continue
        output = transformer_output(case, model)
        recorded = {key: value for key, value in case.items() if key != "out_shape"}
        yield Checked(what=name, deviation=relative_deviation(output, recorded))


@torch.no_grad()
def check_temporal_vae(case: Mapping[str, Any], published: Mapping[str, Any]) -> Iterator[Checked]:
    """The numbers of a small temporal autoencoder, and the layout of the published one."""
    vae = TemporalVae(filters=case["filters"], num_res_blocks=case["num_res_blocks"]).eval()
    fill(vae, norms_near_one=True)
    x = closed_form_tensor(case["x"], 1.0)
    latents = vae.encode(x)
    yield Checked(what="encode", deviation=relative_deviation(latents, case["encode_mode"]))
    decoded = vae.decode(latents, x.shape[2])
    yield Checked(what="decode", deviation=relative_deviation(decoded, case["decode"]))
    with torch.device("meta"):
        full = TemporalVae(filters=published["filters"], num_res_blocks=published["num_res_blocks"])
    yield check_layout(full, published["keys"], published["parameters"])


def check_layout(module: nn.Module, keys: Mapping[str, Sequence[int]], num_parameters: int) -> Checked:
    """Names, shapes and number of parameters."""
    problem = layout_difference(module, keys)
    count = sum(p.numel() for p in module.parameters())
    if not problem and count != num_parameters:
        problem = f"{num_parameters} parameters are published, {count} are here"
    return Checked(
        what=f"layout of {len(keys)} tensors", deviation=math.inf if problem else 0.0, problem=problem
    )


def check(vectors: object) -> list[Checked]:
    """Recompute a file.

    Raises:
        ValueError: a file of no known kind, or one that lacks what its kind needs.
    """
    if not isinstance(vectors, Mapping):
        raise ValueError("the vector file must be an object")
    cases = {name: case for name, case in vectors.items() if isinstance(case, Mapping) and "config" in case}
    try:
        if "case" in vectors:
            return list(check_temporal_vae(vectors["case"], vectors["published"]))
        if "keys" in vectors:
            with torch.device("meta"):
                model = STDiT3(**vectors["config"])
            return [check_layout(model, vectors["keys"], vectors["parameters"])]
        if cases:
            return list(check_transformer(cases))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"the vector file lacks something or has it in another form: {error}") from error
    raise ValueError(
        "the vector file has no cases with `config`, no `case` with `published`, and no `keys`; "
        "it is not of Open-Sora"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Print one line per comparison and the largest relative deviation.

    Returns:
        Exit status: 0 if it is within the tolerance, 1 if not, 2 on bad input.
    """
    arguments = sys.argv[1:] if argv is None else list(argv)
    if len(arguments) != 1 or arguments[0] in ("-h", "--help"):
        print("usage: python -m phys4d.models.open_sora.conformance VECTORS.json", file=sys.stderr)
        return 0 if arguments in (["-h"], ["--help"]) else 2
    try:
        results = check(json.loads(Path(arguments[0]).read_text()))
    except (OSError, ValueError) as error:
        print(f"error: {arguments[0]}: {error}", file=sys.stderr)
        return 2
    for result in results:
        print(f"{result.what}: {result.problem or f'{result.deviation:.2e}'}")
    worst = max(result.deviation for result in results)
    passed = worst <= TOLERANCE
    print(
        f"{'ok' if passed else 'FAILED'}: largest relative deviation {worst:.2e} (tolerance {TOLERANCE:.0e})"
    )
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())

"""Open-Sora's autoencoder: published layout, which frames a latent frame stands for, causality."""

import json
from pathlib import Path

import pytest
import torch

from phys4d.models.autoencoders import latent_format
from phys4d.models.open_sora.conformance import layout_difference
from phys4d.models.open_sora.temporal_vae import TemporalVae
from phys4d.models.open_sora.vae import OpenSoraVae

VECTORS = Path(__file__).parents[3] / "vectors" / "open_sora_vae.json"


@pytest.fixture(scope="module")
def vae() -> OpenSoraVae:
    torch.manual_seed(0)
    return OpenSoraVae(
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=1,
        norm_num_groups=4,
        temporal_filters=32,
        temporal_num_res_blocks=1,
    ).eval()


def test_the_full_size_state_dict_is_the_published_one() -> None:
    """83.7 M parameters of SDXL's image autoencoder, 309.7 M of the temporal one, and two buffers."""
    published = json.loads(VECTORS.read_text())["published"]
    with torch.device("meta"):
        vae = OpenSoraVae()
    assert layout_difference(vae.temporal_vae, published["keys"]) == ""
    assert sum(p.numel() for p in vae.temporal_vae.parameters()) == published["parameters"]
    assert sum(p.numel() for p in vae.spatial_vae.parameters()) == 83_653_863
    prefixes = {".".join(name.split(".")[:2]) for name in vae.state_dict() if name.startswith("spatial")}
    assert prefixes == {"spatial_vae.module"}
    rest = [name for name in vae.state_dict() if not name.startswith(("spatial_vae.", "temporal_vae."))]
    assert rest == ["scale", "shift"]


@torch.no_grad()
@pytest.mark.parametrize(("num_frames", "num_latents"), [(1, 1), (5, 2), (17, 5), (22, 7)])
def test_a_video_comes_back_with_its_shape(vae: OpenSoraVae, num_frames: int, num_latents: int) -> None:
    video = torch.rand(2, 3, num_frames, 16, 24) * 2 - 1
    latents = vae.encode(video)
    assert latents.shape == (2, 4, num_latents, 2, 3)
    assert vae.num_latent_frames(num_frames) == num_latents
    assert vae.num_frames(num_latents) == num_frames
    assert vae.decode(latents).shape == video.shape


def test_each_latent_frame_stands_for_four_frames_but_the_first_of_a_piece(vae: OpenSoraVae) -> None:
    spans = latent_format(vae).frames_of_latents(vae.num_latent_frames(22))
    assert spans[:5] == [range(0, 1), range(1, 5), range(5, 9), range(9, 13), range(13, 17)]
    assert spans[5:] == [range(17, 18), range(18, 22)]


@torch.no_grad()
def test_pieces_of_17_frames_know_nothing_of_one_another(vae: OpenSoraVae) -> None:
    video = torch.rand(1, 3, 18, 16, 16)
    whole = vae.encode(video)
    torch.testing.assert_close(whole[:, :, :5], vae.encode(video[:, :, :17]))
    torch.testing.assert_close(whole[:, :, 5:], vae.encode(video[:, :, 17:]))
    torch.testing.assert_close(vae.decode(whole)[:, :, 17:], vae.decode(whole[:, :, 5:]))


@torch.no_grad()
def test_latents_are_normalised_by_the_published_shift_and_scale(vae: OpenSoraVae) -> None:
    video = torch.rand(1, 3, 5, 16, 16)
    images = vae.spatial_vae.module.encode(video[0].transpose(0, 1)).latent_dist.mode() * 0.18215
    raw = vae.temporal_vae.encode(images.transpose(0, 1).unsqueeze(0))
    channel_3 = (raw[:, 3] - 0.98) / 3.06
    torch.testing.assert_close(vae.encode(video)[:, 3], channel_3)


@pytest.mark.parametrize(("given", "nearest"), [(0, 1), (2, 1), (16, 17), (20, 18), (19, 18), (50, 51)])
def test_a_number_of_frames_that_latents_cannot_tell_is_refused(
    vae: OpenSoraVae, given: int, nearest: int
) -> None:
    with pytest.raises(ValueError, match=rf"got {given}; use {nearest}$"):
        vae.num_latent_frames(given)


@torch.no_grad()
def test_convolutions_see_the_past_only() -> None:
    """Without norms, which average over all frames, a latent frame does not depend on later frames."""
    torch.manual_seed(0)
    vae = TemporalVae(filters=32, num_res_blocks=1).eval()
    for module in vae.modules():
        for name in ("norm1", "norm2"):
            if hasattr(module, name):
                setattr(module, name, torch.nn.Identity())
    x = torch.randn(1, 4, 9, 4, 4)
    changed = x.clone()
    changed[:, :, 5:] += 1
    torch.testing.assert_close(vae.encode(changed)[:, :, :2], vae.encode(x)[:, :, :2])
    assert (vae.encode(changed)[:, :, 2] - vae.encode(x)[:, :, 2]).abs().max() > 1e-6
    z = vae.encode(x)
    later = z.clone()
    later[:, :, 2] += 1
    torch.testing.assert_close(vae.decode(later, 9)[:, :, :5], vae.decode(z, 9)[:, :, :5])


@torch.no_grad()
def test_latents_of_another_number_of_frames_are_refused() -> None:
    vae = TemporalVae(filters=32, num_res_blocks=1)
    with pytest.raises(ValueError, match="2 latent frames decode to 5 to 8 frames, got num_frames 9"):
        vae.decode(torch.zeros(1, 4, 2, 4, 4), 9)


def test_a_piece_that_does_not_start_with_a_lone_frame_is_refused() -> None:
    with pytest.raises(ValueError, match="one more than a multiple of 4, got 16"):
        OpenSoraVae(piece_frames=16)


@torch.no_grad()
def test_a_saved_autoencoder_gives_the_same_after_loading(vae: OpenSoraVae, tmp_path: Path) -> None:
    vae.save_pretrained(tmp_path)
    video = torch.rand(1, 3, 5, 16, 16)
    assert torch.equal(OpenSoraVae.from_pretrained(tmp_path).encode(video), vae.encode(video))

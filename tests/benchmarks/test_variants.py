"""Names of variants with a depth encoding or a network of DeFM."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch

from edgefuse.errors import UserError
from edgefuse.training.recipe import small_rgbd
from edgefuse_benchmarks.paper.variants import choose_weights, parse_variant, variant_config


def test_names_can_have_an_encoding() -> None:
    base = small_rgbd(encoding="absolute")
    names = (
        "spatial-small@log",
        "depth-scratch",
        "rgb-small",
        "spatial-small+defm_resnet18",
        "depth-defm_resnet18@log",
    )
    parsed = [parse_variant(name) for name in names]
    assert [v.encoding for v in parsed] == ["log", None, None, "log", "log"]
    configs = [variant_config(v, base, weights={}).encoding for v in parsed]
    assert configs == ["log", "absolute", "absolute", "log", "log"]
    assert (parsed[0].rgb, parsed[0].depth, parsed[0].baseline) == ("small", "scratch", "naive-small@log")
    for name in ("spatial-small@", "spatial-small@hha", "rgb-small@log"):
        with pytest.raises(UserError, match=r"encodings are absolute, relative, log, for variants that use depth"):
            parse_variant(name)
    with pytest.raises(UserError, match="DeFM's networks expect --encoding log"):
        parse_variant("depth-defm_resnet18@relative")


def test_weights_of_defm_go_to_its_backbone(tmp_path: Path) -> None:
    from torch import nn
    from torchvision.models import resnet18

    network = resnet18(norm_layer=partial(nn.GroupNorm, 32))
    file = tmp_path / "defm_resnet18.pth"
    torch.save({"model": {f"backbone.{key}": value for key, value in network.state_dict().items()}}, file)
    variants = [parse_variant(name) for name in ("spatial-small+defm_resnet18", "depth-resnet18")]
    assert choose_weights(variants, given=["none", str(file)]) == {"defm_resnet18": str(file), "resnet18": "none"}
    assert choose_weights(variants[:1], given=[str(file)]) == {"defm_resnet18": str(file)}
    config = variant_config(variants[0], small_rgbd(), weights={"defm_resnet18": str(file)})
    assert (config.rgb_weights, config.depth_weights, config.encoding) == ("none", str(file), "log")
    with pytest.raises(UserError, match="no default weights"):
        choose_weights(variants[:1])

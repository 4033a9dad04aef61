"""Small networks of torchvision, timm and Transformers, with random weights; no downloads."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import timm
import torch
import torchvision.models as vision
import transformers
from timm.models.mvitv2 import MultiScaleVit, MultiScaleVitCfg
from timm.models.nest import Nest
from timm.models.vitamin import VitCfg, VitConvCfg
from torch import Tensor, nn
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.efficientnet import MBConvConfig
from torchvision.models.regnet import BlockParams

CLASSES = 5


def in_timm(name: str, size: int | None = None, **options: Any) -> Callable[[], nn.Module]:
    if size is not None:
        options["img_size"] = size
    return partial(timm.create_model, name, num_classes=CLASSES, **options)


def in_transformers(kind: str, **options: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        config = getattr(transformers, f"{kind}Config")(num_labels=CLASSES, **options)
        model: nn.Module = getattr(transformers, f"{kind}ForImageClassification")(config)
        return model

    return make


def mvitv2() -> nn.Module:
    config = MultiScaleVitCfg(
        depths=(1, 1, 2, 1), embed_dim=(8, 16, 16, 32), num_heads=(1, 2, 2, 2)
    )
    return MultiScaleVit(config, img_size=(64, 64), num_classes=CLASSES)


def vitamin() -> nn.Module:
    stem = VitConvCfg(norm_layer="layernorm2d", norm_eps=1e-6)
    config = VitCfg((8, 16, 16), (1, 1, 1), stem_width=8, conv_cfg=stem, head_type="1d")
    small = {"img_size": 64, "embed_dim": 16, "depth": 4, "num_heads": 2}
    model: nn.Module = timm.create_model(
        "vitamin_small_224", num_classes=CLASSES, embed_cfg=config, **small
    )
    return model


PLAIN = {"patch_size": 8, "embed_dim": 16, "depth": 6, "num_heads": 2}
WIDTHS = (8, 16, 24, 32)
TIMM: dict[str, tuple[int, Callable[[], nn.Module]]] = {
    "xcit": (
        32,
        in_timm("xcit_nano_12_p8_224", 32, embed_dim=16, depth=5, num_heads=2),
    ),
    "visformer": (
        64,
        in_timm("visformer_tiny", 64, init_channels=8, embed_dim=32, depth=(2, 2, 2), num_heads=2),
    ),
    "pit": (64, in_timm("pit_ti_224", 64, base_dims=[8] * 3, depth=[2, 3, 2], heads=[1, 2, 4])),
    "mvitv2": (64, mvitv2),
    "coat": (
        64,
        in_timm("coat_lite_tiny", 64, embed_dims=[16, 16, 32, 32], serial_depths=[2] * 4),
    ),
    "twins_svt": (
        64,
        in_timm("twins_svt_small", 64, embed_dims=WIDTHS, num_heads=[1, 2, 2, 2], depths=[2] * 4),
    ),
    "twins_pcpvt": (
        64,
        in_timm("twins_pcpvt_small", 64, embed_dims=WIDTHS, num_heads=[1, 2, 2, 2], depths=[2] * 4),
    ),
    "vitamin": (64, vitamin),
    "tnt": (
        32,
        in_timm(
            "tnt_s_patch16_224",
            32,
            embed_dim=16,
            inner_dim=8,
            depth=5,
            num_heads_outer=2,
            num_heads_inner=2,
        ),
    ),
    "nest": (
        32,
        partial(
            Nest,
            img_size=32,
            patch_size=2,
            num_levels=3,
            embed_dims=(8, 16, 16),
            num_heads=(1, 2, 2),
            depths=(1, 1, 2),
            num_classes=CLASSES,
        ),
    ),
    "sequencer2d": (
        28,
        in_timm(
            "sequencer2d_s",
            28,
            layers=[1, 1, 2, 1],
            embed_dims=[8, 16, 16, 16],
            hidden_sizes=[4, 8, 8, 8],
        ),
    ),
    "hiera": (64, in_timm("hiera_tiny_224", 64, embed_dim=8, stages=(1, 2, 2, 1))),
    # Plain ones.
    "vit": (32, in_timm("vit_tiny_patch16_224", 32, **PLAIN)),
    "deit": (32, in_timm("deit_tiny_patch16_224", 32, **PLAIN)),
    "beit": (32, in_timm("beit_base_patch16_224", 32, **PLAIN)),
    "convnext": (64, in_timm("convnext_atto", depths=(1, 1, 2, 1), dims=WIDTHS)),
    "resnet": (64, in_timm("resnet18", channels=WIDTHS)),
    "efficientnet": (32, in_timm("efficientnet_b0")),
    "mobilenetv3": (32, in_timm("mobilenetv3_small_050")),
    # Others.
    "swin": (
        64,
        in_timm(
            "swin_tiny_patch4_window7_224",
            64,
            window_size=4,
            embed_dim=8,
            depths=(2,) * 4,
            num_heads=(1, 2, 2, 2),
        ),
    ),
    "davit": (
        64,
        in_timm("davit_tiny", depths=(1, 1, 2, 1), embed_dims=WIDTHS, num_heads=(1, 2, 2, 2)),
    ),
    "levit": (
        64,
        partial(
            timm.models.levit.Levit,
            img_size=64,
            num_classes=CLASSES,
            embed_dim=(16, 24, 32),
            key_dim=8,
            depth=(2, 2, 2),
            num_heads=(2, 2, 2),
        ),
    ),
    "cait": (32, in_timm("cait_xxs24_224", 32, **PLAIN)),
    "edgenext": (
        64,
        in_timm("edgenext_xx_small", depths=(2,) * 4, dims=(16, 16, 24, 32), heads=(2,) * 4),
    ),
    "resmlp": (
        32,
        partial(
            timm.models.mlp_mixer.MlpMixer,
            img_size=32,
            patch_size=8,
            embed_dim=16,
            num_blocks=5,
            num_classes=CLASSES,
        ),
    ),
}
MORE_OF_TIMM: dict[str, tuple[int, Callable[[], nn.Module]]] = {
    "nfnet": (
        64,
        partial(
            timm.models.nfnet.NormFreeNet,
            timm.models.nfnet.NfCfg(
                depths=(1, 1, 1, 1), channels=WIDTHS, stem_type="3x3", stem_chs=8, group_size=8
            ),
            num_classes=CLASSES,
        ),
    ),
    "convnextv2": (64, in_timm("convnextv2_atto", depths=(1, 1, 2, 1), dims=WIDTHS)),
}
SWIN = {
    "image_size": 64,
    "patch_size": 2,
    "embed_dim": 8,
    "depths": [2] * 4,
    "num_heads": [1, 2, 2, 2],
    "window_size": 4,
}
VIT = {
    "image_size": 32,
    "patch_size": 8,
    "hidden_size": 16,
    "num_hidden_layers": 6,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
PYRAMID = {"hidden_sizes": [*WIDTHS], "depths": [2] * 4, "num_attention_heads": [1, 2, 2, 2]}
STAGES = {"hidden_sizes": [*WIDTHS], "depths": [1, 1, 2, 1]}
TRANSFORMERS: dict[str, tuple[int, Callable[[], nn.Module]]] = {
    "Swin": (64, in_transformers("Swin", **SWIN)),
    "Swinv2": (64, in_transformers("Swinv2", **SWIN)),
    "Hiera": (
        64,
        in_transformers(
            "Hiera", image_size=[64] * 2, embed_dim=8, depths=[1, 2, 2, 1], num_heads=[1, 2, 2, 4]
        ),
    ),
    "Cvt": (
        64,
        in_transformers("Cvt", embed_dim=[8, 16, 24], num_heads=[1, 2, 2], depth=[1, 2, 3]),
    ),
    "Pvt": (64, in_transformers("Pvt", image_size=64, **PYRAMID)),
    "FocalNet": (
        64,
        in_transformers(
            "FocalNet", image_size=64, embed_dim=8, hidden_sizes=[8, 16, 32, 64], depths=[2] * 4
        ),
    ),
    "PoolFormer": (64, in_transformers("PoolFormer", **STAGES)),
    "Data2VecVision": (32, in_transformers("Data2VecVision", **VIT)),
    # Plain ones.
    "ViT": (32, in_transformers("ViT", **VIT)),
    "DeiT": (32, in_transformers("DeiT", **VIT)),
    "Beit": (32, in_transformers("Beit", **VIT)),
    "ConvNext": (64, in_transformers("ConvNext", image_size=64, **STAGES)),
    "ResNet": (64, in_transformers("ResNet", embedding_size=8, **STAGES)),
    "EfficientNet": (
        32,
        in_transformers(
            "EfficientNet",
            image_size=32,
            width_coefficient=0.25,
            depth_coefficient=0.5,
            hidden_dim=320,
        ),
    ),
    # Others.
    "Dinov2": (32, in_transformers("Dinov2", **{**VIT, "mlp_ratio": 2})),
    "MobileViT": (
        64,
        in_transformers(
            "MobileViT",
            image_size=64,
            hidden_sizes=[16, 24, 32],
            neck_hidden_sizes=[8, 8, 16, 16, 24, 32, 64],
            num_attention_heads=2,
        ),
    ),
    "Segformer": (64, in_transformers("Segformer", **PYRAMID)),
    "PvtV2": (64, in_transformers("PvtV2", image_size=64, **PYRAMID)),
    "SwiftFormer": (
        64,
        in_transformers("SwiftFormer", image_size=64, embed_dims=[*WIDTHS], depths=[1, 1, 2, 1]),
    ),
    "MobileNetV1": (64, in_transformers("MobileNetV1", depth_multiplier=0.25)),
}
MODELS = {
    **{f"timm {name}": model for name, model in TIMM.items()},
    **{f"HF {name}": model for name, model in TRANSFORMERS.items()},
}


def alive(model: nn.Module, images: Tensor) -> nn.Module:
    """A model in which every block adds something, and of which every class is predicted."""
    generator = torch.Generator().manual_seed(0)
    heads = []
    for part in model.modules():
        for parameter in part.parameters(recurse=False):
            largest = float(parameter.detach().abs().max())
            if isinstance(part, nn.Conv2d | nn.Linear) and parameter.ndim > 1:
                scale = float(parameter[0].numel()) ** -0.5
                parameter.data.normal_(0, 1.4 * scale, generator=generator)
            elif parameter.ndim > 1 and largest == 0:
                parameter.data.normal_(0, 0.05, generator=generator)
            elif parameter.ndim == 1 and 0 < largest < 0.01:  # the scale of a block
                parameter.data.fill_(0.5)
        if isinstance(part, nn.Linear) and part.out_features == CLASSES:
            heads.append(part)
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            part.momentum = 1.0
    with torch.no_grad():
        model.train()(images * 2 - 1)  # for BatchNorm
        model.eval()
        logits = logits_of(model, images * 2 - 1)
        for head in heads:
            head.bias -= logits.mean(dim=0)
    return model


def logits_of(model: nn.Module, images: Tensor) -> Tensor:
    returned = model(images)
    logits: Tensor = getattr(returned, "logits", returned)
    return logits


def made(name: str) -> tuple[nn.Module, Tensor]:
    """A model, and 60 images."""
    size, make = MODELS[name]
    torch.manual_seed(0)
    images = torch.rand(60, 3, size, size)
    return alive(make().eval(), images), images


def with_quick_weights(module: nn.Module) -> nn.Module:
    """A network made on the device "meta", with random weights of its own scale."""
    generator = torch.Generator().manual_seed(0)
    module.to_empty(device="cpu")
    for part in module.modules():
        for name, tensor in part.named_parameters(recurse=False):
            weights = isinstance(part, nn.Conv2d | nn.Linear) and name == "weight"
            scale = tensor[0].numel() ** -0.5 if weights else 0.1
            values = torch.rand(tensor.shape, generator=generator).mul_(2).sub_(1)
            tensor.data = values.mul_(1.7 * scale)
            if tensor.ndim == 1 and name == "weight":
                tensor.data += 1
        for name, buffer in part.named_buffers(recurse=False):
            if name == "relative_position_index":  # of windows of 7 x 7
                places = torch.arange(buffer.numel()) % 169
                buffer.copy_(places)
            elif name.endswith("var"):
                buffer.fill_(1)
            else:
                buffer.zero_()
    return module


def on_meta(make: Callable[..., nn.Module], **options: Any) -> nn.Module:
    """A network that has many weights: drawing them as it does takes longer than running it."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        module = make(num_classes=CLASSES, init_weights=False, **options)
    return with_quick_weights(module)


def redrawn(make: Callable[[], nn.Module]) -> nn.Module:
    """A network whose blocks all change what they are given, which its own weights hardly do."""
    module = make()
    for part in module.modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            nn.init.normal_(part.weight, std=1.4 * float(part.weight[0].numel()) ** -0.5)
    return module


TORCHVISION: dict[str, tuple[int, Callable[[], nn.Module]]] = {
    "resnet": (
        32,
        partial(vision.ResNet, vision.resnet.BasicBlock, [1, 1, 1, 1], num_classes=CLASSES),
    ),
    "densenet": (
        32,
        partial(
            vision.DenseNet,
            growth_rate=8,
            block_config=(2, 2, 2, 2),
            num_init_features=16,
            num_classes=CLASSES,
        ),
    ),
    "mobilenet_v3": (32, partial(vision.mobilenet_v3_small, num_classes=CLASSES)),
    "efficientnet": (
        32,
        partial(
            vision.EfficientNet,
            [MBConvConfig(1, 3, 1, 16, 8, 1, 1.0, 1.0), MBConvConfig(4, 5, 2, 8, 16, 2, 1.0, 1.0)],
            dropout=0.2,
            num_classes=CLASSES,
            last_channel=48,
        ),
    ),
    "convnext": (
        32,
        partial(
            vision.ConvNeXt,
            [CNBlockConfig(16, 24, 1), CNBlockConfig(24, 32, 1), CNBlockConfig(32, None, 2)],
            num_classes=CLASSES,
        ),
    ),
    "swin": (
        32,
        partial(
            vision.SwinTransformer,
            patch_size=[4, 4],
            embed_dim=16,
            depths=[2, 2],
            num_heads=[1, 2],
            window_size=[4, 4],
            num_classes=CLASSES,
        ),
    ),
    "vit": (
        32,
        partial(
            vision.VisionTransformer,
            image_size=32,
            patch_size=8,
            num_layers=3,
            num_heads=2,
            hidden_dim=16,
            mlp_dim=32,
            num_classes=CLASSES,
        ),
    ),
    "maxvit": (
        64,
        partial(
            redrawn,
            partial(
                vision.MaxVit,
                input_size=(64, 64),
                stem_channels=8,
                partition_size=4,
                block_channels=[8, 16],
                block_layers=[1, 1],
                head_dim=8,
                stochastic_depth_prob=0.1,
                num_classes=CLASSES,
            ),
        ),
    ),
    "regnet": (
        32,
        partial(
            vision.RegNet,
            BlockParams.from_init_params(depth=6, w_0=8, w_a=8.0, w_m=2.0, group_width=8),
            num_classes=CLASSES,
            stem_width=8,
        ),
    ),
    "shufflenet": (32, partial(vision.shufflenet_v2_x0_5, num_classes=CLASSES)),
    # Two with auxiliary last layers, which run in training mode.
    "googlenet": (32, partial(on_meta, vision.GoogLeNet, aux_logits=True)),
    "inception": (75, partial(on_meta, vision.Inception3, aux_logits=True)),
}

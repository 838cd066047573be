"""ResNets for 32 × 32 images (He et al. 2015, arXiv 1512.03385, section 4.2): three stages of basic blocks.

ResNet-20/32/44/56/110 have 3/5/7/9/18 blocks per stage. At the start of a stage the shortcut takes every second pixel
and pads the new channels with zeros (option A in the paper), so no shortcut has parameters.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutputWithNoAttention


class CifarResNetConfig(PretrainedConfig):
    """`depths` and `hidden_sizes` are the numbers of blocks and of channels of each stage."""

    model_type = "cifar_resnet"

    def __init__(
        self,
        depths: Sequence[int] = (3, 3, 3),
        hidden_sizes: Sequence[int] = (16, 32, 64),
        num_channels: int = 3,
        image_size: int = 32,
        **kwargs: Any,
    ) -> None:
        self.depths = list(depths)
        self.hidden_sizes = list(hidden_sizes)
        self.num_channels = num_channels
        self.image_size = image_size
        if "id2label" not in kwargs:
            kwargs.setdefault("num_labels", 10)
        super().__init__(**kwargs)


class CifarResNetBlock(nn.Module):
    """Two 3 × 3 convolutions and a shortcut: `[B, in, H, W]` to `[B, out, H / stride, W / stride]`."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.stride = stride
        self.new_channels = out_channels - in_channels

    def forward(self, hidden_states: Tensor) -> Tensor:
        shortcut = hidden_states[:, :, :: self.stride, :: self.stride]
        if self.new_channels:
            before = self.new_channels // 2
            shortcut = nn.functional.pad(shortcut, (0, 0, 0, 0, before, self.new_channels - before))
        residual = nn.functional.relu(self.bn1(self.conv1(hidden_states)))
        return nn.functional.relu(self.bn2(self.conv2(residual)) + shortcut)


class CifarResNetForImageClassification(PreTrainedModel):
    """Stem, stages `layer1`, `layer2`, …, mean over pixels, and a linear head."""

    config_class = CifarResNetConfig
    main_input_name = "pixel_values"
    _no_split_modules = ["CifarResNetBlock"]  # noqa: RUF012

    def __init__(self, config: CifarResNetConfig) -> None:
        super().__init__(config)
        channels = config.hidden_sizes[0]
        self.conv1 = nn.Conv2d(config.num_channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.stages = [f"layer{number}" for number in range(1, len(config.depths) + 1)]
        for name, depth, width in zip(self.stages, config.depths, config.hidden_sizes, strict=True):
            stride = 1 if name == "layer1" else 2
            blocks = [CifarResNetBlock(channels, width, stride)]
            blocks += [CifarResNetBlock(width, width, 1) for _ in range(depth - 1)]
            self.add_module(name, nn.Sequential(*blocks))
            channels = width
        self.linear = nn.Linear(channels, config.num_labels)
        self.post_init()

    def forward(
        self, pixel_values: Tensor, labels: Tensor | None = None, **_kwargs: Any
    ) -> ImageClassifierOutputWithNoAttention:
        """Logits `[B, num_labels]` of images `[B, C, H, W]`, and the cross-entropy where `[B]` labels are given."""
        hidden_states = nn.functional.relu(self.bn1(self.conv1(pixel_values)))
        for name in self.stages:
            hidden_states = self.get_submodule(name)(hidden_states)
        logits = self.linear(hidden_states.mean((2, 3)))
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return ImageClassifierOutputWithNoAttention(loss=loss, logits=logits)

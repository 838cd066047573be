"""VGG-16 with batch norm and one linear layer as head, for 32 × 32 images (Simonyan & Zisserman, arXiv 1409.1556).

A layer is a convolution with its batch norm and ReLU; each stage ends with a pooling that halves the image.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutputWithNoAttention


class CifarVGGConfig(PretrainedConfig):
    """`depths` and `hidden_sizes` are the numbers of convolutions and of channels of each stage."""

    model_type = "cifar_vgg"

    def __init__(
        self,
        depths: Sequence[int] = (2, 2, 3, 3, 3),
        hidden_sizes: Sequence[int] = (64, 128, 256, 512, 512),
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


class CifarVGGLayer(nn.Module):
    """A 3 × 3 convolution, batch norm and ReLU: `[B, in, H, W]` to `[B, out, H, W]`."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.normalization = nn.BatchNorm2d(out_channels)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return nn.functional.relu(self.normalization(self.convolution(hidden_states)))


class CifarVGGForImageClassification(PreTrainedModel):
    """Stages of convolutions, each with max pooling; then the mean over the remaining pixels, and a linear head."""

    config_class = CifarVGGConfig
    main_input_name = "pixel_values"
    _no_split_modules = ["CifarVGGLayer"]  # noqa: RUF012

    def __init__(self, config: CifarVGGConfig) -> None:
        super().__init__(config)
        self.stages = nn.ModuleList()
        channels = config.num_channels
        for depth, width in zip(config.depths, config.hidden_sizes, strict=True):
            layers = [CifarVGGLayer(channels, width), *(CifarVGGLayer(width, width) for _ in range(depth - 1))]
            self.stages.append(nn.Sequential(*layers))
            channels = width
        self.classifier = nn.Linear(channels, config.num_labels)
        self.post_init()

    def forward(
        self, pixel_values: Tensor, labels: Tensor | None = None, **_kwargs: Any
    ) -> ImageClassifierOutputWithNoAttention:
        """Logits `[B, num_labels]` of images `[B, C, H, W]`, and the cross-entropy where `[B]` labels are given."""
        hidden_states = pixel_values
        for stage in self.stages:
            hidden_states = nn.functional.max_pool2d(stage(hidden_states), 2)
        logits = self.classifier(hidden_states.mean((2, 3)))
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return ImageClassifierOutputWithNoAttention(loss=loss, logits=logits)

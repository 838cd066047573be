"""Image classifiers of the CIFAR literature that transformers does not contain, registered with its Auto classes.

Import this package before calling `from_pretrained` on one of them.
"""

from transformers import AutoConfig, AutoModelForImageClassification, PretrainedConfig, PreTrainedModel

from sglp_core.architectures.cifar_resnet import CifarResNetConfig, CifarResNetForImageClassification
from sglp_core.architectures.cifar_vgg import CifarVGGConfig, CifarVGGForImageClassification

IMAGE_CLASSIFIERS: dict[type[PretrainedConfig], type[PreTrainedModel]] = {
    CifarResNetConfig: CifarResNetForImageClassification,
    CifarVGGConfig: CifarVGGForImageClassification,
}

for _config, _model in IMAGE_CLASSIFIERS.items():
    AutoConfig.register(_config.model_type, _config)
    AutoModelForImageClassification.register(_config, _model)

__all__ = [
    "IMAGE_CLASSIFIERS",
    "CifarResNetConfig",
    "CifarResNetForImageClassification",
    "CifarVGGConfig",
    "CifarVGGForImageClassification",
]

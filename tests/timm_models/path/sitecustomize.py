"""Lets torchvision and timm be imported beside a torch that torchvision's wheel was not compiled for.

torchvision describes the shapes of its own operators when it is imported, and these come with its compiled part. They
are declared here without one: no model of these tests calls them. Python runs this file at its start where the folder
is on its path, so that the fresh processes of verification have them too.
"""

import torch

_LIBRARY = torch.library.Library("torchvision", "DEF")
for _name in ("nms", "qnms"):
    _LIBRARY.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

"""PoseNet in PyTorch, initialised from our parameters: what speed is compared with."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional


class Controller(nn.Module):
    """phi: 3x3 conv, BN, ReLU, 1x1 conv, BN, ReLU."""

    def __init__(self, inputs: int, features: int) -> None:
        """Takes the numbers of channels."""
        super().__init__()
        self.Conv_0 = nn.Conv2d(inputs, features, 3, padding=1)
        self.BatchNorm_0 = nn.BatchNorm2d(features)
        self.Conv_1 = nn.Conv2d(features, features, 1)
        self.BatchNorm_1 = nn.BatchNorm2d(features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns phi(x)."""
        x = torch.relu(self.BatchNorm_0(self.Conv_0(x)))
        return torch.relu(self.BatchNorm_1(self.Conv_1(x)))


class Block(nn.Module):
    """The block with one shared memory."""

    memory: torch.Tensor

    def __init__(self, features: int, side: int) -> None:
        """Takes the number of channels and the side of the feature map."""
        super().__init__()
        self.input = Controller(2 * features, features)
        self.memory_controller = Controller(2 * features, features)
        self.output = Controller(2 * features, features)
        self.register_buffer("memory", torch.zeros(features, side, side))

    def forward(self, x: torch.Tensor, r: float) -> torch.Tensor:
        """Returns x (+) C_O; writes the memory in training."""
        memory = self.memory.clone().expand_as(x)  # is written below
        low, high = x / r, x * r
        similar = torch.clamp(
            memory, torch.minimum(low, high), torch.maximum(low, high)
        )
        c_input = self.input(torch.cat([x, memory], 1))
        c_memory = self.memory_controller(torch.cat([x, similar], 1))
        new_memory = c_memory + c_input
        c_output = self.output(torch.cat([x, new_memory], 1))
        if self.training:
            with torch.no_grad():
                self.memory.copy_(new_memory.mean(0))
        return torch.cat([x, c_output], 1)


class Twin(nn.Module):
    """Table 1, plain, channels first as PyTorch writes it."""

    def __init__(
        self, num_joints: int, side: int, width: float, trunk_norm: bool
    ) -> None:
        """Takes what `PoseNet` takes, and the side of the image."""
        super().__init__()
        layers = {
            "conv1_1": (1, 32),
            "conv1_2": (32, 32),
            "conv2_1": (64, 64),
            "conv3_1": (128, 128),
            "conv3_2": (128, 128),
            "conv4_1": (256, 256),
            "conv4_2": (256, 256),
            "conv5": (384, 128),
            "conv6": (192, 64),
        }
        for name, (inputs, features) in layers.items():
            inputs = inputs if inputs == 1 else round(inputs * width)
            features = round(features * width)
            setattr(self, name, nn.Conv2d(inputs, features, 3, padding=1))
            norm = nn.BatchNorm2d(features) if trunk_norm else nn.Identity()
            setattr(self, f"{name}_norm", norm)
        self.conv7 = nn.Conv2d(round(64 * width), num_joints, 1)
        self.cmb1 = Block(round(32 * width), side // 2)
        self.cmb2 = Block(round(64 * width), side // 4)
        self.cmb3 = Block(round(128 * width), side // 8)

    def conv(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """Convolves, normalises and rectifies."""
        return torch.relu(getattr(self, f"{name}_norm")(getattr(self, name)(x)))

    def forward(self, depth: torch.Tensor, r: float) -> torch.Tensor:
        """Returns heat maps [batch, joints, side / 2, side / 2]."""
        x = self.conv("conv1_2", self.conv("conv1_1", depth))
        x = self.cmb1(functional.max_pool2d(x, 2), r)
        conv2_1 = self.conv("conv2_1", x)
        x = self.cmb2(functional.max_pool2d(conv2_1, 2), r)
        conv3_2 = self.conv("conv3_2", self.conv("conv3_1", x))
        x = self.cmb3(functional.max_pool2d(conv3_2, 2), r)
        x = self.conv("conv4_2", self.conv("conv4_1", x))
        x = torch.cat([functional.interpolate(x, scale_factor=2), conv3_2], 1)
        x = self.conv("conv5", x)
        x = torch.cat([functional.interpolate(x, scale_factor=2), conv2_1], 1)
        return self.conv7(self.conv("conv6", x))


def twin_of(variables: Mapping[str, Any], *, side: int, width: float) -> Twin:
    """Returns the twin that holds our parameters, statistics and memory."""
    params, statistics = variables["params"], variables["batch_stats"]
    num_joints = params["conv7"]["bias"].shape[0]
    twin = Twin(num_joints, side, width, "conv1_1_norm" in params)
    for name, module in twin.named_modules():
        path = name.replace("memory_controller", "memory").split(".")
        if isinstance(module, nn.Conv2d):
            layer = _at(params, path)
            _set(module.weight, np.transpose(layer["kernel"], (3, 2, 0, 1)))
            _set(module.bias, layer["bias"])
        elif isinstance(module, nn.BatchNorm2d):
            layer, running = _at(params, path), _at(statistics, path)
            _set(module.weight, layer["scale"])
            _set(module.bias, layer["bias"])
            _set(module.running_mean, running["mean"])
            _set(module.running_var, running["var"])
        elif isinstance(module, Block):
            value = variables["memory"][name]["value"]
            _set(module.memory, np.transpose(value, (2, 0, 1)))
    return twin


def _at(tree: Mapping[str, Any], path: list[str]) -> Mapping[str, Any]:
    for key in path:
        tree = tree[key]
    return tree


def _set(tensor: torch.Tensor | None, value: Any) -> None:
    assert tensor is not None
    with torch.no_grad():
        tensor.copy_(torch.tensor(np.array(value)))

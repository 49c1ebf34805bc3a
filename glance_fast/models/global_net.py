"""Global-Net: predicts z_l of a patch from the rest of the image, the patch masked out."""

from __future__ import annotations

from torch import Tensor, nn

from glance_fast.kernels.reference.max_pool import max_pool_reference
from glance_fast.kernels.reference.partial_conv import partial_conv_reference
from glance_fast.plan.layer import Layer, conv, pool


def global_layers(channels: tuple[int, ...], convs: int | tuple[int, ...]) -> list[Layer]:
    """Levels of `convs` partial convolutions each, or of as many as its entry says; 2x2 max pooling between levels."""
    counts = convs if isinstance(convs, tuple) else (convs,) * len(channels)
    layers: list[Layer] = []
    for width, count in zip(channels, counts, strict=True):
        if layers:
            layers.append(pool(layers[-1].channels))
        layers += [conv(width)] * count
    return layers


class GlobalNet(nn.Module):
    """Partial convolutions with ReLU and max pooling, then a linear read-out of `readout` x `readout` cells.

    The plan is compiled from `layers`. `forward` is the paper's definition, images with one mask;
    `glance_fast.dense.torch_pass` computes the same numbers for all holes at once.
    """

    def __init__(self, layers: list[Layer], features: int, readout: int = 1, channels_in: int = 3) -> None:
        super().__init__()
        self.layers = tuple(layers)
        self.convs = nn.ModuleList()
        before = channels_in
        for layer in layers:
            if layer.kind == "conv":
                module = nn.Conv2d(before, layer.channels, layer.kernel, padding=layer.pad)
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                self.convs.append(module)
            before = layer.channels
        self.readout = readout
        self.project = nn.Linear(readout**2 * before, features)

    def forward(self, images: Tensor, mask: Tensor) -> Tensor:
        """Last layer [B, C', h, w] of images or maps [B, C, H, W] with a mask [B or 1, 1, H, W], 0 in the hole."""
        x, convs = images, iter(self.convs)
        for layer in self.layers:
            if layer.kind == "conv":
                module = next(convs)
                assert isinstance(module, nn.Conv2d) and module.bias is not None
                x, mask = partial_conv_reference(x, mask, module.weight, module.bias)
            else:
                x, mask = max_pool_reference(x, mask, layer.kernel)
        return x

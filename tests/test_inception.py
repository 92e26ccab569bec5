"""FID's InceptionV3 with made-up weights, against the reference's outputs with the same."""

import functools
import json
import zlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxdiff.evaluation.extractors import inception

GOLDEN = Path(__file__).parent / "golden" / "features"
LAYERS = {"64": "after 64", "192": "after 192", "768": "after Mixed_6e", "logits": "logits"}
PREPARE = {"tf": inception.tf, "ptfid": inception.pytorch}
CASES = ["a32_tf", "a32_ptfid", "c400_tf", "c400_ptfid"]


@functools.cache
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN / "inception_v3_synthetic.npz") as file:
        return dict(file)


@functools.cache
def synthetic() -> dict[str, np.ndarray]:
    """Weights by the recipe of the golden README: a generator seeded by each name."""
    return {name: made(name, shape) for name, shape in inception.shapes().items()}


def made(name: str, shape: tuple[int, ...]) -> np.ndarray:
    draw = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    if name.endswith("running_var"):
        return draw.uniform(0.5, 1.5, shape).astype(np.float32)
    x = draw.standard_normal(shape)
    if name.endswith("bn.weight"):
        return (1 + 0.1 * x).astype(np.float32)
    if name.endswith(("running_mean", ".bias")):
        return (0.1 * x).astype(np.float32)
    return (x * np.sqrt(2 / np.prod(shape[1:]))).astype(np.float32)


@functools.cache
def outputs() -> dict[str, np.ndarray]:
    """What the network says of all cases, in one batch."""
    images = {"a32": golden()["x_a32"], "c400": golden()["x_c400"]}
    images["c400"] = images["c400"].repeat(16, 1).repeat(16, 2)
    x = [PREPARE[how](images[name]) for name, how in (case.split("_") for case in CASES)]
    network = functools.partial(inception.InceptionV3().apply, mutable="intermediates")
    variables = inception.variables(synthetic())
    (pooled, unbiased), aux = jax.jit(network)(variables, jnp.concatenate(x))
    means = {name: aux["intermediates"][at][0] for name, at in LAYERS.items()}
    return jax.device_get(means | {"2048": pooled, "logits_unbiased": unbiased})


@pytest.mark.parametrize("layer", ["64", "192", "768", "2048", "logits_unbiased", "logits"])
@pytest.mark.parametrize("case", CASES)
def test_network_is_the_references(case: str, layer: str) -> None:
    expected = golden()[f"{case}_{layer}"][0]
    seen = outputs()[layer][CASES.index(case)]
    # of the rms; float32 through 48 layers of both, in float64 ours is at 2e-6 of theirs
    rms = np.sqrt(np.mean(expected**2))
    np.testing.assert_allclose(seen, expected, rtol=0, atol=1e-5 * rms)


def test_names_and_shapes_are_the_published_files() -> None:
    published = json.loads((GOLDEN / "inception_v3_fid_keys.json").read_text())
    assert inception.shapes() == {name: tuple(shape) for name, shape in published.items()}


def test_clean_is_pillows_on_floats_and_clipped() -> None:
    x = np.zeros((1, 40, 330, 3), np.uint8)
    x[:, 10:30, 100:200] = 255
    sides, cubic = (299, 299), Image.Resampling.BICUBIC
    floats = x[0].astype(np.float32)
    done = [Image.fromarray(floats[..., c]).resize(sides, cubic) for c in range(3)]
    expected = np.stack(done, -1)
    assert expected.min() < -5
    assert expected.max() > 260
    # float32 rounding of values up to 270 / 128
    seen = inception.clean(x)[0]
    np.testing.assert_allclose(seen, (expected.clip(0, 255) - 128) / 128, rtol=0, atol=1e-6)


def test_other_networks_weights_are_refused() -> None:
    flat: dict[str, Any] = dict(synthetic())
    flat["fc.weight"] = flat["fc.weight"][:1000]
    del flat["Mixed_7c.branch_pool.conv.weight"]
    flat["AuxLogits.fc.weight"] = np.zeros((1000, 768))
    with pytest.raises(ValueError, match="InceptionV3") as error:
        inception.variables(flat)
    text = str(error.value)
    assert "\n" not in text
    for part in ("Mixed_7c.branch_pool", "AuxLogits", "(1000, 2048)", "(1008, 2048)"):
        assert part in text

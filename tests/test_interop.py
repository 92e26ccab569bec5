"""Published EDM2 networks: pickles of golden states come back as the same networks."""

import dataclasses
import functools
import json
import pickle
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.denoisers import denoiser
from jaxdiff.denoisers.parameterizations import EDM
from jaxdiff.interop import edm2_snapshot, edm2_weights, pickles, torch_legacy
from jaxdiff.types import Condition, NoiseLevel
from tests import import_writer as writer

FOLDER = Path(__file__).parent / "golden" / "edm2"
NETS = ("net_a_uncond", "net_b_cond10", "net_c_micro", "net_d_options")


@functools.cache
def golden(name: str) -> tuple[Any, dict[str, np.ndarray], dict[str, Any]]:
    """The arrays of a file, its state dict and its configuration."""
    z = np.load(FOLDER / f"{name}.npz")
    sd = {k.removeprefix("sd/"): z[k] for k in z.files if k.startswith("sd/")}
    return z, sd, json.loads(str(z["config"]))


@pytest.fixture
def read(tmp_path: Path) -> Any:
    """Writes bytes to a file of a published name, and reads it."""

    def read(data: bytes, name: str = "network-snapshot-0008388-0.100.pkl") -> Any:
        (tmp_path / name).write_bytes(data)
        return edm2_snapshot.read(tmp_path / name)

    return read


@pytest.mark.parametrize("name", NETS)
def test_a_pickle_gives_back_its_state_exactly(name: str, read: Any) -> None:
    _, sd, config = golden(name)
    model = read(writer.snapshot(sd, config, "StabilityVAEEncoder"))
    assert list(model.state_dict) == list(sd)
    for key, value in sd.items():
        assert model.state_dict[key].dtype == value.dtype == np.float16
        np.testing.assert_array_equal(model.state_dict[key], value)
    assert model.encoder == "StabilityVAEEncoder"
    assert model.loss == {"P_mean": -0.4, "P_std": 1.0, "sigma_data": 0.5}
    assert model.sigma_data == config.get("sigma_data", 0.5)
    side = config["img_resolution"]
    assert model.shape == (side, side, config["img_channels"])
    if name in ("net_a_uncond", "net_b_cond10"):
        return
    exported = edm2_weights.to_state_dict(edm2_weights.variables(model))
    assert sorted(exported) == sorted(sd)
    for key, value in sd.items():
        assert exported[key].dtype == np.float32
        np.testing.assert_array_equal(exported[key], value)


def test_a_pickle_denoises_as_the_reference_did(read: Any) -> None:
    z, sd, config = golden("net_d_options")  # no setting of it is the default
    model = read(writer.snapshot(sd, config))
    variables = jax.tree.map(jnp.asarray, edm2_weights.variables(model))
    denoise = denoiser(edm2_weights.network(model).apply, variables, EDM(model.sigma_data))
    label = jnp.asarray(z["labels"]) if config["label_dim"] else None
    sigma = jnp.asarray(z["sigma"]).reshape(-1, 1, 1, 1)
    x = jnp.asarray(z["x"].transpose(0, 2, 3, 1))
    denoised = jax.jit(denoise)(
        x, NoiseLevel(jnp.ones_like(sigma), sigma), Condition(label)
    )
    # float32 sums in another order than the reference's: 2e-6 of the largest entry
    for value, key in (
        (denoised.x0.transpose(0, 3, 1, 2), "D_x"),
        (denoised.uncertainty, "logvar"),
    ):
        expected = z[f"eval/{key}"].reshape(value.shape)
        atol = 2e-6 * np.abs(expected).max()
        np.testing.assert_allclose(value, expected, rtol=0, atol=atol)


@pytest.mark.parametrize(
    ("name", "images", "std"),
    [
        ("network-snapshot-0008388-0.100.pkl", 8 * 2**20, 0.1),
        ("edm2-img512-s-2147483-0.130.pkl", 2048 * 2**20, 0.13),
        ("edm2-img512-xs-uncond-2147483-0.045.pkl", 2048 * 2**20, 0.045),
        ("edm2-img64-xl-0671088-0.040.pkl", 640 * 2**20, 0.04),
        ("phema-0939524-0.070.pkl", 896 * 2**20, 0.07),
        ("mine.pkl", None, None),
    ],
)
def test_a_name_says_images_and_ema_length(name: str, images: Any, std: Any) -> None:
    assert edm2_snapshot.from_name(name) == (images, std)


def test_the_name_reaches_the_model(read: Any) -> None:
    _, sd, config = golden("net_c_micro")
    model = read(writer.snapshot(sd, config), "edm2-img64-s-1073741-0.075.pkl")
    assert (model.images, model.std) == (1024 * 2**20, 0.075)


def test_numpy_arrays_of_an_encoder_are_passed_over(read: Any) -> None:
    _, sd, config = golden("net_c_micro")
    state = {"scale": np.ones(4, np.float32), "std": np.float32(0.5), "_vae": None}
    encoder = writer.persistent("StabilityVAEEncoder", state)
    model = read(writer.snapshot(sd, config, encoder=encoder))
    assert model.encoder == "StabilityVAEEncoder"


def test_a_default_setting_may_be_left_out_and_none_is_nothing(read: Any) -> None:
    _, sd, config = golden("net_c_micro")
    changed = {"channel_mult_emb": None, "clip_act": None, "resample_filter": [1, 1]}
    net = edm2_weights.network(read(writer.snapshot(sd, {**config, **changed})))
    assert (net.channel_mult_emb, net.clip_act) == (0, 0.0)
    assert net.resample_filter == (1.0, 1.0)
    assert net.concat_balance == 0.5


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        (
            {"model_channels": 16},
            r"emb_fourier.freqs has shape \(8,\) in the file, and \(16,\)",
        ),
        ({"attn_resolutions": []}, "attn_proj.* in the file, and none in the network"),
        ({"num_blocks": 2}, "have 11 layers in the file, and 15 in a network"),
        (
            {"channel_mult": [1]},
            "have 11 layers in the file, and 6 in a network",
        ),
        (
            {"num_blocks": 64, "channel_mult": [1] * 14, "img_resolution": 32768},
            "have 11 layers in the file, and 1835 in a network",
        ),
        ({"num_blocks": 10**9}, "UNet cannot take the setting num_blocks = 1000000000"),
        ({"channel_mult": 2}, "UNet cannot take the setting channel_mult = 2"),
        (
            {"resample_filter": []},
            "UNet cannot take the setting resample_filter = ",
        ),
        ({"dropout": "0.1"}, "UNet cannot take the setting dropout = '0.1'"),
        ({"dtype": "float16"}, "a setting 'dtype'"),
        ({"img_resolution": "8"}, "img_resolution must be a whole number"),
        ({"sigma_data": None}, "sigma_data must be a number"),
    ],
)
def test_settings_that_do_not_fit(settings: Any, complaint: str, read: Any) -> None:
    _, sd, config = golden("net_c_micro")
    with pytest.raises(ValueError, match=complaint):
        edm2_weights.variables(read(writer.snapshot(sd, {**config, **settings})))


def test_work_is_bounded_before_any_is_done(read: Any, monkeypatch: Any) -> None:
    """Neither names without tensors nor a large image make the importer trace or fill."""
    _, sd, config = golden("net_c_micro")
    more = {f"unet.enc.{i}.weight": np.zeros(0) for i in range(1835 - 11)}
    many = {"num_blocks": 64, "channel_mult": [1] * 14, "img_resolution": 32768}
    model = read(writer.snapshot(sd, {**config, **many}))
    with monkeypatch.context() as patch:
        patch.setattr(jax, "eval_shape", None)
        with pytest.raises(ValueError, match=r"have 1835 layers .* and 1835 .* most 200"):
            edm2_weights.variables(dataclasses.replace(model, state_dict={**sd, **more}))
    zeros = jnp.zeros

    def small(shape: Any, *rest: Any) -> Any:
        assert np.prod(shape) < 2**20
        return zeros(shape, *rest)

    monkeypatch.setattr(jnp, "zeros", small)
    with pytest.raises(ValueError, match="shape none in the file"):
        edm2_weights.variables(
            read(writer.snapshot(sd, {**config, "img_resolution": 2**15}))
        )


def test_a_tensor_that_is_missing_or_no_float_is_named(read: Any) -> None:
    _, sd, config = golden("net_c_micro")
    less = {k: v for k, v in sd.items() if k != "unet.emb_noise.weight"}
    with pytest.raises(ValueError, match=r"emb_noise\.weight has shape none in the file"):
        edm2_weights.variables(read(writer.snapshot(less, config)))
    bytes_ = writer.Calling("torch.storage._load_from_bytes",
        writer.torch_file(np.zeros(4, np.uint8), "torch.ByteStorage"))  # fmt: skip
    state = {"_parameters": {"out_gain": bytes_}, "_modules": {}}
    unet = writer.persistent("UNet", state)
    ema = writer.persistent("Precond", {"_modules": {"unet": unet}, **config})
    with pytest.raises(ValueError, match=r"unet.out_gain is not a tensor of float16"):
        read(writer.snapshot(sd, config, ema=ema))


# ------------------------------------------------------------- torch's storages


def test_a_file_that_torch_wrote_is_read_exactly() -> None:
    loaded = torch_legacy.load(memoryview((FOLDER / "torch_legacy.pth").read_bytes()))
    expected = np.load(FOLDER / "torch_legacy.npz")
    assert set(loaded) == set(expected.files)
    dtypes = {k: v.dtype.name for k, v in loaded.items()}
    assert dtypes["bf16"] == "bfloat16"
    for name, value in loaded.items():
        if name != "bf16":
            assert value.dtype == expected[name].dtype
        np.testing.assert_array_equal(value.astype(expected[name].dtype), expected[name])


@pytest.mark.parametrize("layout", ["tuple", "none", "persistent", "view"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_every_layout_of_a_storage(layout: str, dtype: str) -> None:
    values = np.arange(1, 8).astype(dtype) / 8
    loaded = torch_legacy.load(memoryview(writer.torch_file(values, layout=layout)))
    assert loaded.dtype == dtype
    np.testing.assert_array_equal(loaded, values[1:] if layout == "view" else values)


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("torch.storage.TypedStorage", "float16"),
        ("torch.storage.TypedStorage", "float32"),
        ("torch.storage.UntypedStorage", "uint8"),
        ("torch.LongStorage", "int64"),
        ("torch.BoolStorage", "bool"),
    ],
)
def test_storages_without_a_float_type_in_their_name(kind: str, dtype: str) -> None:
    values = np.array([0, 1, 1, 0, 1]).astype(dtype)
    loaded = torch_legacy.load(memoryview(writer.torch_file(values, kind)))
    assert loaded.dtype == dtype
    np.testing.assert_array_equal(loaded, values)


def test_an_empty_storage() -> None:
    data = writer.torch_file(np.zeros(0, np.float16))
    assert torch_legacy.load(memoryview(data)).shape == (0,)


def test_a_tensor_is_what_its_strides_say() -> None:
    flat = np.arange(24)
    grid = flat.reshape(2, 3, 4)
    for view in (grid, grid.T, grid[:, 1:, ::2], grid[1, 2, 3, ...], grid[:0]):
        offset = (view.ctypes.data - flat.ctypes.data) // 8 if view.size else 0
        strides = tuple(step // 8 for step in view.strides)
        tensor = torch_legacy.tensor(flat, offset, view.shape, strides)
        np.testing.assert_array_equal(tensor, view)
        assert tensor.shape == view.shape


@pytest.mark.parametrize(
    ("offset", "size", "strides"),
    [
        (1, (24,), (1,)),
        (0, (2, 3), (12, 6)),
        (24, (), ()),
        (-1, (2,), (1,)),
        (5, (2,), (-1,)),
        (0, (25,), (0,)),
        (0, (2**39, 2**39), (0, 0)),
        (0, (2**70,), (1,)),
        (0, (2,), (1, 1)),
        (0, (2.0,), (1,)),
        (0, [2], [1]),
        (0, (1,) * 17, (0,) * 17),
    ],
)
def test_a_tensor_beyond_its_storage(offset: Any, size: Any, strides: Any) -> None:
    with pytest.raises(ValueError, match="a tensor"):
        torch_legacy.tensor(np.arange(24), offset, size, strides)
    assert torch_legacy.tensor(np.arange(24), 1, (23,), (1,)).size == 23
    assert torch_legacy.tensor(np.arange(24), 0, (2, 3), (12, 5))[1, 2] == 22


@pytest.mark.parametrize(
    ("parts", "complaint"),
    [
        ({0: 1234}, "not a torch file of the legacy layout"),
        ({1: 1002}, "not a torch file of the legacy layout"),
        ({2: {"little_endian": False}}, "not written by a little-endian machine"),
        ({3: ("storage", 1, "94", "cpu", 4)}, "entry is not"),
        ({3: "storage"}, "keys are not those|one storage"),
        ({4: ["other"]}, "keys are not those of its storages"),
        ({4: [["94"]]}, "keys are not those of its storages"),
    ],
)
def test_torch_files_that_are_something_else(parts: Any, complaint: str) -> None:
    kind = writer.standing_in("torch.HalfStorage")
    good = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True},
            ("storage", kind, "94", "cpu", 4), ["94"])  # fmt: skip
    tail = (4).to_bytes(8, "little") + bytes(8)

    def load(parts: dict[int, Any]) -> Any:
        pickles = (writer.dumps(parts.get(i, good[i]), 2) for i in range(5))
        return torch_legacy.load(memoryview(b"".join(pickles) + tail))

    assert load({}).tolist() == [0, 0, 0, 0]
    with pytest.raises(ValueError, match=complaint):
        load(parts)


@pytest.mark.parametrize("view", [("94", 4, 1), ("94", -1, 2), ("94", 0, -1), ("94", 0), 7])
def test_a_view_beyond_its_storage(view: Any) -> None:
    entry = ("storage", None, "94", "cpu", 4, view)
    with pytest.raises(ValueError, match="view"):
        torch_legacy._resolve(entry, {"94": np.arange(4)})
    assert torch_legacy._resolve((*entry[:5], ("94", 3, 1)), {"94": np.arange(4)}) == [3]


def test_plain_values_come_back_as_pickle_wrote_them() -> None:
    values = [None, True, False, 0, -1, 255, 65535, 2**31 - 1, -(2**31), 2**80, -0.5]
    values += ["", "ü" * 300, "x" * 70_000, (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)]
    values += [[], [1, [2]], {}, {"a": {"b": 1}}, {"s"}, set()]
    for protocol in (2, 3, 4, 5):
        plain = [v for v in values if protocol > 3 or type(v) is not set]
        data = memoryview(pickle.dumps(plain, protocol))
        assert pickles.load(data, {}) == (plain, len(data))
    data = memoryview(pickle.dumps([b"1", b"2" * 300]))
    assert [bytes(v) for v in pickles.load(data, {})[0]] == [b"1", b"2" * 300]

"""Published models, from their files to runs: what each becomes, and what is refused."""

import dataclasses
import functools
import json
import re
import tracemalloc
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.config import published as families
from jaxdiff.data import VAELatents
from jaxdiff.interop import adm, dit, published
from jaxdiff.interop.published import Choices
from jaxdiff.interop.weights import Weights
from jaxdiff.networks.dit import SIZES, DiT
from jaxdiff.runs import published as importing
from jaxdiff.runs import restoring, snapshots
from jaxdiff.schedules.posterior import LearnedVariance
from jaxdiff.types import Condition, NoiseLevel
from tests.model_goldens import FILES, close, golden, keys, vae_folder
from tests.test_adm_published import settings

PLAIN = Choices(side=8, heads=2, attention="heads-first", schedule="linear-1000")
HELD = {
    "dit_a.pt": ("dit_a", Choices(heads=4)),
    "sit_a_training.pt": ("sit_a", Choices(heads=2)),
    "adm_plain.pt": ("adm_plain", PLAIN),
    "adm_plain_half.pt": ("adm_plain", PLAIN),
}
"""The files as users have them, whose networks they are, and what no file says."""


def imported(file: str, out: Path) -> restoring.Restored:
    """A file brought in by what the command calls, and restored."""
    importing.load(FILES / file, out, choices=HELD[file][1]).write()
    return restoring.restore(out)


@pytest.mark.parametrize("file", HELD)
def test_a_file_becomes_a_run_with_the_network_s_outputs(file: str, tmp_path: Path) -> None:
    """Eps and the velocity are read back from D at the levels of the golden times."""
    run, (name, _) = imported(file, tmp_path), HELD[file]
    g = golden(name)
    x, t = jnp.asarray(g.nhwc("x")), jnp.asarray(g.z["t"], jnp.float32)[:, None, None, None]
    cond = Condition(g.labels()) if "y" in g else Condition()
    expected = g.nhwc("out_f64")[..., : x.shape[-1]]
    if name == "sit_a":  # x = t x0 + (1 - t) eps, the velocity is x0 - eps
        ahead = np.asarray(g.z["t"]) < 1  # at the data D says nothing about the velocity
        at = NoiseLevel(t, jnp.where(t < 1, 1 - t, 1))
        output = (run.denoise(x, at, cond).x0 - x) / at.sigma
        output, expected = output[ahead], expected[ahead]
        assert ahead.sum() >= 2
    else:
        alpha_bar = np.cumprod(1 - run.experiment.schedule.betas())
        there = alpha_bar[np.asarray(t, int)]
        at = NoiseLevel(*(jnp.asarray(np.sqrt(a), jnp.float32) for a in (there, 1 - there)))
        output = (x - at.alpha * run.denoise(x, at, cond).x0) / at.sigma
    # rounding of the time label, and of eps where there is little of it
    close(output, expected, 5e-3 if "half" in file else 1e-3)


@pytest.mark.parametrize(
    ("types", "dtype"),
    [
        (["float16", "float16"], "float16"),
        (["float16", "float32"], "float32"),
        (["bfloat16"], "bfloat16"),
        (["float64"], "float32"),
    ],
)
def test_no_digit_of_a_file_is_lost(types: list[str], dtype: str) -> None:
    tensors = {str(i): np.zeros(1, jnp.dtype(t)) for i, t in enumerate(types)}
    assert published._dtype(tensors) == dtype


def test_what_is_written_beside_the_weights(tmp_path: Path) -> None:
    made = importing.load(FILES / "sit_a_training.pt", tmp_path, choices=Choices(heads=2))
    made.write()
    licence = (tmp_path / "LICENCE.txt").read_text()
    assert licence == "The weights in this folder: MIT (SiT)\n"
    assert made.lines[0] == "the weights are the entry 'ema'"
    assert "licence of the published weights: MIT (SiT)" in made.lines
    assert json.loads((tmp_path / "config.json").read_text())["batch_size"] == 256
    e = restoring.restore(tmp_path).experiment
    assert e.parameterization == families.FLOW
    assert e.network.label_dim == 7
    assert e.label_dropout == 0.1


def test_a_vae_is_named_for_latents_alone(tmp_path: Path) -> None:
    vae = str(vae_folder(tmp_path / "vae"))
    load = functools.partial(importing.load, FILES / "dit_a.pt", tmp_path / "out")
    run = load(choices=Choices(heads=4), vae=vae).snapshot.experiment
    assert run.data.encoder == VAELatents.ldm()
    assert (run.data.encoder.vae, run.data.encoder.vae_low) == (vae, -1)
    for wrong, complaint in (("nowhere", "there is no VAE at 'nowhere': name the folder"),
                             (FILES / "dit_a.pt", "there is no .*config.json"),
                             (tmp_path, "there is no .*config.json")):  # fmt: skip
        with pytest.raises(FileNotFoundError, match=complaint):
            load(choices=Choices(heads=4), vae=str(wrong))
    with pytest.raises(ValueError, match="draws pixels, no latents"):
        importing.load(FILES / "adm_plain.pt", tmp_path, choices=PLAIN, vae="my/vae")


def test_the_folder_of_a_run_is_not_written_to(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(ValueError, match="holds a run that was trained here"):
        importing.load(FILES / "dit_a.pt", tmp_path, choices=Choices(heads=4))


def test_a_folder_has_snapshots_of_one_model(tmp_path: Path) -> None:
    """Whoever samples the folder would otherwise get the one that has seen more images."""
    made = importing.load(FILES / "dit_a.pt", tmp_path, choices=Choices(heads=4))
    longer = dataclasses.replace(made.snapshot, step=5)
    older = snapshots.write(tmp_path / "snapshots", longer)
    importing.load(FILES / "dit_a.pt", tmp_path, choices=Choices(heads=4)).write()
    with pytest.raises(ValueError, match=r"0000005-0.9999.npz .* is of another model"):
        importing.load(FILES / "sit_a_training.pt", tmp_path, choices=Choices(heads=2))
    older.write_bytes(b"")
    with pytest.raises(ValueError, match=r"0000005-0.9999.npz is damaged"):
        importing.load(FILES / "dit_a.pt", tmp_path, choices=Choices(heads=4))


# ------------------------------------------------------------------ recognition


def zeros(name: str) -> dict[str, np.ndarray]:
    """A published network's tensors, of no memory."""
    zero = np.zeros((), np.float32)
    return {n: np.broadcast_to(zero, shape) for n, shape in keys()[name].items()}


def touched(half: slice, name: str = "dit_xl_2_256") -> dict[str, np.ndarray]:
    """The same with ones in some output channels of the last layer, of 8."""
    tensors = zeros(name)
    last = np.zeros(tensors["final_layer.linear.weight"].shape, np.float32)
    last.reshape(4, 8, -1)[:, half] = 1
    return tensors | {"final_layer.linear.weight": last}


BOTH, FIRST, NONE = slice(8), slice(4), slice(0)


@pytest.mark.parametrize(
    ("half", "args", "file", "kind", "why"),
    [
        (BOTH, {}, "a.pt", "dit", "its last layer uses all its channels"),
        (FIRST, {}, "a.pt", "sit", "its last layer leaves the second half"),
        (NONE, {}, "SiT-XL-2.pt", "sit", "its name says"),
        (BOTH, {"model": "SiT-XL/2"}, "a.pt", "sit", "its settings say"),
        (FIRST, {"model": "DiT-XL/2"}, "sit.pt", "dit", "its settings say"),
        (NONE, {}, "transit-editor.pt", "", "nothing in the file says which"),
        (NONE, {}, "dit-or-sit.pt", "", "nothing in the file says which"),
        (BOTH, {}, "SiT-XL-2.pt", "", "its name and last layer differ"),
    ],
)
def test_what_tells_dit_and_sit_apart(
    half: slice, args: Any, file: str, kind: str, why: str
) -> None:
    held = Weights(touched(half), args=args)
    if kind:
        assert published._kind(held, file, "", False)[0] == kind
        assert why in published._kind(held, file, "", False)[1]
        return
    with pytest.raises(ValueError, match=f"{why}: say --as=dit or --as=sit"):
        published._kind(held, file, "", False)


def test_a_file_of_dit_is_not_taken_for_sit_s() -> None:
    path = FILES / "dit_a.pt"
    with pytest.raises(ValueError, match="import it --as=dit, or add --sure") as caught:
        published.read(path, "sit", Choices(heads=4))
    assert str(caught.value).count("\n") == 0
    model = published.read(path, "sit", Choices(heads=4, sure=True))
    assert model.family == "sit"
    with pytest.raises(ValueError, match="as its settings say: import it --as=sit"):
        published.read(FILES / "sit_a_training.pt", "dit", Choices(heads=2))


def test_sizes_by_their_names() -> None:
    for name, expected in (("dit_xl_2_512", "dit-xl2-512"), ("dit_s_2_256", "dit-s2-256")):
        size, side = name.split("_")[1].upper(), int(name[-3:]) // 8
        net = DiT(label_dim=3, **SIZES[size])
        assert published._named_transformer(net, (side, side, 4), "dit") == expected
        assert (
            published._named_transformer(net.clone(heads=2), (side, side, 4), "dit") == ""
        )
    assert {n.partition("-")[0] for n in published.TRANSFORMERS} == {"dit", "sit"}


@pytest.mark.parametrize(
    ("name", "choices", "complaint"),
    [
        ("dit-xl3-256", Choices(), "'dit-xl3-256' is not a published model: use one of"),
        ("dit-xl2-256", Choices(heads=4), "no dit-xl2-256, which has width 1152, depth 28"),
        ("", Choices(heads=4, schedule="linear-1000"), "says nothing of a file of dit"),
        ("adm-64", Choices(), "its file has a tensor input_blocks"),
        ("edm2", Choices(), "a zip, as torch.save writes, and no published pickle"),
    ],
)
def test_names_and_choices_that_do_not_fit(
    name: str, choices: Choices, complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint) as caught:
        published.read(FILES / "dit_a.pt", name, choices)
    assert len(str(caught.value).splitlines()) == 1


NEW = Choices(16, 0, 16, "qkv-first", "cosine-1000")
OLD = Choices(16, 4, 0, "heads-first", "cosine-4000")


@pytest.mark.parametrize(
    ("name", "family", "choices"), [("adm_guided", "adm", NEW), ("adm_iddpm", "iddpm", OLD)]
)
def test_networks_of_adm_and_improved_ddpm(
    name: str, family: str, choices: Choices, tmp_path: Path
) -> None:
    """The arrays whose outputs `test_adm_published` checks, and how they are told of t."""
    g = golden(name)
    path = saved(g.tensors, tmp_path / "a.safetensors")
    made = importing.load(path, tmp_path / "out", family, choices).snapshot
    net, _, expected = adm.imported(g.tensors, settings(g.config))
    jax.tree.map(np.testing.assert_array_equal, made.variables, expected)
    e = made.experiment
    assert e.network == net.clone(channels_per_head=e.network.channels_per_head)
    assert e.network.heads == net.heads
    assert e.schedule == families.table(choices.schedule)
    assert e.parameterization.label.scale == 1000
    assert e.parameterization.label.offset == (-1 if family == "adm" else -0.25)
    assert (e.label_dropout, e.sampling.guidance, e.sampling.clip) == (0, 0, True)
    assert e.sampling.solver == jd.Ancestral(LearnedVariance())


def test_what_no_file_of_adm_says_is_asked_for_in_one_line() -> None:
    with pytest.raises(ValueError, match="no file says") as caught:
        published.read(FILES / "adm_plain.pt")
    for choice in ("--side", "--heads", "heads-first or qkv-first", "cosine-4000"):
        assert choice in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(ValueError, match="no adm-64, which has model_channels 192, here"):
        published.read(FILES / "adm_plain.pt", "adm-64")
    with pytest.raises(ValueError, match="attention is one of heads-first, qkv-first"):
        Choices(attention="new")


def test_super_resolution_is_refused() -> None:
    first = "input_blocks.0.0.weight"
    tensors = {n: np.broadcast_to(np.float32(0), s)
               for n, s in keys()["adm_imagenet64_cond"].items()}  # fmt: skip
    out, _, h, w = tensors[first].shape
    with pytest.raises(ValueError, match="super-resolution network of ADM"):
        adm.recognised(tensors | {first: np.zeros((out, 6, h, w), np.float32)})


def test_a_vae_is_no_model_of_diffusion() -> None:
    with pytest.raises(ValueError, match="an autoencoder of latents"):
        published.read(FILES / "vae_a_old_names.bin")
    with pytest.raises(ValueError, match="is a folder: give the file"):
        published.read(FILES)


def test_a_sit_of_another_path_is_refused() -> None:
    with pytest.raises(ValueError, match="path_type = GVP; only SiTs of the linear path"):
        published._require_linear({"path_type": "GVP"})
    published._require_linear({"path_type": "Linear", "prediction": "velocity"})


# --------------------------------------------------------- files that are not right


def saved(tensors: dict[str, np.ndarray], path: Path) -> Path:
    from safetensors.numpy import save_file

    save_file({name: np.ascontiguousarray(a) for name, a in tensors.items()}, path)
    return path


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"blocks.1.attn.qkv.bias": None}, "1 missing (blocks.1.attn.qkv.bias)"),
        ({"blocks.1.mine": np.zeros(3, np.float32)}, "1 left over (blocks.1.mine)"),
        (
            {"t_embedder.mlp.0.bias": np.zeros(7, np.float32)},
            "1 of another shape (t_embedder.mlp.0.bias is (7,), must be (48,))",
        ),
        ({"t_embedder.mlp.0.bias": np.zeros(48, np.float64)}, ""),
        (
            {"x_embedder.proj.weight": None},
            "no published model that is known here: its tensors begin with blocks.0",
        ),
    ],
)
def test_tensors_that_are_not_the_network_s(
    change: Any, complaint: str, tmp_path: Path
) -> None:
    tensors = {k: v for k, v in (golden("dit_a").tensors | change).items() if v is not None}
    path = saved(tensors, tmp_path / "a.safetensors")
    if not complaint:
        assert published.read(path, choices=Choices(heads=4)).family == "dit"
        return
    with pytest.raises(ValueError, match=re.escape(complaint)) as caught:
        published.read(path, choices=Choices(heads=4))
    assert str(caught.value).startswith(f"{path}: ")
    assert len(str(caught.value).splitlines()) == 1


def test_nothing_is_written_of_a_network_with_a_nan(tmp_path: Path) -> None:
    bad = {"final_layer.linear.bias": np.full(32, np.nan, np.float32)}
    path = saved(golden("dit_a").tensors | bad, tmp_path / "a.safetensors")
    made = importing.load(path, tmp_path / "out", choices=Choices(heads=4))
    with pytest.raises(ValueError, match="bias of the DiT has nan"):
        made.write()
    assert [p for p in (tmp_path / "out").rglob("*") if p.is_file()] == []


def test_one_tensor_is_in_memory_beside_the_file(tmp_path: Path) -> None:
    net = DiT(label_dim=3, width=256, depth=6, heads=16, learned_variance=True)
    tensors = {
        source.name: np.full(source.shape, 0.1, np.float32)
        for source in dit.sources(net, (16, 16, 4), "dit", 8).values()
    }
    path = saved(tensors, tmp_path / "a.safetensors")
    size, largest = path.stat().st_size, max(a.nbytes for a in tensors.values())
    tracemalloc.start()
    try:
        importing.load(path, tmp_path, choices=Choices(heads=16)).write()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 6 * largest < size / 2

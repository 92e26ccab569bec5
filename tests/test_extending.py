"""docs/extending.md: each block is a file of a user's own, and does what the page says."""

from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.config import NAMES, from_dict, resolve, to_dict
from jaxdiff.evaluation import metrics
from jaxdiff.runs.state import init_state
from jaxdiff.runtime import sharding
from jaxdiff.train import make_step
from tests.extending import blocks, forgetting, read, whole


@pytest.fixture(autouse=True)
def _forgetting() -> Iterator[None]:
    with forgetting():
        yield


def test_a_network_of_one_s_own(tmp_path: Path) -> None:
    net = read(tmp_path / "mine.py", blocks()["A network"]).SmallNet(label_dim=3)
    assert NAMES[type(net)] == "networks.SmallNet"
    x, key = jax.random.normal(jax.random.key(1), (2, 8, 8, 1)), jax.random.key(0)
    variables = jd.networks.initial(net, (8, 8, 1), key)
    draw = lambda *label: (
        net.apply(variables, x, jnp.zeros(()), jd.Condition(label=jnp.array(label))).raw
    )
    assert draw(0, 1).shape == x.shape
    assert np.abs(draw(0, 1) - draw(2, 1))[0].max() > 1e-3
    np.testing.assert_array_equal(draw(0, 1)[1], draw(2, 1)[1])
    unlabelled = net.apply(variables, x, jnp.zeros(()), jd.Condition()).raw
    np.testing.assert_allclose(draw(-1, -1), unlabelled, rtol=1e-6)


def test_a_data_source_of_one_s_own(tmp_path: Path) -> None:
    source = read(tmp_path / "mine.py", blocks()["A data source"]).Stripes(count=50)
    data = source.load()
    assert (len(data), data.shape, source.encoder) == (50, source.shape, None)
    image, label = data.take(np.arange(50)).values()
    assert {*label} == {0, 1}
    for k, axis in ((0, 2), (1, 1)):  # constant along one direction, striped in the other
        assert not np.diff(image[label == k].astype(int), axis=axis).any()
    assert jd.data.split_of(source) == source


def test_a_schedule_of_one_s_own(tmp_path: Path) -> None:
    path = read(tmp_path / "mine.py", blocks()["A schedule"]).SlowCosine(power=1.5)
    t = jnp.linspace(0.05, 0.95, 19)
    at = path(t)
    np.testing.assert_allclose(at.alpha**2 + at.sigma**2, 1, rtol=1e-6)
    np.testing.assert_allclose(path.time(at.logsnr), t, rtol=1e-4)
    assert abs(float(path(1.0).alpha)) < 1e-7


def test_a_solver_of_one_s_own(tmp_path: Path) -> None:
    solver = read(tmp_path / "mine.py", blocks()["A solver"]).Renoise()
    # Of data that are N(0, 1), D = alpha x / (alpha^2 + sigma^2): samples are nearly so.
    denoise = lambda x, at, cond: jd.Denoised(at.alpha * x / (at.alpha**2 + at.sigma**2))
    levels = jd.grids.Uniform()(jd.Cosine(), 8)
    keys = jax.random.split(jax.random.key(0), 4000)
    x0 = jd.sample(denoise, jd.Condition(), keys, (1,), levels, solver)
    # Var(x0): of each step's state alpha D + sigma eps, by hand, and D at the last
    variance, alpha, sigma = 1.0, np.asarray(levels.alpha), np.asarray(levels.sigma)
    for n in range(8):
        d = (alpha[n] / (alpha[n] ** 2 + sigma[n] ** 2)) ** 2 * variance
        variance = alpha[n + 1] ** 2 * d + sigma[n + 1] ** 2
    assert float(x0.var()) == pytest.approx(variance, rel=0.1)


def test_a_weighting_of_one_s_own(tmp_path: Path) -> None:
    weigh = read(tmp_path / "mine.py", blocks()["A weighting"]).PowerOfSNR(power=0.5)
    assert float(weigh(jd.NoiseLevel(0.6, 0.2))) == pytest.approx(3.0)
    assert NAMES[type(weigh)] == "weightings.PowerOfSNR"


def test_a_guidance_rule_of_one_s_own(tmp_path: Path) -> None:
    rule = read(tmp_path / "mine.py", blocks()["A guidance rule"]).Softened(limit=0.5)
    x0, weak, level = (
        jnp.array([[0.5, 0.5]]),
        jnp.array([[0.499, -9.0]]),
        jd.NoiseLevel(1, 1),
    )
    guided, memory = rule(x0, level, x0, [(weak, 2.0)], rule.init(x0, 1))
    assert memory == ()
    np.testing.assert_allclose(guided[0], [0.502, 1.0], rtol=1e-4)


def test_a_metric_and_an_extractor_of_one_s_own(tmp_path: Path) -> None:
    read(tmp_path / "mine.py", blocks()["A metric, and an extractor"])
    rng, mesh = np.random.default_rng(0), sharding.data_mesh(jax.devices()[:1])
    sees = [jd.evaluation.extractors.extractor.extractor("edges")]
    sets = [rng.integers(0, high, (12, 8, 8, 1)).astype(np.uint8) for high in (255, 100)]
    look = lambda images: jd.evaluation.observe(
        jd.evaluation.in_memory(images), sees, mesh, batch=12
    )
    observed = [look(images) for images in sets]
    values = jd.evaluation.score(real=observed[0], fake=observed[1])
    steps = [
        [np.abs(np.diff(s / 127.5, axis=axis)).mean() for axis in (1, 2)] for s in sets
    ]
    assert values["meangap_edges"] == pytest.approx(
        np.hypot(*np.subtract(*steps)), rel=1e-4
    )
    assert metrics.BETTER["meangap"] == -1
    with pytest.raises(ValueError, match="there is a metric fd already"):
        jd.evaluation.register_metric("fd")(len)
    with pytest.raises(ValueError, match="there is an extractor lite0 already"):
        jd.evaluation.register_extractor("lite0", dims=2)(lambda images: images)


def test_an_optimiser_of_one_s_own(tmp_path: Path) -> None:
    optimizer = read(tmp_path / "mine.py", blocks()["An optimiser"]).Lion(
        0.1, weight_decay=0.0
    )
    params = {"w": jnp.ones(3)}
    assert optimizer.start(params) is params
    tx = optimizer.transformation(16)
    updates, state = tx.update({"w": jnp.array([2.0, -3.0, 0.0])}, tx.init(params), params)
    np.testing.assert_allclose(updates["w"], [-0.1, 0.1, 0.0], atol=1e-7)  # rate sign(g)
    (average,) = jd.optim.averages(state)
    np.testing.assert_allclose(average["w"], [0.9, 1.1, 1.0], rtol=1e-6)


def test_all_of_it_is_saved_and_makes_a_step(tmp_path: Path) -> None:
    mine = read(tmp_path / "mine.py", whole())
    experiment = jd.from_config(mine.get_config())
    assert from_dict(to_dict(experiment), kind=jd.Experiment) == experiment
    assert jd.config.own_files(experiment) == (str(tmp_path / "mine.py"),)
    experiment = resolve(experiment, experiment.data.load())
    assert experiment.network.label_dim == 2
    state = jax.eval_shape(lambda: init_state(experiment))
    batch = {
        "image": jax.ShapeDtypeStruct((16, 8, 8, 1), "uint8"),
        "label": jax.ShapeDtypeStruct((16,), "int32"),
    }
    after, metrics = jax.eval_shape(make_step(experiment), state, batch)
    assert jax.tree.structure(after) == jax.tree.structure(state)
    assert metrics["loss"].shape == ()

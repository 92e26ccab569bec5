"""What the library reads of a network, a source or an optimiser is declared."""

import ast
import collections
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import jaxdiff as jd
from jaxdiff import evaluation
from jaxdiff.evaluation import likelihood
from jaxdiff.evaluation.extractors.extractor import extractor
from jaxdiff.evaluation.likelihood import dataset_bound
from jaxdiff.evaluation.noise_shift import of_run
from jaxdiff.runtime import sharding
from jaxdiff.schedules.posterior import SmallVariance
from jaxdiff.train import finetuning, fit, memory, summary
from jaxdiff.types import Network, Optimizer, Source
from jaxdiff.types.protocols import members
from tests.extending import forgetting

ROOT = Path(__file__).parents[1]
FIELDS = {"network": Network, "data": Source, "optimizer": Optimizer}
"""Fields of an experiment, and what they hold."""
EXPERIMENTS = {"e", "experiment", "here", "there", "guide", "estimator", "base", "r"}
"""What the code calls an experiment."""


def reads(path: Path) -> Iterator[tuple[str, str]]:
    """(field, member) of every read of a member of an experiment's field."""
    for node in ast.walk(ast.parse(path.read_text())):
        inner, name = None, ""
        if isinstance(node, ast.Attribute):
            inner, name = node.value, node.attr
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in (
            "getattr", "hasattr",
        ):  # fmt: skip
            inner, name = node.args[0], getattr(node.args[1], "value", "a name made up")
        if not (isinstance(inner, ast.Attribute) and inner.attr in FIELDS):
            continue
        owner = inner.value
        last = getattr(owner, "attr", getattr(owner, "id", ""))
        if last in EXPERIMENTS:
            yield inner.attr, name


def test_every_member_that_the_code_reads_is_declared() -> None:
    seen = collections.Counter()
    ready = ROOT / "jaxdiff/config/ready"  # a config knows the types of its own parts
    for path in sorted({*(ROOT / "jaxdiff").rglob("*.py")} - {*ready.glob("*.py")}):
        where = str(path.relative_to(ROOT))
        for field, name in reads(path):
            seen[field] += 1
            known = name in members(FIELDS[field])
            assert known, f"{where} reads {field}.{name}, which {FIELDS[field]} has not"
    assert all(seen[field] > 3 for field in FIELDS), seen


LIBRARY = f"{ROOT / 'jaxdiff'}/"
UNDECLARED: list[str] = []


def watched(protocol: type, own: tuple[str, ...]) -> Any:
    """`__getattribute__` that notes what jaxdiff's code reads beyond the protocol."""
    known = {*members(protocol), *own}

    def read(self: object, name: str) -> Any:
        caller = sys._getframe(1)
        file = caller.f_code.co_filename
        if file.startswith(LIBRARY) and name not in known and not name.startswith("__"):
            UNDECLARED.append(f"{Path(file).name}:{caller.f_lineno} {name}")
        return object.__getattribute__(self, name)

    return read


class Net(nn.Module):
    """A network that brings what it must, and nothing else."""

    width: int = 4

    @nn.compact
    def __call__(self, x, c_noise, cond, train=False):  # noqa: ANN001, ANN204
        h = nn.silu(nn.Dense(self.width)(x))
        level = jnp.reshape(c_noise, (-1, 1, 1, 1))
        return jd.Output(nn.Dense(x.shape[-1])(h * (1 + level)))


Net.__getattribute__ = watched(Network, ("width", "path"))  # path is Flax's, of modules


@dataclass(frozen=True)
class Squares:
    count: int = 40
    __getattribute__ = watched(Source, ("count",))

    @property
    def shape(self):  # noqa: ANN201
        return (4, 4, 1)

    def load(self):  # noqa: ANN201
        grey = np.linspace(0, 255, self.count).astype(np.uint8)
        image = np.broadcast_to(grey[:, None, None, None], (self.count, 4, 4, 1)).copy()
        return jd.data.Dataset(jd.data.Memory(image, np.full(self.count, -1, np.int32)))


@dataclass(frozen=True)
class Plain:
    rate: float = 0.01
    __getattribute__ = watched(Optimizer, ("rate",))

    @property
    def lengths(self):  # noqa: ANN201
        return (0.1,)

    def schedule(self, batch_size, more_images=0):  # noqa: ANN001, ANN201
        return lambda step: self.rate

    def transformation(self, batch_size, more_images=0):  # noqa: ANN001, ANN201
        import optax

        return optax.chain(optax.sgd(self.rate), jd.optim.power_ema(self.lengths))


@pytest.fixture
def registered() -> Iterator[None]:
    with forgetting():
        for cls in (Net, Squares, Plain):
            jd.register(cls)
        UNDECLARED.clear()
        yield


def test_the_least_that_can_be_brought_goes_the_whole_way(
    registered: None, tmp_path: Path
) -> None:
    experiment = jd.Experiment(
        data=Squares(),
        network=Net(),
        optimizer=Plain(),
        sampling=jd.Sampling(steps=2, solver=jd.Euler(), images=10),
        batch_size=8,
        steps=4,
        log_every=2,
        sample_every=4,
        checkpoint_every=2,
        snapshot_every=4,
        magnitudes_every=2,
        eval_every=4,
        eval_images=10,
        eval_extractors=("pixels8",),
    )
    fit(experiment, tmp_path / "run", progress=False)
    run = jd.restore(tmp_path / "run")
    assert run.experiment == experiment
    mesh, dataset = sharding.data_mesh(), experiment.data.load()
    judge = evaluation.judge_of(
        experiment.data,
        [extractor("pixels8")],
        mesh,
        tmp_path,
    )
    assert judge.reference.count == 40
    shape = lambda s, dtype: jax.ShapeDtypeStruct(s, dtype)
    cost = dataset_bound.coster(experiment, SmallVariance(), clip=False)
    steps = likelihood.process(experiment.schedule, 3)
    image, label = shape((4, 4, 4, 1), "uint8"), shape((4,), "int32")
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 4))
    terms = jax.eval_shape(cost, run.variables, keys, image, label, steps)
    assert terms.vb.shape[-1] == 4
    with pytest.raises(ValueError, match="the estimator says x0 and no noise level"):
        of_run.check(experiment, experiment, aware=False)
    fitted = finetuning.fitted(run.variables, experiment, experiment)
    assert fitted.lines[0].startswith("4 of the 4 arrays")
    assert memory.kept(experiment, 2) > 0
    lines = [*summary.of_data(experiment, dataset)]
    lines += summary.of_run(experiment, tmp_path, mesh, run.variables["params"], 4)
    assert lines[0].startswith("data: Squares, 40 images, 4 x 4 x 1")
    assert UNDECLARED == []


def test_a_read_of_what_is_not_declared_is_noticed(registered: None) -> None:
    code = compile("network.width; network.depth", f"{LIBRARY}some.py", "exec")
    with pytest.raises(AttributeError):
        exec(code, {"network": Net()})
    assert UNDECLARED == ["some.py:1 depth"]

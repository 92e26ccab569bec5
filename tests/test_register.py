"""Types of one's own: what registering asks of them, and how they are saved and named."""

import json
import math
import subprocess
import sys
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

import jaxdiff as jd
from jaxdiff.config import (
    KINDS,
    NAMES,
    TYPES,
    allowed,
    expressions,
    from_dict,
    registration,
    resolve,
    to_dict,
)
from jaxdiff.runs.state import init_state
from jaxdiff.types import Network, Schedule, Solver, Source, Weighting
from jaxdiff.types.protocols import ByType, implements, members, missing, required
from jaxdiff.types.ranges import check
from tests.extending import forgetting, read

FILE = """
from dataclasses import dataclass
import jaxdiff as jd

@jd.register
@dataclass(frozen=True)
class Powered:
    power: float = {power}
    def __call__(self, at):
        return at.snr**self.power
"""


@pytest.fixture(autouse=True)
def _forgetting() -> Iterator[None]:
    with forgetting():
        yield


class Net(nn.Module):
    label_dim: int = 0

    @nn.compact
    def __call__(self, x, c_noise, cond, train=False):  # noqa: ANN001, ANN204
        return jd.Output(nn.Dense(x.shape[-1])(x))


def test_a_network_gets_the_members_that_it_leaves_out() -> None:
    assert missing(Net, Network) == (
        "attn_resolutions", "backbone", "dtype", "estimates", "learned_variance",
    )  # fmt: skip
    jd.register(Net)
    net = Net(label_dim=3)
    assert isinstance(net, Network)
    assert (net.backbone, net.dtype, net.learned_variance) == (net, "float32", False)
    assert not net.estimates
    assert net.label_dim == 3  # its own stays


def test_a_saved_experiment_comes_back_and_its_names_are_of_its_kind(
    tmp_path: Path,
) -> None:
    jd.register(Net)
    own = read(tmp_path / "own.py", FILE.format(power=0.5))
    loss = jd.WeightedError(own.Powered(power=0.25))
    experiment = jd.Experiment(network=Net(label_dim=10), loss=loss)
    tree = to_dict(experiment)
    assert tree["network"] == {"type": "networks.Net", "label_dim": 10}
    assert tree["loss"]["weighting"] == {"type": "weightings.Powered", "power": 0.25}
    assert from_dict(tree, kind=jd.Experiment) == experiment
    assert "weightings.Powered" in allowed(Weighting)
    assert "weightings.Powered" not in allowed(Schedule) + allowed(Solver)
    assert expressions.parse("Powered(power=2.0)", Weighting) == own.Powered(2.0)


def test_a_file_that_is_read_again_takes_the_place_of_what_it_was(tmp_path: Path) -> None:
    first = read(tmp_path / "own.py", FILE.format(power=0.5))
    again = read(tmp_path / "own.py", FILE.format(power=0.75))
    assert TYPES["weightings.Powered"] is again.Powered is not first.Powered
    assert NAMES[again.Powered] == "weightings.Powered"
    assert to_dict(again.Powered())["type"] == "weightings.Powered"
    with pytest.raises(ValueError, match="Powered was registered again since this value"):
        to_dict(first.Powered())  # it would come back as another class
    assert from_dict({"type": "weightings.Powered"}) == again.Powered(0.75)
    with pytest.raises(
        ValueError, match=r"weightings.Powered is the name of own.Powered al"
    ):
        read(tmp_path / "other.py", FILE.format(power=0.5))


def test_an_unknown_name_says_what_to_register_and_runs_nothing(tmp_path: Path) -> None:
    (tmp_path / "networks.py").write_text("raise SystemExit('imported')")
    tree = to_dict(jd.Experiment()) | {"network": {"type": "networks.Net", "label_dim": 10}}
    line = (
        r"^config.network.type is 'networks.Net', a name that is not registered: import "
        r"the file with @jaxdiff.register on Net, on a command line by --import=FILE.py; kn"
    )
    with pytest.raises(ValueError, match=line) as caught:
        from_dict(tree, kind=jd.Experiment)
    assert "\n" not in str(caught.value)


CALL = "def __call__(self, at): return at.snr"


def make(fields: str = "x: int = 0", body: str = CALL) -> type:
    space: dict = {}
    text = f"@dataclass(frozen=True)\nclass Own:\n    {fields}\n    {body}\n"
    known = {"dataclass": dataclass, "jax": jax, "np": np}
    exec(text, known | {"typing": typing, "Schedule": Schedule}, space)
    return space["Own"]


def mutable() -> type:
    return dataclass(type("Own", (), {}))


@pytest.mark.parametrize(
    ("cls", "name", "line"),
    [
        (lambda: 3, "", "takes a frozen dataclass or a Flax module, and 3 is neither"),
        (mutable, "", r"Own is neither: write @dataclass\(frozen=True\) between"),
        (lambda: type("Own", (make(),), {}), "", "Own is neither"),
        (lambda: make("x: list = None"), "", r"Own.x is list, which cannot be saved"),
        (lambda: make("x: jax.Array = None"), "", r"Own.x is .*Array, which cann"),
        (lambda: make("x: dict[str, int] = None"), "", r"Own.x is dict.*cannot be saved"),
        (lambda: make("x: 'Missing' = None"), "", "Own's fields: name 'Missing'"),
        (
            lambda: make(body="def time(self): ..."),
            "",
            "Own fits none of jaxdiff's protocols; the nearest is Schedule, which has "
            "__call__, reaches_pure_noise, time",
        ),
        (
            lambda: make(body="def __call__(self, a, b, c): ..."),
            "weightings.Own",
            r"the nearest is Weighting, whose __call__ takes \(self, at\)",
        ),
        (lambda: make("type: str = ''"), "", "Own has a field called type, which"),
        (make, "ELBO", "weightings.ELBO is the name of jaxdiff.obj"),
        (make, "nowhere.Own", "register.name='nowhere.Own'.: a name is as Mine or"),
        (make, "a b", "register.name='a b'.: a name is as"),
    ],
)  # fmt: skip
def test_what_cannot_be_registered_gets_one_line(cls, name, line) -> None:  # noqa: ANN001
    made = cls()
    with pytest.raises(ValueError, match=line) as caught:
        jd.register(made, name=name)
    assert "\n" not in str(caught.value)
    assert "weightings.Own" not in TYPES


def test_a_network_is_called_as_training_calls_it() -> None:
    class Short(nn.Module):
        def __call__(self, x):  # noqa: ANN001, ANN204
            return x

    with pytest.raises(
        ValueError, match=r"Short.__call__ must take .self, x, c_noise, cond"
    ):
        jd.register(Short)


def test_what_has_no_name_cannot_be_saved() -> None:
    with pytest.raises(ValueError, match=r"Own has no name .*: write @jaxdiff.register"):
        to_dict(make()())


@pytest.mark.parametrize(
    ("value", "line"),
    [
        ([1, 2], r"Own.x is \[1, 2\], which cannot be saved: make the list a tuple"),
        (np.ones(2), r"Own.x is array\(\[1., 1.\]\), which cannot be saved: a field is a"),
        (jnp.bfloat16, "Own.x is .*bfloat16.*, which cannot be saved"),
        ({"a": 1}, "Own.x is .*, which cannot be saved"),
        ((1, (b"x",)), r"Own.x\[1\]\[0\] is b'x', which cannot be saved"),
        (math.nan, "Own.x is nan, which cannot be saved"),
    ],
)
def test_what_cannot_be_read_again_is_not_saved(value: object, line: str) -> None:
    own = jd.register(make("x: typing.Any = 0"))
    with pytest.raises(ValueError, match=line) as caught:
        to_dict(jd.Experiment(loss=jd.WeightedError(own(value))))
    assert "\n" not in str(caught.value)


def test_numbers_of_numpy_are_saved_as_numbers() -> None:
    own = jd.register(make("x: float = 0.0"))
    tree = json.loads(json.dumps(to_dict(own(np.float32(0.5)))))
    assert from_dict(tree) == own(0.5)


@pytest.mark.parametrize(
    ("field", "right", "wrong"),
    [
        ("x: float | None = None", 2.0, "y"),
        ("x: typing.Optional[float] = None", 2.0, "y"),
        ("x: typing.Literal[1, 2] = 1", 2, 3),
        ("x: typing.Literal['a'] | int = 1", "a", None),
        ("x: Schedule | float = 1.0", jd.Cosine(), "y"),
        ("x: Schedule | float = 1.0", 3.0, jd.Heun()),
    ],
)
def test_a_field_may_be_one_of_several(field: str, right: object, wrong: object) -> None:
    own = jd.register(make(field))
    for value in (right, own().x):
        assert from_dict(json.loads(json.dumps(to_dict(own(value))))) == own(value)
    with pytest.raises(ValueError, match=r"^config\.x must be"):
        from_dict(to_dict(own()) | {"x": to_dict(wrong)})


def test_whole_numbers_of_a_field_of_floats_are_floats() -> None:
    own = jd.register(make("x: float | None = None"))
    assert type(from_dict(to_dict(own(2))).x) is float


def test_a_name_of_a_group_says_what_a_class_is() -> None:
    own = make(body="def __call__(self, level): return level.sigma")
    with pytest.raises(ValueError, match="nearest is"):
        jd.register(own)
    jd.register(name="parameterizations.Label")(own)
    assert NAMES[own] == "parameterizations.Label"
    assert jd.V(label=own()).label == own()


@pytest.mark.parametrize("protocol", [Network, Source, jd.types.Optimizer])
def test_every_member_says_what_it_is(protocol: type) -> None:
    assert isinstance(protocol, ByType)
    for name in members(protocol):
        assert vars(protocol)[name].__doc__, name
    assert {*required(protocol)} < {*members(protocol)}


def test_what_a_class_has_to_bring_is_asked_for() -> None:
    with pytest.raises(ValueError, match=r"Own has no load: The `data.Dataset`"):
        implements(Source)(type("Own", (), {"shape": (8, 8, 1)}))


def test_being_a_source_reads_no_folder() -> None:
    assert isinstance(jd.data.Folder("nowhere"), Source)
    assert not isinstance(jd.data.Pixels(), Source)


def test_what_a_value_has_not_is_named() -> None:
    line = r"network must be Network, got Dense.*: write @jaxdiff.register above the class "
    with pytest.raises(ValueError, match=line):
        check("network", nn.Dense(3), Network)
    with pytest.raises(
        ValueError, match=r"data must be Source, got Cosine.*no load, shape$"
    ):
        check("data", jd.Cosine(), Source)


class Standing(nn.Module):
    @nn.compact
    def __call__(self, x, c_noise, cond, train=False):  # noqa: ANN001, ANN204
        return jd.Output(nn.BatchNorm(use_running_average=True)(x))


@dataclass(frozen=True)
class Unaveraged:
    lengths: tuple[float, ...] = (0.1,)

    def schedule(self, batch_size, more_images=0):  # noqa: ANN001, ANN201
        return optax.constant_schedule(0.1)

    def transformation(self, batch_size, more_images=0):  # noqa: ANN001, ANN201
        return optax.adamw(0.1)


@dataclass(frozen=True)
class Misshapen:
    shape: tuple[int, int, int] = (8, 8, 3)
    dataset: bool = True

    def load(self):  # noqa: ANN201
        digits = jd.data.Digits().load()
        return digits if self.dataset else [1, 2]


def test_what_does_not_fit_together_gets_one_line() -> None:
    for cls in (Standing, Unaveraged, Misshapen):
        jd.register(cls)
    line = "Standing has variables in batch_stats, params: a network has what is trained in"
    with pytest.raises(ValueError, match=line):
        jd.networks.shapes(Standing(), (8, 8, 1))
    experiment = jd.Experiment(network=Net(), optimizer=Unaveraged())
    line = r"Unaveraged.lengths has 1 averages, its chain 0: end .*power_ema\(\(0.1,\)\)"
    with pytest.raises(ValueError, match=line):
        jax.eval_shape(lambda: init_state(experiment))
    line = r"Misshapen.shape is \(8, 8, 3\), so .* has images of \(8, 8, 1\)"
    with pytest.raises(ValueError, match=line):
        resolve(jd.Experiment(data=Misshapen()), Misshapen().load())
    with pytest.raises(ValueError, match=r"Misshapen.load\(\) returned \[1, 2\]: return"):
        resolve(jd.Experiment(data=Misshapen()), Misshapen(dataset=False).load())


@pytest.mark.parametrize("name", [n for n in TYPES if not n.startswith("config.")])
def test_what_a_type_of_jaxdiff_is_follows_from_its_members(name: str) -> None:
    kinds = [kind for kind in KINDS if name in allowed(kind)]
    assert registration._kind_of(TYPES[name], name.split(".")[0]) in kinds
    if any(kind in registration.MAIN for kind in kinds):
        assert registration._kind_of(TYPES[name], "") in kinds


def test_the_command_line_imports_files_first(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(FILE.format(power=0.5))
    (tmp_path / "broken.py").write_text("import jaxdiff\n1 / 0\n")
    (tmp_path / "beside").mkdir()
    (tmp_path / "beside" / "parts.py").write_text("")
    (tmp_path / "beside" / "config.py").write_text("import parts\n")
    root = Path(__file__).parents[1]
    code = (
        "from jaxdiff.commands import own_types\n"
        f"print(own_types.imported(['x', '--import={tmp_path}/own.py']))\n"
        f"print(own_types.imported(['x', '--import', '{tmp_path}/broken.py']))\n"
        "print(own_types.imported(['x', '--import=missing.py']))\n"
        "print(own_types.imported(['x', '--import=no_such_module']))\n"
        f"print(own_types.imported(['x', '--config={tmp_path}/beside/config.py:a']))\n"
        "import parts\n"
        "import own; from jaxdiff.config import TYPES\n"
        "print(TYPES['weightings.Powered'] is own.Powered)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=200
    )
    first, broken, missing_file, no_module, beside, same = done.stdout.split("\n")[:6]
    assert (first, beside, same) == ("", "", "True"), done.stderr
    assert (
        broken
        == f"--import: {tmp_path}/broken.py, line 2: ZeroDivisionError: division by zero"
    )
    assert "there is no file missing.py" in missing_file
    assert "No module named 'no_such_module'" in no_module

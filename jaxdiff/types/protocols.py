"""What a network, a data source and an optimiser are: all that the library reads of them.

Members without a body are what a class has to bring. The others are optional: `implements`
gives a class those that it leaves out, with the values here.
"""

from abc import abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from jaxtyping import Array, Float, Key, PyTree

if TYPE_CHECKING:
    from jaxdiff.types import Condition, Output

C = TypeVar("C", bound=type)


class ByType(type(Protocol)):
    """Protocols of which a value is by what its type has: no property is evaluated.

    A folder's `classes` read the disk, and a plain isinstance would do so.
    """

    def __instancecheck__(cls, value: Any) -> bool:
        return not missing(type(value), cls)


class Network(Protocol, metaclass=ByType):
    """A Flax module (x, c_noise, cond, train) -> `Output`; it knows no sigma.

    A frozen, hashable value. Its variables are in the collections "params", which are
    trained, and "constants", which are not; with `train` it may draw from the stream
    "dropout". `init`, `apply` and `clone` are Flax's.
    """

    @abstractmethod
    def __call__(
        self,
        x: Float[Array, "B H W C"],
        c_noise: Float[Array, "..."],
        cond: "Condition",
        train: bool = False,
    ) -> "Output":
        """The prediction for x, scaled by c_in, at a level told by c_noise, [] or [B]."""
        ...

    @abstractmethod
    def init(
        self, rngs: Key[Array, ""], x: Array, c_noise: Array, cond: "Condition"
    ) -> PyTree:
        """The variables before training."""
        ...

    @abstractmethod
    def apply(self, variables: PyTree, *args: Any, **kwargs: Any) -> Any:
        """What `__call__` returns with these variables."""
        ...

    @abstractmethod
    def clone(self, **updates: Any) -> "Network":
        """The same network with other fields."""
        ...

    @property
    def label_dim(self) -> int:
        """Classes that it may be told; 0: none; -1: as many as the data have."""
        return 0

    @property
    def dtype(self) -> str:
        """What it computes in, for people to read."""
        return "float32"

    @property
    def learned_variance(self) -> bool:
        """Whether `Output.variance` is there."""
        return False

    @property
    def estimates(self) -> str:
        """What it says in place of x0, such as "class"; "" for a denoiser."""
        return ""

    @property
    def backbone(self) -> "Network":
        """The network inside whose fields say its function; most are their own."""
        return self

    @property
    def attn_resolutions(self) -> tuple[int, ...]:
        """Resolutions at which it attends, where its blocks are named by resolution."""
        return ()


class Source(Protocol, metaclass=ByType):
    """Where images come from: a frozen, hashable value that can load them."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of an x0, known without loading."""
        ...

    @abstractmethod
    def load(self) -> Any:
        """The `data.Dataset`: images with random access, and the names of their classes."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the labels, where they are known without loading."""
        return ()

    @property
    def encoder(self) -> Any:
        """The `data.Encoder` between what is stored and x0; None is `data.Pixels()`."""
        return None

    @property
    def path(self) -> str:
        """The file or folder that a run says it reads; "" says nothing."""
        return ""

    @property
    def split(self) -> str:
        """The part of the data, a field; "test" is the held-out one. "" has no parts."""
        return ""


class Optimizer(Protocol, metaclass=ByType):
    """How gradients change the parameters: a frozen, hashable value that makes a chain.

    Somewhere in its chain stand averages of the parameters, such as `optim.power_ema`:
    these, and not the parameters, are what draws images.
    """

    @property
    @abstractmethod
    def lengths(self) -> tuple[float, ...]:
        """Lengths of the averages, one each, in their order in the chain.

        Below 12^(-1/2) is the relative width of a power-function average, from there to 1
        what an average keeps of itself in a step, above 1 a half-life in images.
        `sampling.std` is one of them.
        """
        ...

    @abstractmethod
    def schedule(
        self, batch_size: int, more_images: int = 0
    ) -> Callable[[Array], Float[Array, ""]]:
        """Steps made -> learning rate.

        After n steps, n batch_size + more_images images were seen.
        """
        ...

    @abstractmethod
    def transformation(self, batch_size: int, more_images: int = 0) -> Any:
        """The Optax chain, an `optax.GradientTransformation`."""
        ...

    def start(self, params: PyTree) -> PyTree:
        """Initial parameters as training starts from them."""
        return params

    @property
    def forced_norm(self) -> bool:
        """Whether it keeps weights at magnitude 1, which only suits layers like EDM2's."""
        return False


def members(protocol: type) -> tuple[str, ...]:
    """The names that a protocol declares."""
    names = {*vars(protocol), *protocol.__annotations__}
    return tuple(sorted(n for n in names if not n.startswith("_") or n == "__call__"))


def required(protocol: type) -> tuple[str, ...]:
    """The members that a class has to bring: all but those with a value of their own.

    >>> required(Source)
    ('load', 'shape')
    """
    optional = isinstance(protocol, ByType)
    return tuple(
        name
        for name in members(protocol)
        if not optional or getattr(vars(protocol)[name], "__isabstractmethod__", False)
    )


def missing(cls: type, protocol: type) -> tuple[str, ...]:
    """The members of a protocol that a class has not; no property is evaluated.

    >>> missing(int, Optimizer)
    ('forced_norm', 'lengths', 'schedule', 'start', 'transformation')
    """
    own = {*dir(cls), *getattr(cls, "__dataclass_fields__", ())}
    return tuple(name for name in members(protocol) if name not in own)


def implements(protocol: type) -> Callable[[C], C]:
    """A class decorator: gives a class the optional members that it leaves out.

    Raises:
        ValueError: a member that it has to bring is missing.

    >>> @implements(Source)
    ... class Black:
    ...     shape = (8, 8, 1)
    ...     load = None
    >>> Black().classes, Black().split
    ((), '')
    """

    def complete(cls: C) -> C:
        for name in missing(cls, protocol):
            member = vars(protocol).get(name)
            if name in required(protocol):
                what = (member.__doc__ or "").split("\n")[0].rstrip(".")
                raise ValueError(f"{cls.__name__} has no {name}{what and f': {what}'}")
            setattr(cls, name, member)
        return cls

    return complete

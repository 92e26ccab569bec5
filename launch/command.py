"""What the commands of this folder share: their set-up, and errors in one line."""

import logging as python_logging
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import jax
from absl import app, flags, logging
from ml_collections import config_flags

CPU_DEVICES = flags.DEFINE_integer(
    "cpu_devices", 0, "Virtual devices to split the CPU into, where there is no other "
    "accelerator; 0 = one a core. A resumed run is bit for bit the same on as many."
)  # fmt: skip


def run(main: Callable[[], None]) -> None:
    """Runs a command: 0 when done, 1 on a mistake, 2 on a wrong flag, 130 when stopped.

    A mistake (ValueError, OSError) is printed as one line; JAXDIFF_TRACEBACK=1 shows
    where it was found. Compiled code is cached in JAX_COMPILATION_CACHE_DIR, by default
    ~/.cache/jaxdiff/xla; an empty value turns that off.
    """

    def guarded(argv: list[str]) -> None:
        try:
            if len(argv) > 1:
                raise ValueError(f"{argv[1]!r} is not a flag; see --help")
            _set_up()
            main()
        except KeyboardInterrupt:
            sys.exit(130)
        except (ValueError, OSError) as error:
            _fail(error, 1)

    app.run(guarded, flags_parser=_parse)


def _set_up() -> None:
    logging.set_verbosity(logging.FATAL)  # errors that matter arrive as exceptions,
    python_logging.getLogger("asyncio").setLevel(python_logging.CRITICAL)
    sys.unraisablehook = lambda _: None  # and Orbax's event loop dies noisily after one
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    warnings.showwarning = lambda message, *_: print(f"warning: {message}", file=sys.stderr)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    jax.config.update("jax_num_cpu_devices", CPU_DEVICES.value or cores)
    home = Path(os.environ.get("JAXDIFF_CACHE", Path.home() / ".cache" / "jaxdiff"))
    cache = os.environ.get("JAX_COMPILATION_CACHE_DIR", str(home / "xla"))
    jax.config.update("jax_compilation_cache_dir", cache or None)


def _parse(argv: list[str]) -> list[str]:
    """Flags, of which a config is one: its own errors become one line too."""
    for path in (a.split("=", 1)[1] for a in argv if a.startswith("--config=")):
        file = Path(path.split(":")[0])
        if not file.is_file():
            known = ", ".join(sorted(str(f) for f in Path("configs").glob("*.py")))
            _fail(f"--config: there is no file {file}; there are {known or 'none'}", 2)
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        _fail(error, 2)
    except (AttributeError, KeyError, ValueError, TypeError, OSError, SyntaxError) as error:
        _fail(_unknown_field(argv) or error, 2)


def _unknown_field(argv: list[str]) -> str:
    """Which --config.a.b names no field, and what fields there are."""
    try:
        path = next(a for a in argv if a.startswith(("--config=", "-config=")))
        parser = config_flags.config_flags.ConfigFileFlagParser("config")
        config = parser.parse(path.split("=", 1)[1])
        given = [a.lstrip("-").split("=")[0] for a in argv if a.startswith("--config.")]
        for flag in given:
            node, names = config, flag.split(".")[1:]
            for i, name in enumerate(names):
                if not hasattr(node, "keys") or name not in node:
                    fields = sorted({*node} - {"type"}) if hasattr(node, "keys") else []
                    known = ", ".join(fields) or "none"
                    at = ".".join(["config", *names[:i]])
                    return f"--{flag}: {at} has no field {name!r}; it has {known}"
                node = node[name]
    except Exception:  # whatever is wrong, the first error is the one to show
        return ""
    return ""


def _fail(error: Exception | str, code: int) -> None:
    if os.environ.get("JAXDIFF_TRACEBACK") and isinstance(error, Exception):
        raise error
    first = str(error).strip().split("\n")[0] or type(error).__name__
    print(f"error: {first}", file=sys.stderr)
    sys.exit(code)

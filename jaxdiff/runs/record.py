"""The record saved with a state: its experiment, step and data, under a digest.

A record is one JSON text and its SHA-256. Any flipped bit in it is detected, so a network
is never built with other numbers than it was trained with. Checkpoints of versions without
a digest have their fields side by side instead; no flip turns one form into the other.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxdiff.config import Experiment, from_dict, to_dict
from jaxdiff.runtime import jsontext


class DamagedError(ValueError):
    """A record that does not fit its digest, or is not a record."""


class OtherVersionError(ValueError):
    """A whole record of an experiment that this version cannot build."""


@dataclass(frozen=True)
class Record:
    """A description of a saved state.

    Attributes:
        step: steps made; None in checkpoints without a digest.
        experiment: the run's, when the state was saved.
        checksum: `state_parts.checksum` of every array.
        data: `data.identity` of the data set, if it is known.
        seen: images seen so far; None where every step saw one batch of the experiment.
    """

    step: int | None
    experiment: Experiment
    checksum: tuple[int, ...]
    data: Mapping[str, Any] | None = None
    seen: int | None = None

    def images(self, step: int) -> int:
        """Images seen until this record's step, which old records do not hold."""
        return step * self.experiment.batch_size if self.seen is None else self.seen

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of their labels; () if not known."""
        return tuple((self.data or {}).get("classes", ()))


def sealed(record: Record) -> dict[str, str]:
    """The record as text, and the digest of the text: the JSON saved with a state."""
    fields = vars(record) | {"experiment": to_dict(record.experiment)}
    text = json.dumps(fields)
    return {"record": text, "sha256": digest(text)}


def digest(text: str) -> str:
    """SHA-256 of a text, in hexadecimal; a damaged text may hold half a surrogate pair."""
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def opened(saved: Any) -> Record:
    """The record that `sealed` wrote, or that a version without digests wrote.

    Raises:
        DamagedError: it does not fit its digest, or is not a record.
        OtherVersionError: it is undamaged, but this version cannot build its experiment.
    """
    if not isinstance(saved, Mapping):
        raise DamagedError("no record lies beside its arrays")
    if {"experiment", "checksum"} <= saved.keys():
        return _without_digest(saved)
    text = saved.get("record")
    if not isinstance(text, str) or saved.get("sha256") != digest(text):
        raise DamagedError("its record does not fit its digest")
    try:
        fields = jsontext.loads(text, "its record")
        experiment = from_dict(fields.pop("experiment"), kind=Experiment)
        checksum = tuple(fields.pop("checksum"))
        fields.pop("statistics", None)  # in older ones, and read by nobody
        return Record(experiment=experiment, checksum=checksum, **fields)
    except (ValueError, TypeError) as error:
        raise OtherVersionError(
            f"this jaxdiff cannot build its experiment: {error}"
        ) from error


def _without_digest(saved: Mapping[str, Any]) -> Record:
    """The record of a checkpoint of jaxdiff 0.1, of which any field may be damaged."""
    checksum = saved["checksum"]
    try:
        if not isinstance(checksum, list) or not all(type(c) is int for c in checksum):
            raise TypeError("checksum is not a list of numbers")
        experiment = from_dict(saved["experiment"], kind=Experiment)
        return Record(None, experiment, tuple(checksum))
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise DamagedError(f"its record is damaged: {error}") from error

"""Writes the page of a run again: pictures, curves, scores, next commands.

    jaxdiff report --workdir=runs/digits

Training writes it whenever it draws pictures, and at its end; this is for a run without
one, or after scores and sweeps were measured. WORKDIR/report.html is one file that opens
in any browser from disk, needs no server and loads nothing. A file of the run that is
damaged is named in it.
"""

from absl import flags

from jaxdiff.commands import command
from jaxdiff.train import write_report

WORKDIR = flags.DEFINE_string("workdir", None, "The folder that jaxdiff train wrote.")
flags.mark_flags_as_required(["workdir"])


def main() -> None:
    """Reads, writes, and says where the page is."""
    print(f"{write_report(command.folder(WORKDIR))}: open it in a browser")

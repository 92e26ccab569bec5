"""`jaxdiff report` from a clone; see jaxdiff/commands/report.py."""

from jaxdiff.commands.main import main

main("report")

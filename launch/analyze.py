"""`jaxdiff analyze` from a clone; see jaxdiff/commands/analyze.py."""

from jaxdiff.commands.main import main

main("analyze")

"""`jaxdiff sweep` from a clone; see jaxdiff/commands/sweep.py."""

from jaxdiff.commands.main import main

main("sweep")

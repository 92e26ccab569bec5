"""`jaxdiff magnitudes` from a clone; see jaxdiff/commands/magnitudes.py."""

from jaxdiff.commands.main import main

main("magnitudes")

"""`jaxdiff likelihood` from a clone; see jaxdiff/commands/likelihood.py."""

from jaxdiff.commands.main import main

main("likelihood")

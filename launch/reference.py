"""`jaxdiff reference` from a clone; see jaxdiff/commands/reference.py."""

from jaxdiff.commands.main import main

main("reference")

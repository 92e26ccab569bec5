"""`jaxdiff reconstruct` from a clone; see jaxdiff/commands/reconstruct.py."""

from jaxdiff.commands.main import main

main("reconstruct")

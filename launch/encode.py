"""`jaxdiff encode` from a clone; see jaxdiff/commands/encode.py."""

from jaxdiff.commands.main import main

main("encode")

"""`jaxdiff train` from a clone; see jaxdiff/commands/train.py."""

from jaxdiff.commands.main import main

main("train")

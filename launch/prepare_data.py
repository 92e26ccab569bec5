"""`jaxdiff prepare_data` from a clone; see jaxdiff/commands/prepare_data.py."""

from jaxdiff.commands.main import main

main("prepare_data")

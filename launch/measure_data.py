"""`jaxdiff measure_data` from a clone; see jaxdiff/commands/measure_data.py."""

from jaxdiff.commands.main import main

main("measure_data")

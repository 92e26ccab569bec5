"""`jaxdiff convert_features` from a clone; see jaxdiff/commands/convert_features.py."""

from jaxdiff.commands.main import main

main("convert_features")

"""`jaxdiff import_model` from a clone; see jaxdiff/commands/import_model.py."""

from jaxdiff.commands.main import main

main("import_model")

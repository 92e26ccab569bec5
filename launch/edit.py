"""`jaxdiff edit` from a clone; see jaxdiff/commands/edit.py."""

from jaxdiff.commands.main import main

main("edit")

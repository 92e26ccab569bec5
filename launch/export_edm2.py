"""`jaxdiff export_edm2` from a clone; see jaxdiff/commands/export_edm2.py."""

from jaxdiff.commands.main import main

main("export_edm2")

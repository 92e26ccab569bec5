"""A run's page, report.html: what it made, how it went, and how to go on.

`contents` reads the run's folder, `curves` chooses what is drawn, `charts` draws it as SVG,
`pictures` makes sheets small enough, `commands` lists what can be done next, and `page`
puts them into one file that needs nothing else.
"""

from jaxdiff.train.report.page import NAME, write_report

__all__ = ["NAME", "write_report"]

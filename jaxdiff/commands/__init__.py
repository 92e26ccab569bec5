"""The commands: `jaxdiff train`, or `python -m jaxdiff train`, and the others.

A command is a module of its name here: the first line of its docstring is its line of
`jaxdiff --help`, and it has flags and a function `main`. Its flags are defined when it is
imported, so a process imports one command alone. SEVERAL_PROCESSES says that it may be one
of several processes, and POSITIONAL lists the flags that arguments without a name set.
"""

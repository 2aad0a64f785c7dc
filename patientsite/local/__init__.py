"""`make run`: the embedded engines and the processes of one machine; development only.

guard       one process, ended when whoever started it is gone
process     a command, and one guarded run of it
supervisor  starts processes, watches them, ends them in turn
stack       what is run: ports, environment, commands
fences      what a kept table has to forget of the topics that are gone
"""

from __future__ import annotations

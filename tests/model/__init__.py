"""A model of the Stackless scheduler, random programs, and what compares the model with the real scheduler.

==============  =======================================================================================
`scheduler`     the model: one thread, pure Python, every call that may switch is a generator
`tasklets`      the model's tasklets, channels and bombs
`program`       a program as data: scripts of calls for tasklets and channels; its form as JSON
`generate`      makes a random program from a seed
`execute`       runs a program on the model or on the real thing and logs everything that can be seen
`worker`        a process that runs programs, for what may crash or hang; and the client that drives it
`shrink`        makes a failing program small
`render`        writes a program as a script that needs nothing of this package
`threads`       programs whose tasklets live on several OS threads, and the invariants that are left there
==============  =======================================================================================

The folder ``found`` keeps programs on which the real scheduler once was wrong. `tests/test_model.py` runs them and a
fixed set of seeds; `tools/fuzz_scheduler.py` runs new seeds for as long as it is told to.
"""

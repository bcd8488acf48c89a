"""Faults and the behaviour that the package guarantees for them, as listed in `docs/reliability.md`.

Each command runs in a separate process, through `lightreasoner.cli.main`. Most processes are forked from a server with
PyTorch imported, which saves three seconds a start; `start(..., cold=True)` runs `python -m lightreasoner.cli`.
"""

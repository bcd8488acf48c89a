"""Faults, and what the package promises where they happen. `docs/reliability.md` is the table.

The commands run in processes of their own, through `lightreasoner.cli.main`. Most of them are forked from a server
that has imported PyTorch already, which takes three seconds off each start; `start(..., cold=True)` is
`python -m lightreasoner.cli`.
"""

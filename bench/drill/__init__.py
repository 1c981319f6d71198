"""Crash-recovery drills: every promise broken on purpose, on the machine they run on.

    plan.py, tally.py        what a drill is asked to do, and what it counts and finds
    subjects/                one module a kind of store: its operations, its model, its files
    explorer.py, ...         the drills: crash states, kill points, damage, errors, processes, soak
    history.py               the checker: what clients saw, against what may be
    report.py                JSON and one HTML page

The product has no test switches. Faults enter through the workers' one file layer, through signals,
and through the system's own limits.
"""

"""Crash-recovery drills: every promise broken on purpose, on the machine they run on.

    plan.py, tally.py        what a drill is asked to do, and what it counts and finds
    subjects/                one module a kind of store: its operations, its model, its files
    explorer.py, ...         the drills in one process: crash states, kill points, damage, errors
    scenario.py, replay.py   one thing that was tried there, as a line of text, and doing it again
    processes.py             those with real ones: worker_faults.py and host_faults.py befall a
                             scene.py, where clients.py use live_stores.py
    limits.py, wall_clock.py, kernel.py, soak.py   likewise: limits, clock jumps, strace, long load
    kernel_kills.py          the kernel kills a process at each call that changes a file
    live.py                  having such scenarios tried on each kind of store, several at once
    copies.py, sources.py    on copies of a user's stores
    history.py               the checker: what clients saw, against what may be
    narrowing.py, kept.py    of a failure, the fewest calls that show it, and its files
    report.py                JSON and one HTML page

The product has no test switches. Faults enter through the workers' one file layer, through signals,
and through the system's own limits.
"""

"""Load tests: what an engine holds on this machine, with this mix of work.

    profile.py, profiles/   a mix of work: stores, operations, sizes, distributions; TOML
    faults.py               what is wrong with such a file, in words
    keys.py, truth.py       which key is next; what is known of each key, and what a read may give
    work.py, *_work.py      the operations, one module a kind of store
    pace.py, clients.py     when a call is due; clients as threads or asyncio tasks
    member.py               a process of clients, which tells what it measured once a second
    crew.py, timings.py     the member processes, and what all of them measured
    watching.py, killing.py processes, memory, disk; workers killed now and then
    session.py, limit.py    a run from preload to outcome; the search for the highest rate
    outcome.py, stability.py, page.py, live.py, command.py   what came of it, and showing it

Clients are processes of their own, which join the engine as any program does. Every key has one
client that writes it, and every value says of which write it is, so that each read can be judged
without a word between the processes.
"""

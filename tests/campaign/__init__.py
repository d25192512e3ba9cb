"""A campaign of faults against recvae: what a killed process, a failing disk, an altered file, a second writer and an
odd call can do to what a user has.

    python -m tests.campaign                  the short form
    python -m tests.campaign --long           at least 1,000 kill points, 2,000 failures, 4,000 mutations, ...
    python -m tests.campaign --only kills --seed 7 --json figures.json

Everything is drawn from one seed. The attacks run in processes forked from one that has imported everything, so that
each takes milliseconds. It needs Linux: kills and failures come at system calls, by ptrace.
"""

"""`trainbeacon demo`: a real distributed training job with Prometheus and Alertmanager around it.

    job.py (with model.py, text.py, faults.py)   the training script, one process a rank; the one to copy
    launch.py                                    starts the ranks and ends them
    stack.py (with rendering.py, binaries.py)    Prometheus and Alertmanager on loopback, with what we ship
    receiver.py                                  receives the notifications
    progress.py, terminal.py                     what the ranks are at, read from /metrics, and the display
    session.py                                   one demo from start to end

`Stack`, `Receiver` and `Ranks` are context managers; the end-to-end tests use them too.
"""

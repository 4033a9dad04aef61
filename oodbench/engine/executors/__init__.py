"""Executors: where the cells of a run are computed.

`executor.py` says what a run asks of an executor, and has what all share; `executor_choice.py`
makes one by its name. Each other module belongs to one executor, or to several:

==========================  =======================================================================
one after the other, here   `in_process.py`
`--workers N`               `worker_processes.py`; in a worker: `worker.py`; between: `messages.py`
`--executor ray`            `ray_executor.py`, `resource_shares.py`; on a node: `ray_worker.py`
`--executor submitit`       `submitit_executor.py`, `slurm_queue.py`; in a job: `submitit_job.py`
other processes             `sent_progress.py`: their progress, sent and shown
other machines              `remote_process.py`: their checks; `node_cache.py`: their cache
==========================  =======================================================================
"""

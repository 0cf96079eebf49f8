"""Every key of ours in Redis, and the scripts that change two things in one step.

=============================  ======  ==========================================================
key                            type    content
=============================  ======  ==========================================================
justright:commands             stream  clients to orchestrator: submit, cancel, ...; signed
justright:reports              stream  workers to orchestrator: started, report, outcome, ...
justright:decisions:STUDY      hash    trial number -> Decision; read by workers as they report
justright:lease:JOB            string  the worker that trains the job; expires without heartbeats.
                                       "-": the job was taken back, for good
justright:begun:JOB            string  who began the job: nobody does so twice
justright:workers              set     names of workers, some of them perhaps gone
justright:worker:NAME          string  WorkerInfo; expires without heartbeats
justright:studies              set     names of studies
justright:study:STUDY          string  Snapshot, for clients
justright:leader               string  the orchestrator that is active; expires
justright:mark                 string  left by the first orchestrator: a Redis without it is empty
rq:*                           --      RQ's own: the queue of a pool is ``justright-POOL``. Jobs are
                                       signed
=============================  ======  ==========================================================
"""

from __future__ import annotations

PREFIX = "justright:"
COMMANDS = PREFIX + "commands"
REPORTS = PREFIX + "reports"
WORKERS = PREFIX + "workers"
STUDIES = PREFIX + "studies"
LEADER = PREFIX + "leader"
MARK = PREFIX + "mark"

DECISIONS_KEPT = 7 * 24 * 3600  #: seconds; longer than any epoch, so that every trial hears it

REVOKED = "-"  #: In the place of a lease's owner.


def decisions_key(study: str) -> str:
    return f"{PREFIX}decisions:{study}"


def lease_key(job: str) -> str:
    return f"{PREFIX}lease:{job}"


def begun_key(job: str) -> str:
    return f"{PREFIX}begun:{job}"


def worker_key(name: str) -> str:
    return f"{PREFIX}worker:{name}"


def study_key(study: str) -> str:
    return f"{PREFIX}study:{study}"


# Take or keep a lease in one step, that of a job or the leader's: the key is free, or it is ours.
HOLD = """
local owner = redis.call('GET', KEYS[1])
if owner and owner ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""
# Both sides of a lease: nobody begins a job twice, nobody renews one that was taken back. An owner
# that asks again, because the first answer was lost on the way, is told the same again.
CLAIM = """
local begun = redis.call('GET', KEYS[2])
if begun and begun ~= ARGV[2] then return 0 end
if redis.call('GET', KEYS[1]) == '-' then return 0 end
redis.call('SET', KEYS[2], ARGV[2], 'EX', ARGV[4])
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[3])
return 1
"""
RESIGN = """
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
"""

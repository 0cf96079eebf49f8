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
justright:reply:COMMAND        string  Reply: what became of a client's command; expires
justright:secret               string  fingerprint of the active orchestrator's secret; expires
justright:mark                 string  left by the first orchestrator: a Redis without it is empty
rq:*                           --      RQ's own: the queue of a pool is ``justright-POOL``. Jobs are
                                       signed
=============================  ======  ==========================================================

With ``JUSTRIGHT_NAMESPACE=NAME`` they begin with ``justright:@NAME:``, and the queue is
``justright-@NAME-POOL``.
"""

from __future__ import annotations

PREFIX = "justright:"

REPLY_KEPT = 600  #: seconds in which a client can read what became of its command
DECISIONS_KEPT = 7 * 24 * 3600  #: seconds; longer than any epoch, so that every trial hears it

REVOKED = "-"  #: In the place of a lease's owner.


class Keys:
    """The keys of one namespace. Without one they are as in the table above."""

    def __init__(self, namespace: str = "") -> None:
        # No study's or worker's name has an @, so that none is taken for a namespace.
        self.prefix = f"{PREFIX}@{namespace}:" if namespace else PREFIX
        self.commands = self.prefix + "commands"
        self.reports = self.prefix + "reports"
        self.workers = self.prefix + "workers"
        self.studies = self.prefix + "studies"
        self.leader = self.prefix + "leader"
        self.secret = self.prefix + "secret"
        self.mark = self.prefix + "mark"

    def decisions(self, study: str) -> str:
        return f"{self.prefix}decisions:{study}"

    def lease(self, job: str) -> str:
        return f"{self.prefix}lease:{job}"

    def begun(self, job: str) -> str:
        return f"{self.prefix}begun:{job}"

    def worker(self, name: str) -> str:
        return f"{self.prefix}worker:{name}"

    def study(self, study: str) -> str:
        return f"{self.prefix}study:{study}"

    def reply(self, command: str) -> str:
        return f"{self.prefix}reply:{command}"


def queue_name(pool: str, namespace: str = "") -> str:
    """The RQ queue of a pool."""
    return f"justright-@{namespace}-{pool}" if namespace else f"justright-{pool}"


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

"""The words that a state is made of."""

# Who holds a PROCESSING row, besides a worker's index: nobody; a dead worker whose lease still runs, or ran out; one
# whose lease row is gone already, because it was declared dead, or because it stopped in order.
NOBODY, DYING, DEAD, GONE, LEFT = -1, -2, -3, -4, -5
# A row's `reconcile_at`: minus infinity, in the future, passed.
AT_ONCE, LATER, PASSED = "at once", "later", "passed"
# What the client knows. ASKED_AGAIN: the request came with a key that an earlier request of its own had used.
NEW, ASKED, ASKED_AGAIN, COMMITTED, TOLD, UNSURE = "new", "asked", "asked again", "committed", "told", "unsure"
# How far a worker is with a job, a worker with its life, the body of an attempt with its work.
EMPTY, DELIVERED, CLAIMED, RUNNING, DONE = "empty", "delivered", "claimed", "running", "done"
ALIVE, PAUSED, DRAINING = "alive", "paused", "draining"
NOT_STARTED, STARTED, ENDED = 0, 1, 2
# A lease, and why it ran out: its worker was stopped; or it was not renewed, although its worker was well; or nobody
# missed a renewal, but PostgreSQL's clock stepped.
HELD, LAPSED, MISSED, STEPPED = "held", "lapsed", "missed", "stepped"
# A job's entry in the retry index: none, one whose time has not come, one whose time has.
NOT_LISTED, NOT_YET, LISTED = 0, 1, 2

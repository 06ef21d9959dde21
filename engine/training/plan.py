"""How long a run trains, and when it is scored.

A step is a batch of batch_size rows; an update of the weights takes grad_accumulation of them. The stretch between two
scorings on dev is a leg: an epoch, unless --score-every says otherwise.
"""

import enum
from typing import NamedTuple


class Stage(enum.Enum):
    """What a run does next: where an interrupted one goes on."""
    START_INTERVAL = 'begins a leg'
    RESUME_INTERVAL = 'in the middle of a leg'
    SCORING = 'a leg is trained and not yet scored'
    DONE = 'all legs are trained and scored'


class Plan(NamedTuple):
    """steps_per_epoch; interval_ends: the number of steps, from the run's start, after which dev is scored, ascending."""
    steps_per_epoch: int
    interval_ends: tuple

    def stage(self, step, scored):
        """What comes next after so many steps and so many scored legs."""
        if scored == len(self.interval_ends):
            return Stage.DONE
        if step == self.interval_ends[scored]:
            return Stage.SCORING
        return Stage.START_INTERVAL if step == self.interval_start(scored) else Stage.RESUME_INTERVAL

    def interval_start(self, leg):
        return self.interval_ends[leg - 1] if leg else 0


def updates_in_epoch(knobs, rows):
    """The updates of the weights that one pass over so many rows takes."""
    return -(-rows // (knobs.batch_size * knobs.grad_accumulation))


def total_updates(knobs, rows):
    """The updates of the whole training: --updates, or --epochs passes over so many rows."""
    return knobs.updates or knobs.epochs * updates_in_epoch(knobs, rows)


def make_plan(knobs, rows):
    """The Plan of a training on so many rows.

    100 rows in batches of 32 are 4 updates an epoch. 2 epochs: legs end after 4 and 8 steps; 10 updates, scored every
    3: after 3, 6, 9 and 10.
    """
    updates, total = updates_in_epoch(knobs, rows), total_updates(knobs, rows)
    every = knobs.score_every or updates
    ends = [*range(every, total, every), total]
    return Plan(updates * knobs.grad_accumulation, tuple(end * knobs.grad_accumulation for end in ends))

"""Judging every training loss, so that a spike between two scrapes is not missed."""

from __future__ import annotations

import math
from collections import deque

#: Losses seen before any is called a spike: early training moves too much to tell.
WARM_UP_LOSSES = 20
_WEIGHT = 0.02  # of the newest loss in the running averages: a memory of about 50 losses
_DEVIATIONS = 8.0
_LEAST_RISE = 0.1
#: How far towards that limit a high loss counts in the averages. All the way, and one bad batch in ten would
#: lift the limit above the next.
_MOST_TAKEN = 3 / 8
#: Losses that say what training has come to now. The running mean, while the loss falls, is far above them.
LATEST = 32
#: Losses from one look at their running mean to the next.
STRETCH = 50
#: A rise counts from so many mean deviations on: the running mean of mere noise moves less from look to look.
_RISE_DEVIATIONS = 0.25


class LossJudge:
    """Keeps the recent course of the loss in two running averages: its mean and its mean deviation.

    A loss is a spike if it lies more than 8 mean absolute deviations (about 6 standard deviations of
    a normal distribution) and more than a tenth of the mean's size above the mean. A high loss enters the
    averages as three deviations at most, so that it does not hide the next one, while one that stays
    high becomes the new normal after some dozens of steps.

    Attributes:
        rises: stretches of 50 losses in a row over which the mean rose clearly.
        deviation: the mean absolute deviation of single losses from their running mean.
    """

    def __init__(self) -> None:
        self._seen = 0
        self._mean = 0.0
        self.rises = 0
        self._latest: deque[float] = deque(maxlen=LATEST)
        self._mean_before = 0.0
        self.deviation = 0.0

    def is_spike(self, loss: float) -> bool:
        """Judge one finite loss, then let it take part in the averages."""
        if loss - loss != 0.0:  # NaN or infinite; cheaper than a call
            return False
        self._seen += 1
        self._latest.append(loss)
        if self._seen == 1:
            self._mean = loss
            return False
        # Conditions in place of abs, min and max, which are calls: every step's loss comes through here.
        mean = self._mean
        size = mean if mean >= 0.0 else -mean
        rise, least = _DEVIATIONS * self.deviation, _LEAST_RISE * size
        if rise < least:
            rise = least
        limit = mean + rise
        warm = self._seen > WARM_UP_LOSSES
        taken = loss
        if warm and loss > mean + _MOST_TAKEN * (limit - mean):
            taken = mean + _MOST_TAKEN * (limit - mean)
        weight = 1.0 / self._seen
        if weight < _WEIGHT:
            weight = _WEIGHT
        moved = taken - mean
        self.deviation += weight * ((moved if moved >= 0.0 else -moved) - self.deviation)
        self._mean += weight * moved
        if not self._seen % STRETCH:
            self._look_back()
        return warm and loss > limit

    @property
    def latest_mean(self) -> float:
        """The mean of the last 32 finite losses; 0 before the first."""
        return math.fsum(self._latest) / len(self._latest) if self._latest else 0.0

    def _look_back(self) -> None:
        rose = self._mean - self._mean_before > _RISE_DEVIATIONS * self.deviation
        self.rises = self.rises + 1 if rose and self._seen > STRETCH else 0
        self._mean_before = self._mean

"""What could be known of the fraud handbook's payments: posteriors by the simulator's own rules, labels late.

The rules are those of the book's data generator, chapter 3, read off the data's scenario column; no model may see
either. A payment is fraud when

1. its amount is over 220; or
2. its terminal is compromised: two of 10,000 terminals a day, each for 28 days, all of its payments; or
3. its card's credentials are stolen: three of 5,000 customers a day, each for 14 days, a third of the payments, five
   times the amount. Amounts are normal with the customer's own mean, a deviation of half of it, and uniform up to twice
   the mean where that would be negative.

The oracle knows these rules, every customer's true mean, all amounts up to the payment, and of each payment older than
the delay whether and by which rule it was fraud. What it does not know is what nobody can know. Its terminals may have
been compromised up to twice in 84 days.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numba import njit
from numpy.typing import NDArray

from weir.models.types import BoolVector, FloatVector, IntVector

DAY_S = 86_400.0
LIMIT = 220.0
TERMINALS_A_DAY, TERMINAL_DAYS, LOOK_BACK_DAYS = 2 / 10_000, 28, 84
CARDS_A_DAY, CARD_DAYS, STOLEN_SHARE, STOLEN_FACTOR = 3 / 5_000, 14, 1 / 3, 5.0
_REFUTED = -30.0
"""Log-likelihood of a good payment at a compromised terminal."""


@dataclass(frozen=True)
class Payments:
    """All payments in order of time."""

    id: IntVector
    ts: FloatVector
    day: IntVector
    amount: FloatVector
    card: IntVector
    terminal: IntVector
    fraud: BoolVector
    rule: IntVector

    @classmethod
    def read(cls, path: Path) -> Payments:
        """From the file of the shared folder."""
        table = pq.read_table(path).sort_by("TRANSACTION_ID")

        def column(name: str) -> NDArray[Any]:
            return np.asarray(table[name].to_numpy())

        ints = {
            key: column(name).astype(np.int64)
            for key, name in (("id", "TRANSACTION_ID"), ("day", "TX_TIME_DAYS"), ("card", "CUSTOMER_ID"),
                              ("terminal", "TERMINAL_ID"), ("rule", "TX_FRAUD_SCENARIO"))
        }  # fmt: skip
        return cls(
            ts=column("TX_TIME_SECONDS").astype(np.float64), amount=column("TX_AMOUNT").astype(np.float64),
            fraud=column("TX_FRAUD") == 1, **ints,
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.id)

    def means(self) -> FloatVector:
        """``(n,)`` the mean of each payment's customer, from the whole file, stolen amounts put right."""
        own = np.where(self.rule == 3, self.amount / STOLEN_FACTOR, self.amount)
        total, count = np.bincount(self.card, own), np.bincount(self.card)
        mean: FloatVector = (total / np.maximum(count, 1))[self.card]
        return mean


@dataclass(frozen=True)
class _Chain:
    """Payments of one key after another: rows in ``order``, its inverse ``place``, where a key begins ``first``."""

    order: IntVector
    place: IntVector
    first: IntVector

    @classmethod
    def of(cls, key: IntVector) -> _Chain:
        order = np.argsort(key, kind="stable")
        place = np.empty(len(key), dtype=np.int64)
        place[order] = np.arange(len(key))
        starts = np.searchsorted(key[order], key)
        return cls(order, place, starts.astype(np.int64))


def _density(amount: float, mean: float) -> float:
    """Of an amount, by the generator's rule."""
    z = (amount - mean) / (0.5 * mean)
    near = math.exp(-0.5 * z * z) / (0.5 * mean * 2.5066)
    return near + (0.02275 / (2 * mean) if amount < 2 * mean else 0.0) + 1e-12


def _cards(
    rows: IntVector, order: IntVector, place: IntVector, first: IntVector, ts: FloatVector, day: IntVector,
    amount: FloatVector, rule: IntVector, mean: FloatVector, delay: float, out: FloatVector,
) -> None:  # fmt: skip
    """P(this payment is by a thief), over the 14 days on which the credentials may have been stolen."""
    gain = np.zeros(CARD_DAYS)
    for q in range(rows.size):
        r = rows[q]
        m, today = mean[r], day[r]
        gain[:] = 0.0
        k = place[r] - 1
        while k >= first[r] and day[order[k]] > today - CARD_DAYS:
            j = order[k]
            ratio = density(amount[j] / STOLEN_FACTOR, m) / STOLEN_FACTOR / density(amount[j], m)
            if ts[j] > ts[r] - delay or rule[j] == 2:
                value = math.log(1 - STOLEN_SHARE + STOLEN_SHARE * ratio)
            elif rule[j] == 3:
                value = math.log(STOLEN_SHARE) + math.log(max(ratio, 1e-9)) + 12.0
            else:
                value = math.log(1 - STOLEN_SHARE)
            for s in range(CARD_DAYS):
                if today - CARD_DAYS + 1 + s <= day[j]:
                    gain[s] += value
            k -= 1
        ratio = density(amount[r] / STOLEN_FACTOR, m) / STOLEN_FACTOR / density(amount[r], m)
        hit, all_ = 0.0, 1.0
        for s in range(CARD_DAYS):
            w = CARDS_A_DAY * math.exp(min(gain[s], 40.0))
            hit += w * STOLEN_SHARE * ratio
            all_ += w * (1 - STOLEN_SHARE + STOLEN_SHARE * ratio)
        out[q] = hit / all_


def _terminals(
    rows: IntVector, order: IntVector, place: IntVector, first: IntVector, ts: FloatVector, day: IntVector,
    rule: IntVector, fraud: BoolVector, delay: float, out: FloatVector,
) -> None:  # fmt: skip
    """P(the terminal is compromised at this payment): over one or two starts within the days looked back."""
    n, prior = LOOK_BACK_DAYS, math.log(TERMINALS_A_DAY)
    odd, good = np.zeros(n + 1), np.zeros(n + 1)  # cumulated log-likelihood: unexplained frauds, good payments
    for q in range(rows.size):
        r = rows[q]
        begin = day[r] - n + 1
        odd[:], good[:] = 0.0, 0.0
        seen = False
        k = place[r] - 1
        while k >= first[r] and day[order[k]] >= begin:
            j = order[k]
            if ts[j] <= ts[r] - delay:
                if rule[j] == 2:
                    odd[day[j] - begin + 1] += -9.2
                    seen = True
                if not fraud[j]:
                    good[day[j] - begin + 1] += _REFUTED
            k -= 1
        for i in range(n):
            odd[i + 1] += odd[i]
            good[i + 1] += good[i]
        best = odd[n]
        for scaled in range(2):  # first the largest term, then sums relative to it
            hit, all_ = 0.0, math.exp(odd[n] - best)
            for i in range(n):
                e = min(i + TERMINAL_DAYS, n)
                w = prior + odd[n] - (odd[e] - odd[i]) + good[e] - good[i]
                if scaled == 0:
                    best = max(best, w)
                else:
                    all_ += math.exp(w - best)
                    hit += math.exp(w - best) if i > n - TERMINAL_DAYS - 1 else 0.0
                for i2 in range(i + 1, n if seen else 0):
                    e2 = min(i2 + TERMINAL_DAYS, n)
                    a2 = max(i2, e)
                    if a2 >= e2:
                        continue
                    w2 = w + prior - (odd[e2] - odd[a2]) + good[e2] - good[a2]
                    if scaled == 0:
                        best = max(best, w2)
                    else:
                        all_ += math.exp(w2 - best)
                        hit += math.exp(w2 - best) if i2 > n - TERMINAL_DAYS - 1 else 0.0
        out[q] = hit / all_


# Compiled by call: numba's decorator is untyped.
density: Any = njit(_density)
cards: Any = njit(_cards)
terminals: Any = njit(_terminals)


@dataclass(frozen=True)
class Posterior:
    """Of ``rows`` of the payments."""

    card: FloatVector
    terminal: FloatVector
    over: BoolVector

    def fraud(self) -> FloatVector:
        """P(fraud by any rule)."""
        p: FloatVector = 1 - (1 - self.card) * (1 - self.terminal) * (1 - self.over)
        return p


def posterior(p: Payments, rows: IntVector, delay_s: float) -> Posterior:
    """What is known of ``rows`` when labels are ``delay_s`` late."""
    by_card, by_terminal = _Chain.of(p.card), _Chain.of(p.terminal)
    card, terminal = np.zeros(len(rows)), np.zeros(len(rows))
    cards(rows, by_card.order, by_card.place, by_card.first, p.ts, p.day, p.amount, p.rule, p.means(), delay_s, card)
    chain = (by_terminal.order, by_terminal.place, by_terminal.first)
    terminals(rows, *chain, p.ts, p.day, p.rule, p.fraud, delay_s, terminal)
    return Posterior(card, terminal, p.amount[rows] > LIMIT)


def ceilings(
    path: Path, days: Sequence[tuple[int, int]], delays: Sequence[int] = (7, 4, 2, 1, 0)
) -> dict[str, FloatVector]:
    """Scores by name of the payments on ``days`` (first, last + 1), with their ``event_id``: what a model could reach.

    Beside the oracle at each delay, in days: what would be left to gain were all that one rule hides known.
    """
    p = Payments.read(path)
    rows = np.flatnonzero(np.any([(p.day >= a) & (p.day < b) for a, b in days], axis=0))
    out = {"event_id": p.id[rows].astype(np.float64)}
    for delay in delays:
        known = posterior(p, rows, delay * DAY_S)
        out[f"oracle, labels {delay} d late"] = known.fraud()
        if delay == delays[0]:
            all_cards = Posterior((p.rule[rows] == 3) * 1.0, known.terminal, known.over)
            all_terminals = Posterior(known.card, (p.rule[rows] == 2) * 1.0, known.over)
            out["  and every stolen card"], out["  and every terminal"] = all_cards.fraud(), all_terminals.fraud()
            _tell(p, rows, known)
    return out


def _tell(p: Payments, rows: IntVector, known: Posterior) -> None:
    """Where the frauds are, by what is known of them; known cards are not left out here."""
    rule = p.rule[rows]
    print(f"{int(p.fraud[rows].sum()):,} frauds of {len(rows):,} payments, by what the oracle can know of them:")
    parts = {
        "amount over 220": rule == 1,
        "terminal, probably known (> .5)": (rule == 2) & (known.terminal > 0.5),
        "terminal, suspected (.02 to .5)": (rule == 2) & (known.terminal > 0.02) & (known.terminal <= 0.5),
        "terminal, not to be known yet": (rule == 2) & (known.terminal <= 0.02),
        "stolen card, probably known (> .5)": (rule == 3) & (known.card > 0.5),
        "stolen card, suspected (.1 to .5)": (rule == 3) & (known.card > 0.1) & (known.card <= 0.5),
        "stolen card, spends ordinary sums": (rule == 3) & (known.card <= 0.1),
    }
    for name, part in parts.items():
        print(f"  {name:<36}{np.count_nonzero(part) / np.count_nonzero(p.fraud[rows]):>7.1%}")

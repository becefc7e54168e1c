"""Whose turn it is: clients share the machine's time, each client's requests its share, a request's rows theirs.

Fair queuing in virtual time, in two levels. A row's step is charged what it would cost its client, and at the lower level its
request, if that had the machine alone: its tokens, and its part of a pass's fixed cost among the rows that it could have put
into such a pass. So nobody gets less than by taking turns with the others, whatever those bring, and nobody's passes become
small because others have few rows.

A tick belongs to the request that has had least of the client that has had least. Others join its forward pass in that order
as long as they are not ahead of anybody who waits, in whatever line; the one whose tick it is may go on until most of the pass
is paid for, that is until the charges cover `ENOUGH` of its cost. What they do not cover is charged to it, too, so that no
second of the machine goes unpaid, and charges add up to time.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator

from .order import Order
from .standing import Client, Line, Queue, Share

ENOUGH = 0.8
"""Of a pass's cost, while others wait: the last fifth would take most of the rows, and of the time that these wait."""


class Pass:
    """A forward pass that is being put together: its rows, and what was charged for them at either level.

    slack: nobody is called ahead of others by less.
    """

    def __init__(self, leader: Share, slack: float) -> None:
        self.leader, self.line, self.slack = leader, leader.line, slack
        self.rows = self.width = 0
        self.by_clients = self.by_requests = 0.0
        self.taken: dict[Share, None] = {}

    def room(self, length: int) -> int:
        """Rows of this length that still fit."""
        fit = self.line.max_tokens // max(self.width, length) - self.rows
        return fit if self.rows else max(1, fit)

    @property
    def cost(self) -> float:
        return self.line.cost.of(self.rows * self.width)

    def add(self, share: Share, number: int) -> None:
        """So many more rows of `share`, charged to it and to its client."""
        cost, takes, client = self.line.cost, self.line.takes(share.length), share.client
        tokens = cost.token * share.length
        by_client = number * (tokens + cost.fixed / min(takes, client.queues[self.line].rows))
        by_request = number * (tokens + cost.fixed / min(takes, share.rows))
        client.v += by_client / client.weight
        share.v += by_request
        share.taken += number
        self.rows += number
        if share.length > self.width:
            self.width = share.length
        self.by_clients += by_client
        self.by_requests += by_request
        self.taken[share] = None

    @property
    def paid_by_clients(self) -> bool:
        return self.by_clients >= self.cost * ENOUGH

    @property
    def paid_by_requests(self) -> bool:
        return self.by_requests >= self.cost * ENOUGH


class Shares:
    """The clients of one thread that steps the lines of one or several batches in turn.

    A newcomer starts with the least that anybody has had who is there: it has its turn at once, and no credit for the time
    before. Who leaves ahead of others is remembered until these have caught up. Who was never stepped goes first every second
    tick, as long as its client is not two whole passes ahead: whoever comes alone sees a first step after three ticks at the
    latest (of newcomers in k lines the last one after 2 k + 1), and a stream of short requests cannot keep a long one waiting.
    """

    def __init__(self) -> None:
        self._clients: dict[Hashable, Client] = {}
        self._order: Order[Client] = Order()
        self._gone: dict[Hashable, float] = {}
        self._new: dict[Client, None] = {}
        self._clock = 0.0
        self._new_went_first = False

    def join(
        self, line: Line, rows: int, length: int, left: float, client: Hashable = None, weight: float = 1.0
    ) -> Share:
        """A request of `client` stands in `line` from now on."""
        self._tell_time()
        who = self._clients.get(client)
        if who is None:
            who = Client(client, weight, max(self._clock, self._gone.pop(client, 0.0)), rows)
            self._clients[client] = who
            self._order.push(who)
        else:
            who.rows += rows
        who.weight = weight
        least = who.least()
        share = Share(who, line, length, rows, left, 0.0 if least == math.inf else least)
        queue = who.queues.get(line)
        if queue is None:
            queue = who.queues[line] = Queue(who, rows)
            line.queues.push(queue)
        else:
            queue.rows += rows
        queue.shares.push(share)
        who.new[share] = None
        self._new[who] = None
        return share

    def leave(self, share: Share, rows: int | None = None) -> None:
        """So many rows of a request have finished, or all that it has."""
        client, queue = share.client, share.client.queues[share.line]
        rows = share.rows if rows is None else rows
        for each in (share, queue, client):
            each.rows -= rows
        if not share.rows:
            self._not_new(share)
        if not queue.rows:
            del client.queues[share.line]
        if not client.rows:
            del self._clients[client.key]
            self._remember(client)

    def turn(self) -> Share | None:
        """The request whose tick it is; None if there is none."""
        self._tell_time()
        first = self._order.first()
        if first is None:
            return None
        newcomer = None if self._new_went_first else self._newcomer()
        share = newcomer or first.first()
        self._new_went_first = share.is_new
        return share

    def choose(self, leader: Share, everyone: bool = False) -> list[tuple[Share, int]]:
        """The tick of `leader`: requests of its line and how many rows of each, all of them charged.

        everyone: whatever fits, whoever is ahead of whom.
        """
        line = leader.line
        tick = Pass(leader, math.inf if everyone else line.cost.of(leader.length))
        tick.add(leader, 1)
        done: list[Queue] = []
        while tick.room(1) > 0 and (queue := line.queues.pop()) is not None:
            again = self._serve(tick, queue)
            if again:
                line.queues.push(queue)
                continue
            done.append(queue)
            if again is None:
                break
        for queue in done:
            line.queues.push(queue)
        leader.client.v += max(0.0, tick.cost - tick.by_clients) / leader.client.weight
        leader.v += max(0.0, tick.cost - tick.by_requests)
        return list(self._settled(tick))

    def _serve(self, tick: Pass, queue: Queue) -> bool | None:
        """Rows of the client that has had least join the pass.

        Returns:
            True if it has more, but others come before it; None if nobody may join any more.
        """
        client, slack = queue.client, tick.slack
        others, coming = self._order.least(but=client) + slack, tick.line.queues.least() + slack
        served, before, leads = client.least(but=queue), tick.rows, client is tick.leader.client
        done: list[Share] = []
        while tick.room(1) > 0 and (share := queue.shares.pop()) is not None:
            done.append(share)
            following = queue.shares.least()
            least = min(served, following) + slack
            free = min(share.rows - share.taken, tick.room(share.length))
            if others == least == math.inf and free > 0:
                tick.add(share, free)
                free = 0
            first = tick.rows
            while free > 0:
                if client.v > others and (not leads or client.v > coming or tick.paid_by_clients):
                    queue.shares.push_all(done)
                    if tick.rows > before:
                        return True
                    return None if leads or tick.paid_by_clients else False
                if share.v > least and (
                    share is not tick.leader or share.v > following + slack or tick.paid_by_requests
                ):
                    break
                tick.add(share, 1)
                free -= 1
            if free > 0 and tick.rows == first:
                if not leads or share is tick.leader or tick.paid_by_requests:
                    break  # all that follow are ahead, too
            elif free > 0:  # others of this client come before it
                queue.shares.push(done.pop())
            else:
                served = min(served, share.v)
        queue.shares.push_all(done)
        return False

    def _settled(self, tick: Pass) -> Iterator[tuple[Share, int]]:
        for share in tick.taken:
            yield share, share.taken
            share.taken = 0
            if share.is_new:
                self._not_new(share)
            share.client.is_new = False

    def _newcomer(self) -> Share | None:
        """The first newcomer of the client that has had least of those that have any, unless that is two passes ahead."""
        best = min(self._new, key=lambda client: client.v, default=None)
        if best is None:
            return None
        share = next(iter(best.new))
        lead = (best.v - self._clock) * best.weight
        return share if lead <= 2 * share.line.cost.of(share.line.max_tokens) else None

    def _not_new(self, share: Share) -> None:
        client, share.is_new = share.client, False
        client.new.pop(share, None)
        if not client.new:
            self._new.pop(client, None)

    def _remember(self, client: Client) -> None:
        self._tell_time()
        if not self._clients:
            self._gone.clear()
        elif client.v > self._clock:
            self._gone[client.key] = client.v
            if len(self._gone) > 64 + 2 * len(self._clients):
                self._gone = {key: v for key, v in self._gone.items() if v > self._clock}

    def _tell_time(self) -> None:
        """The least that anybody has had who is there."""
        least = self._order.least()
        if least < math.inf:
            self._clock = max(self._clock, least)

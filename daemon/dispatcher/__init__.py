"""From the log to the callbacks, once each.

    lane         one callback's deliveries: a machine without I/O
    sending      one attempt: headers, signatures, and what an answer means
    dispatcher   tails the log, feeds the lanes, writes down what became of it

A crash is settled at the next start, before anything else is sent: what may have been sent and has no outcome
is written down as doubtful, and when it is sent again it carries the same id, the same bytes and a header that
says it may be a repeat.
"""

from daemon.dispatcher.dispatcher import Delivery, Dispatcher

__all__ = ["Delivery", "Dispatcher"]

"""From the log to the callbacks, once each.

    items       what is handled, and the rules for it
    lane        one callback's deliveries: a machine without I/O, with its order, gate, questions and foresight
    lanes       all of them
    roster      makes them what the callbacks in the database are
    wishes      … and what each wants of the operator's rules
    tail        gives them what is new in the log
    courier     sends what they have ready: crews, desk, handshake, sending
    inquirer    asks receivers about what is in doubt: receipts
    recorder    writes down what became of it
    dispatcher  puts these together

A crash is settled at the next start, before anything else is sent: what may have been sent and has no outcome
is written down as doubtful, and when it is sent again it carries the same id, the same bytes and a header that
says it may be a repeat.
"""

from daemon.dispatcher.dispatcher import Delivery, Dispatcher

__all__ = ["Delivery", "Dispatcher"]

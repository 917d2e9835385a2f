"""Reading providers for changes: one coroutine per instance.

pollers     which instances are polled, followed through the directory
poller      one instance: its resources in turn, page by page into the log
reading     what the configuration asks for, and what an answer holds
sweep       objects that are no more
hints       what webhooks spoke of
"""

from daemon.poller.poller import Polling
from daemon.poller.pollers import Pollers

__all__ = ["Pollers", "Polling"]

"""Client of a spotbridge: subscriptions that resume by themselves, and bodies of events.

Messages and stubs are in spotbridge.v1 (generated).
"""

from spotbridge.bridge import Bridge
from spotbridge.calls import Stopped
from spotbridge.subscription import Subscription, events_of

__all__ = ["Bridge", "Stopped", "Subscription", "events_of"]

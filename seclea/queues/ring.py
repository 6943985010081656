"""A ring: frames from one producer process to one consumer process, through one mapped file. See `layout`."""

from seclea.queues.consumer import Consumer
from seclea.queues.layout import Frame, RingDamaged
from seclea.queues.producer import PARKED, Producer

__all__ = ["PARKED", "Consumer", "Frame", "Producer", "RingDamaged"]

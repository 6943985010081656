"""A ring: frames from one producer process to one consumer process, through one mapped file.

Rule 1: every word of the header has one writer. HEAD, HEAD_SEQUENCE, STATE and DROPPED belong to the producer; TAIL,
TAIL_SEQUENCE, SLEEP, PAUSED, BEAT and ATTACHED to the consumer, on a cache line of their own.
Rule 2: words are aligned, and written through ``memoryview.cast("Q")``, which is one machine store (``struct`` with
``>`` or ``!`` stores bytes, and tears).
Rule 3: a frame exists when HEAD has passed it *and* its length, sequence and checksum agree. The second half makes the
ring safe on CPUs that show stores out of order: a frame seen too early does not agree, and is looked at again later.
Rule 4: the producer never writes between TAIL and HEAD. The consumer moves TAIL only when what it read is safe; it
stores TAIL_SEQUENCE first, so that single store is the instant of the commit, and a kill between the two shows frames
again whose sequence is not above TAIL_SEQUENCE.
Rule 5: positions count bytes since the ring was made and never wrap; position modulo capacity is the place.

Frame: ``=IIQ``, word 0 = type << 24 | length, crc32 of the payload seeded with sequence + word 0, sequence; then the
payload, padded to 8 bytes. A frame never straddles the end: a frame of type 0 (or fewer than 16 bytes) fills the rest.
"""

from __future__ import annotations

import struct

from seclea.errors import SecleaError

MAGIC = b"SECLRING"
VERSION = 1
CRC32 = 1  # checksum kind; others (xxh3, hardware crc32c) may follow
HEADER_BYTES = 4096
SUFFIX = ".ring"

IDENTITY = struct.Struct("=8sIIQ16sQQ16s")  # magic, version, checksum, capacity, ring id, pid, start time, boot id
FRAME = struct.Struct("=IIQ")
FRAME_BYTES = FRAME.size
LENGTH_MASK = 0xFFFFFF
U32 = 0xFFFFFFFF
LARGEST_PAYLOAD = 1 << 20  # larger values belong in a segment or file of their own
PAGE = 4096  # capacities are whole pages
LARGEST_CAPACITY = 1 << 40  # anything above is damage, not a ring
LARGEST_SEQUENCE = 1 << 62  # likewise: 146 years of a million frames a second

# Indices of 8-byte words. The producer's cache line starts at byte 512, the consumer's at byte 1024.
HEAD, HEAD_SEQUENCE, STATE, DROPPED = 64, 65, 66, 67
TAIL, TAIL_SEQUENCE, SLEEP, PAUSED, BEAT, ATTACHED = 128, 129, 130, 131, 132, 133
OPEN, CLOSED, ENDING = 0, 1, 2  # ENDING: its process came to its end in order, and may still say something

Frame = tuple[int, int, bytes]  # type, sequence, payload


class RingDamaged(SecleaError):
    """The file is not a ring, or its header cannot be believed."""

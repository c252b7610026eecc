#!/usr/bin/env python3
"""A publisher and a subscriber on top of the aiomoqt library, one JSON object a line.

The publisher sends objects whose bytes follow from their location alone, so a subscriber knows what each must hold
without a word from the publisher. Knows the library's public calls only; what the lines mean for Weir is judged by the
test that started it.
"""

import argparse
import asyncio
import hashlib
import json
import os
import sys
from urllib.parse import urlsplit

from aiomoqt.client import MOQTClient
from aiomoqt.track import PublishedTrack, SubscribedTrack
from aiomoqt.types import MOQTException, MOQTRequestError
from aiomoqt.utils.logger import set_log_level

OBJECTS_PER_GROUP = 4
GROUP_SECONDS = 0.25
# One even and one odd application property; every draft carries both on an object.
PROPERTY_EVEN, PROPERTY_ODD = 0x3C, 0x3D
# A peer that is refused says so within this, or is stuck.
PATIENCE_S = 20


def say(**event):
    print(json.dumps(event), flush=True)


def payload(group: int, number: int) -> bytes:
    """Between 1 byte and some 40 kB, not compressible, and text in the first object of a group."""
    if number == 0:
        return f"group {group} begins äöü\n".encode()
    seed = hashlib.sha256(f"{group}/{number}".encode()).digest()
    size = 1 + int.from_bytes(seed[:4], "big") % 40_000
    return hashlib.shake_256(seed).digest(size)


def properties(group: int, number: int) -> dict:
    return {PROPERTY_EVEN: group * 1000 + number, PROPERTY_ODD: f"object {number}".encode()}


class Source(PublishedTrack):
    """Writes groups at a steady pace until it has written `groups` of them."""

    groups = 0

    async def produce(self, out):
        for group in range(self.groups):
            for number in range(OBJECTS_PER_GROUP):
                await out.write(group, number, payload(group, number), extensions=properties(group, number),
                                group_start=number == 0)
                await asyncio.sleep(GROUP_SECONDS / OBJECTS_PER_GROUP)
        say(event="written", groups=self.groups)


def client(url: str, draft: int) -> MOQTClient:
    """The address decides the transport; the query belongs to the path and holds the credentials."""
    parts = urlsplit(url)
    path = parts.path + (f"?{parts.query}" if parts.query else "")
    return MOQTClient(parts.hostname, parts.port, path=path, use_quic=parts.scheme == "moqt", verify_tls=False,
                      supported_drafts=draft)


async def first(wanted, closed: asyncio.Future):
    """Waits for `wanted`, but not longer than for the end of the session."""
    task = asyncio.ensure_future(wanted)
    await asyncio.wait({task, closed}, return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        task.result()


async def input_ends():
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(0, lambda: None if os.read(0, 4096) else ended.set())
    await ended.wait()
    loop.remove_reader(0)


async def publish(args, draft: int):
    async with client(args.url, draft).connect() as session:
        await session.client_session_init()
        track = Source(session, args.namespace, args.track, timestamps="loc")
        track.groups = args.groups
        by_namespace = args.flow == "namespace"
        closed = asyncio.ensure_future(session.async_closed())
        await first(track.publish(announce_namespace=by_namespace, publish_track=not by_namespace), closed)
        if not closed.done():
            say(event="published", draft=session.negotiated_draft)
            # Whoever started this closes its input when it has seen enough.
            await first(input_ends(), closed)
        if closed.done():
            raise MOQTException(*(session._close_err or (0, "")))


async def subscribe(args, draft: int):
    seen = asyncio.Event()
    objects = 0
    begun = set()

    def on_object(msg, _size, _at, group_id=None, subgroup_id=None):
        nonlocal objects
        group = msg.group_id if group_id is None else group_id
        body = bytes(msg.payload or b"")
        if not body and getattr(msg, "status", 0):
            return
        given = {int(key): value if isinstance(value, int) else bytes(value).decode("latin-1")
                 for key, value in (msg.extensions or {}).items()}
        wanted = {key: value if isinstance(value, int) else value.decode() for key, value in
                  properties(group, msg.object_id).items()}
        objects += 1
        begun.add(group)
        say(event="object", draft=draft, group=group, object=msg.object_id, bytes=len(body),
            same=body == payload(group, msg.object_id), properties=given == wanted)
        # The group under way when the last is reached may be cut off by us.
        if len(begun) > args.groups:
            seen.set()

    async with client(args.url, draft).connect() as session:
        await session.client_session_init()
        token = args.token.encode() if args.token else None
        track = SubscribedTrack(session, args.namespace, args.track, on_object=on_object, auth_token=token)
        track._quiet = True
        await track.subscribe(timeout=PATIENCE_S)
        say(event="subscribed", draft=session.negotiated_draft)
        ended = asyncio.ensure_future(track.wait_closed())
        await asyncio.wait({ended, asyncio.ensure_future(seen.wait())}, timeout=args.seconds,
                           return_when=asyncio.FIRST_COMPLETED)
        done = track.publish_done
        say(event="finished", draft=draft, objects=objects, groups=len(begun),
            done=None if done is None else int(done.status_code), closed=repr(getattr(session, "_close_err", None)))


async def guarded(role, args, draft: int) -> bool:
    try:
        await role(args, draft)
        return True
    except MOQTRequestError as error:
        say(event="refused", draft=draft, code=error.error_code, reason=error.reason)
    except MOQTException as error:
        say(event="closed", draft=draft, code=int(error.error_code), reason=error.reason_phrase)
    except Exception as error:  # noqa: BLE001 - whatever the library raises is the test's to judge
        say(event="failed", draft=draft, kind=type(error).__name__, reason=str(error))
    return False


async def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=["publish", "subscribe"])
    parser.add_argument("url")
    parser.add_argument("--draft", type=int, action="append", required=True)
    parser.add_argument("--namespace", required=True)
    parser.add_argument("--track", required=True)
    parser.add_argument("--token")
    parser.add_argument("--flow", choices=["track", "namespace"], default="track")
    parser.add_argument("--groups", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--debug", action="store_true")
    args = parser.parse_args()
    set_log_level("DEBUG" if args.debug else "ERROR")
    role = {"publish": publish, "subscribe": subscribe}[args.role]
    well = await asyncio.gather(*(guarded(role, args, draft) for draft in args.draft))
    return 0 if all(well) else 3


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))

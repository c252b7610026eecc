// Puts the objects of one track in order: those of the joining FETCH and those of the live streams, which arrive on
// different QUIC streams and overtake each other. Owns the decision when a group is given up for a newer one; knows
// neither media nor clocks beyond the `now` it is told.

export interface Piece {
  group: number;
  object: number;
  payload: Uint8Array;
  /** The first object handed out of its group: decoding can start here. */
  opens: boolean;
}

interface Group {
  objects: Map<number, Uint8Array>;
  bytes: number;
  /** Object ids from here on do not exist. */
  end: number | null;
  /** No stream will bring more of it. */
  closed: boolean;
  touched: number;
}

export interface MergeCounters {
  groupsReceived: number;
  groupsSkipped: number;
  objects: number;
  /** Objects that came too late or twice. */
  stale: number;
  firstGroup: number | null;
  firstObject: number | null;
  lastGroup: number | null;
  lastObject: number | null;
}

/** Objects waiting for their turn: two seconds of 32 Mb/s. Past it, older groups are given up. */
const WAITING_BYTES_MAX = 8 * 1024 * 1024;
/** Groups kept at once. */
const GROUPS_MAX = 16;

export class Merge {
  readonly counters: MergeCounters = {
    groupsReceived: 0,
    groupsSkipped: 0,
    objects: 0,
    stale: 0,
    firstGroup: null,
    firstObject: null,
    lastGroup: null,
    lastObject: null,
  };
  #groups = new Map<number, Group>();
  #current: number | null = null;
  #next = 0;
  #bytes = 0;
  /** The joining FETCH may still bring the beginning of a group. */
  #fetching = true;

  /**
   * The subscription begins behind `largest`: the FETCH will bring that group from its start. Unless we stopped in the
   * middle of the very same one, the new session starts like a first one.
   */
  join(largest: { group: number; object: number } | null): void {
    if (largest?.group !== this.#current) this.#current = null;
  }

  push(group: number, object: number, payload: Uint8Array, now: number): void {
    const late = this.#current !== null && (group < this.#current || (group === this.#current && object < this.#next));
    const entry = late ? null : this.#group(group, now);
    if (!entry || entry.objects.has(object)) {
      this.counters.stale += 1;
      return;
    }
    entry.objects.set(object, payload);
    entry.bytes += payload.length;
    entry.touched = now;
    this.#bytes += payload.length;
    this.#limit();
  }

  /** No object of this group has an id of `end` or above; null = those that came are all. */
  endGroup(group: number, end: number | null, now: number): void {
    if (this.#current !== null && group < this.#current) return;
    const entry = this.#group(group, now);
    entry.closed = true;
    const received = Math.max(-1, ...entry.objects.keys());
    entry.end = end ?? Math.max(received + 1, group === this.#current ? this.#next : 0);
  }

  /** The rest of this group was given up by the relay. */
  loseGroup(group: number, now: number): void {
    if (this.#current !== null && group < this.#current) return;
    this.#group(group, now).closed = true;
  }

  /** Everything up to `end` is missing from a FETCH. What does not exist is stepped over. */
  gap(end: { group: number; object: number }, exists: boolean): void {
    if (exists || this.#current === null || end.group !== this.#current) return;
    if (Number.isFinite(end.object) && end.object >= this.#next) this.#next = end.object + 1;
  }

  beginFetch(): void {
    this.#fetching = true;
  }

  endFetch(): void {
    this.#fetching = false;
  }

  /** Hands out what is in order now. `patience` is how long a stalled group may hold up a newer one. */
  *poll(now: number, patience: number): Generator<Piece> {
    for (;;) {
      const entry = this.#current === null ? undefined : this.#groups.get(this.#current);
      const payload = entry?.objects.get(this.#next);
      if (entry && payload && this.#current !== null) {
        const opens = this.#next === 0;
        const piece = { group: this.#current, object: this.#next, payload, opens };
        entry.objects.delete(this.#next);
        entry.bytes -= payload.length;
        entry.touched = now;
        this.#bytes -= payload.length;
        this.#next += 1;
        this.#count(piece);
        yield piece;
        continue;
      }
      if (!this.#advance(entry, now, patience)) return;
    }
  }

  /** Moves on to the next group that can be started, if it is time. */
  #advance(entry: Group | undefined, now: number, patience: number): boolean {
    const startable = [...this.#groups]
      .filter(([id, group]) => (this.#current === null || id > this.#current) && group.objects.has(0))
      .map(([id]) => id)
      .sort((left, right) => left - right);
    const [oldest] = startable;
    if (oldest === undefined) return false;
    if (this.#current === null) {
      // Nothing shown yet: the newest group is where a viewer starts.
      this.#enter(startable.at(-1) ?? oldest);
      return true;
    }
    const complete = entry?.end != null && this.#next >= entry.end;
    const given = entry ? entry.closed && !(this.#fetching && entry.objects.size > 0) : !this.#fetching;
    const started = Math.max(entry?.touched ?? 0, this.#groups.get(oldest)?.touched ?? 0);
    const stalled = now - (entry ? entry.touched : started) >= patience && now - this.#since(oldest) >= patience;
    if (!complete && !given && !stalled) return false;
    // A group in between has been announced: its beginning may be only a lost packet away.
    const between = [...this.#groups.keys()].some((id) => id > (this.#current ?? 0) && id < oldest);
    if (complete && between && now - this.#since(oldest) < patience) return false;
    if (!complete && entry) this.counters.groupsSkipped += 1;
    // Behind a stall, one group may be as late as the next: take the newest that has begun.
    this.#enter(complete ? oldest : (startable.at(-1) ?? oldest));
    return true;
  }

  #seen = new Map<number, number>();

  /** When a group was first heard of. */
  #since(group: number): number {
    return this.#seen.get(group) ?? 0;
  }

  #enter(group: number): void {
    for (const [id, entry] of this.#groups) {
      if (id >= group) continue;
      if (id !== this.#current && this.#current !== null) this.counters.groupsSkipped += 1;
      this.#bytes -= entry.bytes;
      this.#groups.delete(id);
      this.#seen.delete(id);
    }
    this.#current = group;
    this.#next = 0;
  }

  #group(id: number, now: number): Group {
    let entry = this.#groups.get(id);
    if (!entry) {
      entry = { objects: new Map(), bytes: 0, end: null, closed: false, touched: now };
      this.#groups.set(id, entry);
      this.#seen.set(id, now);
    }
    return entry;
  }

  #limit(): void {
    while (this.#bytes > WAITING_BYTES_MAX || this.#groups.size > GROUPS_MAX) {
      const ids = [...this.#groups.keys()].sort((left, right) => left - right);
      const oldest = ids.find((id) => id !== this.#current) ?? ids[0];
      const entry = oldest === undefined ? undefined : this.#groups.get(oldest);
      if (oldest === undefined || !entry) return;
      this.#bytes -= entry.bytes;
      this.#groups.delete(oldest);
      this.#seen.delete(oldest);
      this.counters.groupsSkipped += 1;
    }
  }

  #count(piece: Piece): void {
    const { counters } = this;
    counters.objects += 1;
    if (piece.opens) counters.groupsReceived += 1;
    if (counters.firstGroup === null) {
      counters.firstGroup = piece.group;
      counters.firstObject = piece.object;
    }
    counters.lastGroup = piece.group;
    counters.lastObject = piece.object;
  }
}

import type { ObjectType, ProcessConfig } from '@tributary/config';
import { among, type Duck } from '@tributary/duckdb';
import { appendEvents, appendObjects, type ProcessEvent } from '../state.ts';
import type { Ticks } from '../ticks.ts';
import type { Happening, Life } from './life.ts';
import { joins } from './settle.ts';

/** Where and when something happened. */
export interface Occasion {
  readonly lsn: bigint;
  readonly ordinal: number;
  readonly part: number;
  readonly atUs: number;
}

interface Entry {
  /** Null: no object has this key. */
  life: Life | null;
  case: string | null;
  /** As it is stored; null = it is not. */
  readonly stored: { readonly life: Life; readonly case: string | null } | null;
  moved: boolean;
  dirty: boolean;
}

/** What was written. */
interface Flushed {
  /** The new events; null = they are still to be settled or joined, or others changed with them: then they are to be read. */
  readonly events: readonly ProcessEvent[] | null;
  /** Cases stand in `_recast`. */
  readonly recast: boolean;
}

interface Pending {
  readonly type: ObjectType;
  key: string;
  readonly happening: Happening;
  readonly occasion: Occasion;
  readonly tick: number;
}

/**
 * The objects of one source that a group touches, read once and written back together; and their new events.
 *
 * An object whose key changes stays the same object: its events, object and links go on under the new key. The case of an
 * object follows from its links as they are now. Where that needs nothing but its own links it is computed here; every other
 * key is noted in `_dirty`, for {@link settleCases}.
 */
export class Lives {
  readonly #duck: Duck;
  readonly #process: ProcessConfig;
  readonly #source: string;
  readonly #ticks: Ticks;
  readonly #entries = new Map<string, Map<string, Entry>>();
  /** Stored events: their key → the one they have now, by type. */
  readonly #moves = new Map<string, Map<string, string>>();
  #events: Pending[] = [];
  /** Of {@link joinTransactions}: keys and links as they are at the event. */
  #parts: { tick: number; lsn: bigint; object: string; key: string; kind: string; after: string | null }[] = [];
  #ties: { tick: number; parent: string; key: string }[] = [];

  constructor(duck: Duck, { process, source, ticks }: { process: ProcessConfig; source: string; ticks: Ticks }) {
    this.#duck = duck;
    this.#process = process;
    this.#source = source;
    this.#ticks = ticks;
  }

  /** Reads what is not known yet of these keys. */
  async load(type: ObjectType, keys: Iterable<string>): Promise<void> {
    const known = this.#of(type.name);
    const missing = [...new Set(keys)].filter((key) => !known.has(key));
    if (missing.length === 0) return;
    const { each, value } = among(missing, 2);
    for (const key of missing) known.set(key, { life: null, case: null, stored: null, moved: false, dirty: false });
    const found = await this.#duck.columns(
      `SELECT key, state, parents, "case", reached, born, alive, named FROM object WHERE object = $1 AND key IN (SELECT ${each})`,
      [type.name, value],
    );
    const { parents, state, case: cases, reached, born, alive, named } = found as unknown as StoredLives;
    for (const [i, key] of (found['key'] as readonly string[]).entries()) {
      const life: Life = {
        state: state[i] ?? null,
        links: linksOf(type, parents[i] ?? null),
        reached: reached[i] ? (JSON.parse(reached[i]) as string[]) : [],
        born: born[i] === true,
        alive: alive[i] === true,
        named: Number(named[i]),
      };
      const stored = { life, case: cases[i] ?? null };
      known.set(key, { life, case: stored.case, stored, moved: false, dirty: false });
    }
  }

  /** What is known of a key that was loaded. */
  get(type: ObjectType, key: string): Life | null {
    return this.#entry(type.name, key).life;
  }

  put(type: ObjectType, key: string, life: Life | null): void {
    const entry = this.#entry(type.name, key);
    entry.life = life;
    entry.dirty = true;
  }

  /** The object of one key goes on under another one; both were loaded. */
  move(type: ObjectType, from: string, to: string): void {
    const [before, after] = [this.#entry(type.name, from), this.#entry(type.name, to)];
    Object.assign(after, { life: before.life, case: before.case, moved: true, dirty: true });
    Object.assign(before, { life: null, case: null, moved: true, dirty: true });
    for (const event of this.#events) if (event.type === type && event.key === from) event.key = to;
    const moves = this.#moves.get(type.name) ?? new Map<string, string>();
    this.#moves.set(type.name, moves);
    for (const [stored, now] of moves) if (now === from) moves.set(stored, to);
    if (!moves.has(from)) moves.set(from, to);
  }

  happened(type: ObjectType, key: string, { happening, occasion }: { happening: Happening; occasion: Occasion }): void {
    const tick = this.#ticks.next(occasion.atUs);
    if (joins(this.#process, type.name)) {
      const { kind, after } = happening;
      const links = this.get(type, key)?.links ?? [];
      this.#parts.push({ tick, lsn: occasion.lsn, object: type.name, key, kind, after });
      type.of.forEach(({ parent }, i) => {
        const link = links[i] ?? null;
        if (link !== null) this.#ties.push({ tick, parent, key: link });
      });
    }
    this.#events.push({ type, key, happening, occasion, tick });
  }

  /** Writes everything, and knows nothing any more. */
  async flush(): Promise<Flushed> {
    let final = this.#moves.size === 0 && this.#parts.length === 0;
    let recast = false;
    for (const [type, moves] of this.#moves) await this.#moveEvents(type, moves);
    for (const type of this.#process.objects) {
      const dirty = [...this.#of(type.name)].filter(([, { dirty: changed }]) => changed);
      if (dirty.length === 0) continue;
      const written = await this.#write(type, dirty);
      final &&= written.final;
      recast ||= written.recast;
    }
    // Written out: copying objects by "..." took a tenth of the time of all judging.
    const events = this.#events.map(
      ({ type, key, happening, occasion, tick }): ProcessEvent => ({
        case: this.#of(type.name).get(key)?.case ?? null,
        activity: happening.activity,
        atUs: occasion.atUs,
        tick,
        source: this.#source,
        lsn: occasion.lsn,
        ordinal: occasion.ordinal,
        part: occasion.part,
        object: type.name,
        key,
        kind: happening.kind,
        before: happening.before,
        after: happening.after,
        attributes: null,
      }),
    );
    await appendEvents(this.#duck, events);
    await this.#noteParts();
    this.#entries.clear();
    this.#moves.clear();
    this.#events = [];
    return { events: final ? events : null, recast };
  }

  /** @returns `final`: all of them have their case, and had it before */
  async #write(
    type: ObjectType,
    dirty: readonly (readonly [string, Entry])[],
  ): Promise<{ readonly final: boolean; readonly recast: boolean }> {
    const unsettled = dirty.filter(([key, entry]) => this.#settle(type, key, entry)).map(([key]) => key);
    const stored = dirty.filter((one) => one[1].stored);
    await this.#remove('object', type, stored);
    const there = dirty.flatMap(([key, { life, case: own }]) => (life ? [{ key, life, own }] : []));
    await appendObjects(
      this.#duck,
      there.map(({ key, life, own }) => ({
        object: type.name,
        key,
        source: this.#source,
        state: life.state,
        parents: parentsText(type, life),
        case: own,
        attributes: null,
        reached: life.reached.length > 0 ? JSON.stringify(life.reached) : null,
        born: life.born,
        alive: life.alive,
        named: life.named,
      })),
    );
    const relinked = type.of.length === 0 ? [] : dirty.filter(([, entry]) => linksChanged(entry));
    await this.#remove(
      'link',
      type,
      relinked.filter((one) => one[1].stored),
    );
    const links = relinked.flatMap(([key, { life }]) =>
      type.of.flatMap(({ parent }, i) => {
        const link = life?.links[i] ?? null;
        return link === null ? [] : [{ key, parent, link }];
      }),
    );
    await this.#duck.append('link', LINK_COLUMNS, {
      object: links.map(() => type.name),
      key: links.map(({ key }) => key),
      parent: links.map(({ parent }) => parent),
      parent_key: links.map(({ link }) => link),
    });
    await this.#duck.append('_dirty', DIRTY_COLUMNS, { object: unsettled.map(() => type.name), key: unsettled });
    const recast = recastCases(dirty, new Set(unsettled));
    await this.#duck.append('_recast', RECAST_COLUMNS, { case: recast });
    return { final: unsettled.length === 0, recast: recast.length > 0 };
  }

  async #remove(table: 'object' | 'link', type: ObjectType, some: readonly (readonly [string, Entry])[]): Promise<void> {
    if (some.length === 0) return;
    const { each, value } = among(
      some.map(([key]) => key),
      2,
    );
    await this.#duck.run(`DELETE FROM ${table} WHERE object = $1 AND key IN (SELECT ${each})`, [type.name, value]);
  }

  async #noteParts(): Promise<void> {
    const [parts, ties] = [this.#parts, this.#ties];
    await this.#duck.append('_part', PART_COLUMNS, {
      tick: parts.map(({ tick }) => BigInt(tick)),
      lsn: parts.map(({ lsn }) => lsn),
      object: parts.map(({ object }) => object),
      key: parts.map(({ key }) => key),
      kind: parts.map(({ kind }) => kind),
      after: parts.map(({ after }) => after),
    });
    await this.#duck.append('_tie', TIE_COLUMNS, {
      tick: ties.map(({ tick }) => BigInt(tick)),
      parent: ties.map(({ parent }) => parent),
      parent_key: ties.map(({ key }) => key),
    });
    this.#parts = [];
    this.#ties = [];
  }

  /** Gives an object its case, as far as that follows from itself. @returns must others, or its stored events, be looked at? */
  #settle(type: ObjectType, key: string, entry: Entry): boolean {
    const { root, objects } = this.#process;
    const { life, stored, moved } = entry;
    if (type.name === root) {
      entry.case = life ? key : null;
      return false;
    }
    const direct = type.of.every(({ parent }) => parent === root);
    if (direct) entry.case = life?.links.find((link) => link !== null) ?? null;
    const changed = linksChanged(entry);
    const between = objects.some(({ of }) => of.some(({ parent }) => parent === type.name));
    return direct && !between ? moved || (stored !== null && stored.case !== entry.case) : changed;
  }

  async #moveEvents(type: string, moves: ReadonlyMap<string, string>): Promise<void> {
    const root = type === this.#process.root ? ', "case" = m.after' : '';
    const [before, after] = [among([...moves.keys()], 2), among([...moves.values()], 3)];
    await this.#duck.run(
      `UPDATE event SET key = m.after${root} FROM (SELECT ${before.each} AS before, ${after.each} AS after) m
        WHERE event.object = $1 AND event.key = m.before`,
      [type, before.value, after.value],
    );
  }

  #of(type: string): Map<string, Entry> {
    let known = this.#entries.get(type);
    if (!known) this.#entries.set(type, (known = new Map()));
    return known;
  }

  #entry(type: string, key: string): Entry {
    const entry = this.#of(type).get(key);
    if (!entry) throw new Error('the object was not loaded');
    return entry;
  }
}

/** Is what its links say another than what is stored? */
function linksChanged({ life, stored, moved }: Entry): boolean {
  return moved || !stored || !life || stored.life.links.some((link, i) => link !== life.links[i]);
}

/** Cases of which more changed than that events were added. */
function recastCases(dirty: readonly (readonly [string, Entry])[], unsettled: ReadonlySet<string>): string[] {
  const recast = new Set<string>();
  for (const [key, { case: own, stored, life, moved }] of dirty) {
    const met = life?.born === false || stored?.life.born === false;
    if (!moved && !met && !unsettled.has(key) && (stored === null || stored.case === own)) continue;
    for (const one of [own, stored?.case ?? null]) if (one !== null) recast.add(one);
  }
  return [...recast];
}

const RECAST_COLUMNS = { case: 'VARCHAR' } as const;
const LINK_COLUMNS = { object: 'VARCHAR', key: 'VARCHAR', parent: 'VARCHAR', parent_key: 'VARCHAR' } as const;
const PART_COLUMNS = {
  tick: 'BIGINT',
  lsn: 'UBIGINT',
  object: 'VARCHAR',
  key: 'VARCHAR',
  kind: 'VARCHAR',
  after: 'VARCHAR',
} as const;
const TIE_COLUMNS = { tick: 'BIGINT', parent: 'VARCHAR', parent_key: 'VARCHAR' } as const;
const DIRTY_COLUMNS = { object: 'VARCHAR', key: 'VARCHAR' } as const;

/** Rows of `object`, column by column. */
interface StoredLives {
  readonly state: readonly (string | null)[];
  readonly parents: readonly (string | null)[];
  readonly case: readonly (string | null)[];
  readonly reached: readonly (string | null)[];
  readonly born: readonly boolean[];
  readonly alive: readonly boolean[];
  readonly named: readonly bigint[];
}

interface Parent {
  readonly object: string;
  readonly key: string;
  /** Column of the link. */
  readonly qualifier: string;
}

function linksOf(type: ObjectType, text: string | null): (string | null)[] {
  const parents = text === null ? [] : (JSON.parse(text) as Parent[]);
  return type.of.map(({ parent }) => parents.find(({ object }) => object === parent)?.key ?? null);
}

function parentsText(type: ObjectType, { links }: Life): string | null {
  const parents = type.of.flatMap(({ parent, column }, i): Parent[] => {
    const key = links[i] ?? null;
    return key === null ? [] : [{ object: parent, key, qualifier: column }];
  });
  return parents.length > 0 ? JSON.stringify(parents) : null;
}

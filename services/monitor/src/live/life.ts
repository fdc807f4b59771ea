import type { ObjectType } from '@tributary/config';
import { type Cell, Op, type OpCode } from '@tributary/core';
import type { EventKind } from '../state.ts';

/** What is known of one object. */
export interface Life {
  readonly state: string | null;
  /** Keys of its parents, as `of` of its type names them. */
  readonly links: readonly (string | null)[];
  /** Milestone columns that have a value. */
  readonly reached: readonly string[];
  /** It was seen to come to be. */
  readonly born: boolean;
  readonly alive: boolean;
  /** Generation of its table's snapshot that named it last; 0 = none. */
  readonly named: number;
}

/** One row change, as far as a process looks at it. Undefined: the change does not tell. */
export interface ObjectChange {
  readonly op: Exclude<OpCode, typeof Op.truncated>;
  readonly state: Cell;
  readonly links: readonly Cell[];
  readonly milestones: readonly Cell[];
}

/** An event without its place. */
export interface Happening {
  readonly kind: EventKind;
  readonly activity: string;
  readonly before: string | null;
  readonly after: string | null;
}

/** What a snapshot of its table knows when the change comes. */
export interface Reading {
  /** Of the snapshot that runs; null = none does. */
  readonly generation: number | null;
  /** A snapshot came to its end before: a row that nothing is known of came to be since, and the stream did not tell. */
  readonly complete: boolean;
}

const UNKNOWN: Life = { state: null, links: [], reached: [], born: false, alive: false, named: 0 };

/**
 * One step of an object's life: pure, so that whoever cuts or repeats the changelog comes to the same.
 *
 * - What is known and did not change is no event: a row that is read again as it was says nothing.
 * - A row that is met in the middle of its life (first snapshot, update of an unknown row) begins without an event: when it
 *   came to be, and what was before, is not known.
 * - `kept` rows are older than what the stream said: they only show that the object is there.
 */
export function live(
  type: ObjectType,
  before: Life | null,
  change: ObjectChange,
  reading: Reading,
): { readonly after: Life | null; readonly events: readonly Happening[] } {
  const known = before?.alive ? before : null;
  const named = reading.generation ?? before?.named ?? 0;
  if (change.op === Op.kept) return { after: before && { ...before, named }, events: [] };
  if (change.op === Op.deleted) {
    // Of one that nothing is known of it is known now that it is gone.
    const events = before && !before.alive ? [] : [deletedOf(type, before?.state ?? null)];
    return { after: { ...(before ?? empty(type)), alive: false, named }, events };
  }
  if (known) {
    const kind = change.op === Op.updated ? null : 'found';
    const after = told(type, known, { change, life: { born: known.born, alive: true, named } });
    return { after, events: differences(type, known, { change, kind }) };
  }
  const born = change.op === Op.created;
  const after = told(type, empty(type), { change, life: { born, alive: true, named } });
  if (born) return { after, events: begun(type, after, null) };
  return { after, events: change.op === Op.read && reading.complete ? begun(type, after, 'found') : [] };
}

function deletedOf(type: ObjectType, state: string | null): Happening {
  return { kind: 'deleted', activity: `${type.name} deleted`, before: state, after: null };
}

function empty(type: ObjectType): Life {
  return { ...UNKNOWN, links: type.of.map(() => null) };
}

function told(
  type: ObjectType,
  before: Life,
  { change, life }: { change: ObjectChange; life: Pick<Life, 'born' | 'alive' | 'named'> },
): Life {
  const { state, links, milestones } = change;
  const reached = type.milestones.filter((column, i) =>
    milestones[i] === undefined ? before.reached.includes(column) : milestones[i] !== null,
  );
  return {
    state: state === undefined ? before.state : state,
    links: type.of.map((_, i) => (links[i] === undefined ? (before.links[i] ?? null) : (links[i] ?? null))),
    reached,
    born: life.born,
    alive: life.alive,
    named: life.named,
  };
}

function begun(type: ObjectType, { state, reached }: Life, found: 'found' | null): Happening[] {
  const what = type.created === 'state' && state !== null ? state : 'created';
  const created: Happening = { kind: found ?? 'created', activity: `${type.name} ${what}`, before: null, after: state };
  return [created, ...reached.map((column) => milestone(type, column, found ?? 'milestone'))];
}

function differences(
  type: ObjectType,
  known: Life,
  { change, kind }: { change: ObjectChange; kind: 'found' | null },
): Happening[] {
  const { op, milestones } = change;
  const events: Happening[] = [];
  const state = change.state === undefined ? known.state : change.state;
  const again = type.updated === 'state' && op === Op.updated;
  if (typeof state === 'string' && (state !== known.state || again))
    events.push({ kind: kind ?? 'state', activity: `${type.name} ${state}`, before: known.state, after: state });
  type.milestones.forEach((column, i) => {
    const reached = milestones[i] !== undefined && milestones[i] !== null;
    if (reached && !known.reached.includes(column)) events.push(milestone(type, column, kind ?? 'milestone'));
  });
  return events;
}

function milestone(type: ObjectType, column: string, kind: EventKind): Happening {
  return { kind, activity: `${type.name} ${column}`, before: null, after: null };
}

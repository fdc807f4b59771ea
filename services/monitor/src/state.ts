import { mkdir } from 'node:fs/promises';
import { dirname } from 'node:path';
import { Database, type Duck } from '@tributary/duckdb';

/** Why there is an event. `found`: a snapshot met a change that the stream did not tell; `logged`: it stood in an imported log. */
export type EventKind = 'created' | 'state' | 'milestone' | 'deleted' | 'found' | 'logged';

/** One row of `event`: what SPEC.md calls one. */
export interface ProcessEvent {
  /** Key of the root object; null while it is not known. */
  readonly case: string | null;
  readonly activity: string;
  /** Microseconds since 1970: when it was committed, or when a log says that it happened. */
  readonly atUs: number;
  readonly tick: number;
  readonly source: string;
  readonly lsn: bigint;
  readonly ordinal: number;
  /** Counts events of one row change. */
  readonly part: number;
  readonly object: string;
  readonly key: string;
  readonly kind: EventKind;
  readonly before: string | null;
  readonly after: string | null;
  /** JSON object of further facts; null = none. */
  readonly attributes: string | null;
}

export const EVENT_COLUMNS = {
  case: 'VARCHAR',
  activity: 'VARCHAR',
  at_us: 'BIGINT',
  tick: 'BIGINT',
  source: 'VARCHAR',
  lsn: 'UBIGINT',
  ordinal: 'BIGINT',
  part: 'INTEGER',
  object: 'VARCHAR',
  key: 'VARCHAR',
  kind: 'VARCHAR',
  before: 'VARCHAR',
  after: 'VARCHAR',
  attributes: 'VARCHAR',
} as const;

/** That an event of an object-centric log concerns an object. (source, tick) names the event. */
export interface Relation {
  readonly source: string;
  readonly tick: number;
  readonly object: string;
  readonly key: string;
  readonly qualifier: string;
}

const RELATION_COLUMNS = { source: 'VARCHAR', tick: 'BIGINT', object: 'VARCHAR', key: 'VARCHAR', qualifier: 'VARCHAR' } as const;

/** One row of `object`: what is known of one now. */
export interface ProcessObject {
  readonly object: string;
  readonly key: string;
  readonly source: string;
  readonly state: string | null;
  /** JSON list of the objects it belongs to, `{object, key, qualifier}`; null = none. */
  readonly parents: string | null;
  /** Key of the root object; null while it is not known. */
  readonly case: string | null;
  readonly attributes: string | null;
  /** JSON list of the milestones that it has reached; null = none. */
  readonly reached: string | null;
  /** It was seen to come to be; otherwise a snapshot met it, and what was before is not known. */
  readonly born: boolean;
  readonly alive: boolean;
  /** Generation of its table's snapshot that named it last. */
  readonly named: number;
}

const OBJECT_COLUMNS = {
  object: 'VARCHAR',
  key: 'VARCHAR',
  source: 'VARCHAR',
  state: 'VARCHAR',
  parents: 'VARCHAR',
  case: 'VARCHAR',
  attributes: 'VARCHAR',
  reached: 'VARCHAR',
  born: 'BOOLEAN',
  alive: 'BOOLEAN',
  named: 'BIGINT',
} as const;

export const SETUP = [
  `CREATE TABLE IF NOT EXISTS event ("case" VARCHAR, activity VARCHAR NOT NULL, at_us BIGINT NOT NULL, tick BIGINT NOT NULL, source VARCHAR NOT NULL,
     lsn UBIGINT NOT NULL, ordinal BIGINT NOT NULL, part INTEGER NOT NULL, object VARCHAR NOT NULL, key VARCHAR NOT NULL, kind VARCHAR NOT NULL,
     before VARCHAR, after VARCHAR, attributes VARCHAR)`,
  'CREATE TABLE IF NOT EXISTS relation (source VARCHAR NOT NULL, tick BIGINT NOT NULL, object VARCHAR NOT NULL, key VARCHAR NOT NULL, qualifier VARCHAR NOT NULL)',
  `CREATE TABLE IF NOT EXISTS object (object VARCHAR NOT NULL, key VARCHAR NOT NULL, source VARCHAR NOT NULL, state VARCHAR, parents VARCHAR, "case" VARCHAR,
     attributes VARCHAR, reached VARCHAR, born BOOLEAN NOT NULL, alive BOOLEAN NOT NULL, named BIGINT NOT NULL)`,
  'CREATE TABLE IF NOT EXISTS link (object VARCHAR NOT NULL, key VARCHAR NOT NULL, parent VARCHAR NOT NULL, parent_key VARCHAR NOT NULL)',
  `CREATE TABLE IF NOT EXISTS place (source VARCHAR NOT NULL, seq BIGINT NOT NULL, lsn VARCHAR NOT NULL, ordinal BIGINT NOT NULL, epoch VARCHAR,
     watermark BIGINT NOT NULL, tick BIGINT NOT NULL, held VARCHAR)`,
  'CREATE TABLE IF NOT EXISTS snapshot ("table" VARCHAR NOT NULL, source VARCHAR NOT NULL, generation BIGINT, complete BOOLEAN NOT NULL)',
  'CREATE TABLE IF NOT EXISTS definition (version VARCHAR NOT NULL)',
  'CREATE TABLE IF NOT EXISTS recast (nth BIGINT NOT NULL, "case" VARCHAR)',
];

/** Of one process; a map over a million events spills what is above it. */
const MEMORY_BYTES = 256 * 2 ** 20;
const THREADS = 2;

/** Opens the state of one process, making what is missing. @throws Fault `database_unreachable` as {@link Database.open} */
export async function openState(path: string): Promise<Database> {
  await mkdir(dirname(path), { recursive: true });
  const database = await Database.open({ path, memoryBytes: MEMORY_BYTES, threads: THREADS, spillDir: `${path}.spill` });
  try {
    const duck = await database.connect();
    for (const statement of SETUP) await duck.run(statement);
    duck.close();
  } catch (error) {
    database.close();
    throw error;
  }
  return database;
}

/** Adds events, in a transaction of the caller's. */
export async function appendEvents(duck: Duck, events: readonly ProcessEvent[]): Promise<void> {
  await duck.append('event', EVENT_COLUMNS, {
    case: events.map((event) => event.case),
    activity: events.map((event) => event.activity),
    at_us: events.map((event) => BigInt(event.atUs)),
    tick: events.map((event) => BigInt(event.tick)),
    source: events.map((event) => event.source),
    lsn: events.map((event) => event.lsn),
    ordinal: events.map((event) => BigInt(event.ordinal)),
    part: events.map((event) => event.part),
    object: events.map((event) => event.object),
    key: events.map((event) => event.key),
    kind: events.map((event) => event.kind),
    before: events.map((event) => event.before),
    after: events.map((event) => event.after),
    attributes: events.map((event) => event.attributes),
  });
}

export async function appendRelations(duck: Duck, relations: readonly Relation[]): Promise<void> {
  await duck.append('relation', RELATION_COLUMNS, {
    source: relations.map((relation) => relation.source),
    tick: relations.map((relation) => BigInt(relation.tick)),
    object: relations.map((relation) => relation.object),
    key: relations.map((relation) => relation.key),
    qualifier: relations.map((relation) => relation.qualifier),
  });
}

export async function appendObjects(duck: Duck, objects: readonly ProcessObject[]): Promise<void> {
  await duck.append('object', OBJECT_COLUMNS, {
    object: objects.map((object) => object.object),
    key: objects.map((object) => object.key),
    source: objects.map((object) => object.source),
    state: objects.map((object) => object.state),
    parents: objects.map((object) => object.parents),
    case: objects.map((object) => object.case),
    attributes: objects.map((object) => object.attributes),
    reached: objects.map((object) => object.reached),
    born: objects.map((object) => object.born),
    alive: objects.map((object) => object.alive),
    named: objects.map((object) => BigInt(object.named)),
  });
}

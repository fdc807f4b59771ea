import { registeredActors } from '@tributary/cluster';
import { askUntil, type Bus, Fault, outlasting, projectionOf } from '@tributary/core';
import type { Connected } from './addresses.ts';

/** What runs (or should run) in the system a command talks to. */
export interface Layout {
  /** Whose changelogs there are: sources, and transforms, which answer as sources do. */
  readonly sources: readonly string[];
  /** Those of {@link sources} that are transforms. */
  readonly transforms: ReadonlySet<string>;
  readonly projections: readonly ProjectionEntry[];
}

export interface ProjectionEntry {
  /** `<sink>/<source>`. */
  readonly name: string;
  readonly kind: string;
  /** Who runs it: itself, or one actor a part. */
  readonly actors: readonly string[];
}

/** How long a command waits for a broker cluster that elects a leader of the bucket (4 to 9 s on nats-server 2.9), ms. */
const ELECTION_MS = 20_000;

/**
 * Asks the cluster's bucket, also while nobody leads it for a moment. For what may be asked twice.
 * @throws Fault `broker_unreachable` after {@link ELECTION_MS}
 */
export function outlastingElection<T>(ask: () => Promise<T>): Promise<T> {
  return outlasting(Date.now() + ELECTION_MS, ask);
}

/** From what workers have registered; it does not matter whether they run it at this moment. */
export async function layoutOf({ broker }: Pick<Connected, 'broker'>): Promise<Layout> {
  const sources = new Set<string>();
  const transforms = new Set<string>();
  const projections = new Map<string, { name: string; kind: string; actors: string[] }>();
  for (const { name: actor, kind } of await outlastingElection(() => registeredActors(broker.kv))) {
    const name = projectionOf(actor);
    const known = projections.get(name);
    const writes = actor.slice(actor.indexOf('/') + 1);
    if (kind === 'transform') transforms.add(writes);
    if (kind === 'source' || kind === 'transform') sources.add(writes);
    else if (known) known.actors.push(actor);
    else if (kind !== 'query') projections.set(name, { name, kind, actors: [actor] });
  }
  return {
    sources: [...sources].toSorted(),
    transforms,
    projections: [...projections.values()].toSorted((a, b) => (a.name < b.name ? -1 : 1)),
  };
}

export interface Barrier {
  /** A projection that holds this sequence holds everything committed before the question. */
  readonly seq: number;
  /** Captured tables, `schema.table`. */
  readonly tables: readonly string[];
  /** Columns that consumers keep and the database does not have, by table: see schemaChanges. */
  readonly kept?: Readonly<Record<string, readonly string[]>>;
}

export async function barrier(bus: Bus, source: string, deadline: number): Promise<Barrier> {
  try {
    return await askUntil<Barrier>(bus, `tributary.source.${source}.barrier`, {}, deadline);
  } catch (error) {
    throw new Fault('not_found', `source ${source} did not answer in time: see "tributary status"`, { source }, { cause: error });
  }
}

/** Where the actor of a projection, or of a part of one, answers. */
export function projectionSubject(actor: string, what: string): string {
  return `tributary.projection.${actor.replace('/', '.')}.${what}`;
}

/** Waits until every projection holds everything committed on every source before this call. */
export async function caughtUp(
  connected: Connected,
  layout: Pick<Layout, 'sources' | 'projections'>,
  deadline: number,
): Promise<Map<string, Barrier>> {
  const { bus } = connected.broker;
  const barriers = new Map(
    await Promise.all(layout.sources.map(async (source) => [source, await barrier(bus, source, deadline)] as const)),
  );
  await Promise.all(
    layout.projections
      .flatMap(({ actors }) => actors)
      .map(async (name) => {
        const seq = barriers.get(projectionOf(name.slice(name.indexOf('/') + 1)))?.seq;
        if (seq === undefined) return;
        try {
          await askUntil(bus, projectionSubject(name, 'reached'), { seq }, deadline);
        } catch (error) {
          throw new Fault(
            'not_found',
            `projection ${name} did not catch up in time: see "tributary status"`,
            { projection: name, seq },
            { cause: error },
          );
        }
      }),
  );
  return barriers;
}

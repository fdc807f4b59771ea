import type { Session } from '@tributary/postgres';
import type { Place } from './place.ts';

const CLAIM_LOCK = 7_215_002;

/**
 * Which part of a split projection applies a table. The answer stands in `tributary.parts` and never changes within a
 * layout, so all parts agree however far each of them is. A table that nobody has met is claimed by the first part that
 * meets it for the part that has the fewest, in a statement of its own: a decision needs no rollback.
 *
 * Road not taken: a hash of the name. It needs no table, but puts both busy tables of a database into one part half of the time.
 */
export class Shares {
  readonly #place: Place;
  readonly #session: Session;
  readonly #parts = new Map<string, number>();

  constructor(place: Place, session: Session) {
    this.#place = place;
    this.#session = session;
  }

  /** Reads what is decided. Once, before anything is applied. */
  async load(): Promise<void> {
    if (this.#place.part.of === 1) return;
    const { sink, source, layout } = this.#place;
    const rows = await this.#session.rows<{ name: string; part: number }>(
      'SELECT name, part FROM tributary.parts WHERE sink = $1 AND source = $2 AND layout = $3',
      [sink, source, layout],
    );
    for (const { name, part } of rows) this.#parts.set(name, part);
  }

  /** False only when the table is known to be another part's. Cheap. */
  mayOwn(table: string): boolean {
    const part = this.#parts.get(table);
    return part === undefined || part === this.#place.part.index;
  }

  /** Decides where nobody has yet. */
  async owns(table: string): Promise<boolean> {
    if (this.#place.part.of === 1) return true;
    if (!this.#parts.has(table)) await this.#claim(table);
    return this.mayOwn(table);
  }

  async #claim(table: string): Promise<void> {
    const { sink, source, layout, part } = this.#place;
    const place = [sink, source, layout];
    await this.#session.run('SELECT pg_advisory_lock($1, hashtext($2))', [CLAIM_LOCK, `${sink}/${source}`]);
    try {
      await this.#session.run(
        `INSERT INTO tributary.parts (sink, source, layout, name, part)
         SELECT $1::text, $2::text, $3::bigint, $4::text, part FROM generate_series(1, $5::int) part
          ORDER BY (SELECT count(*) FROM tributary.parts p WHERE p.sink = $1 AND p.source = $2 AND p.layout = $3 AND p.part = part.part), part LIMIT 1
         ON CONFLICT DO NOTHING`,
        [...place, table, part.of],
      );
    } finally {
      await this.#session.run('SELECT pg_advisory_unlock($1, hashtext($2))', [CLAIM_LOCK, `${sink}/${source}`]);
    }
    const row = await this.#session.row<{ part: number }>(
      'SELECT part FROM tributary.parts WHERE sink = $1 AND source = $2 AND layout = $3 AND name = $4',
      [...place, table],
    );
    this.#parts.set(table, row.part);
  }
}

/** What is known of a table when all are shared out anew. */
export interface Load {
  readonly name: string;
  /** Rows written so far, as far as statistics tell. */
  readonly weight: number;
  /** Tables that must stay together have the same one: foreign keys tie them. */
  readonly tie: string;
}

/** Shares tables out so that every part has about the same to do: the heaviest first, each to the part with the least. Pure. */
export function shareOut(tables: readonly Load[], parts: number): Map<string, number> {
  const groups = new Map<string, { names: string[]; weight: number }>();
  for (const { name, weight, tie } of tables) {
    const group = groups.get(tie) ?? { names: [], weight: 0 };
    groups.set(tie, group);
    group.names.push(name);
    // A table of which nothing is known still counts a little, so that many of them spread.
    group.weight += weight + 1;
  }
  const order = [...groups].toSorted(([a, left], [b, right]) => right.weight - left.weight || (a < b ? -1 : 1));
  const loads = Array.from({ length: parts }, () => 0);
  const shares = new Map<string, number>();
  for (const [, { names, weight }] of order) {
    const least = loads.indexOf(Math.min(...loads));
    loads[least] = (loads[least] as number) + weight;
    for (const name of names) shares.set(name, least + 1);
  }
  return shares;
}

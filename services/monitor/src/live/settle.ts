import type { EventPattern, ProcessConfig } from '@tributary/config';
import { type Duck, duckLiteral } from '@tributary/duckdb';

/**
 * Gives every object behind a key of `_dirty`, and all that belongs to it, the case that its links lead to; and their events.
 * A case is a function of the links as they are at a commit, so it does not matter which source told of its part first.
 */
export async function settleCases(duck: Duck, { root, objects }: ProcessConfig): Promise<void> {
  const touched = new Set(
    (await duck.rows<{ object: string }>('SELECT DISTINCT object FROM _dirty')).map(({ object }) => object),
  );
  if (touched.size === 0) return;
  for (const { name, of } of objects) {
    if (name === root || ![name, ...of.map(({ parent }) => parent)].some((one) => touched.has(one))) continue;
    touched.add(name);
    const type = duckLiteral(name);
    const joins = of.map(({ parent }, i) => {
      const link = `LEFT JOIN link l${i} ON l${i}.object = ${type} AND l${i}.key = o.key AND l${i}.parent = ${duckLiteral(parent)}`;
      return parent === root
        ? link
        : `${link} LEFT JOIN object p${i} ON p${i}.object = ${duckLiteral(parent)} AND p${i}.key = l${i}.parent_key`;
    });
    const cases = of.map(({ parent }, i) => (parent === root ? `l${i}.parent_key` : `p${i}."case"`));
    await duck.run(
      `CREATE OR REPLACE TEMP TABLE _case AS SELECT o.key, coalesce(${cases.join(', ')}) AS after FROM object o ${joins.join(' ')}
        WHERE o.object = ${type} AND o.key IN (SELECT key FROM _dirty WHERE object = ${type}
          UNION SELECT l.key FROM link l JOIN _dirty d ON d.object = l.parent AND d.key = l.parent_key WHERE l.object = ${type})`,
    );
    await duck.run(
      `INSERT INTO _recast SELECT unnest([o."case", c.after]) FROM object o JOIN _case c ON c.key = o.key
        WHERE o.object = ${type} AND o."case" IS DISTINCT FROM c.after`,
    );
    for (const table of ['object', 'event'])
      await duck.run(
        `UPDATE ${table} SET "case" = c.after FROM _case c
          WHERE ${table}.object = ${type} AND ${table}.key = c.key AND ${table}."case" IS DISTINCT FROM c.after`,
      );
    await duck.run(`INSERT INTO _dirty SELECT ${type}, key FROM _case`);
  }
  await duck.run('DELETE FROM _dirty');
}

/**
 * Makes business events of transactions: where all parts of one stand in the same transaction, its first event gets the name,
 * and those of objects that belong to it are no events of their own. Of several definitions the first that fits decides.
 *
 * Looks only at `_part`, `_tie` and `_mark`, which hold keys and links as they were at each event: later changes of the same group
 * make no difference. They are emptied.
 */
export async function joinTransactions(duck: Duck, { activities, objects }: ProcessConfig, source: string): Promise<void> {
  const own = activities.filter(({ when }) => objects.some((type) => type.name === when.object && type.source === source));
  if (own.length === 0) return;
  const there = new Set((await duck.rows<{ object: string }>('SELECT DISTINCT object FROM _part')).map(({ object }) => object));
  const possible = own.filter(({ when }) => there.has(when.object));
  if (possible.length > 0) await duck.run('CREATE OR REPLACE TEMP TABLE _named (tick BIGINT)');
  for (const { name, when, with: others } of possible) {
    const linked = (one: EventPattern) =>
      objects.some((type) => type.name === one.object && type.of.some(({ parent }) => parent === when.object));
    const part = (one: EventPattern) => {
      const tied = 'EXISTS (FROM _tie t WHERE t.tick = o.tick AND t.parent = w.object AND t.parent_key = w.key)';
      return `o.lsn = w.lsn AND o.tick <> w.tick AND ${happened('o', one)}${linked(one) ? ` AND ${tied}` : ''}`;
    };
    const conditions = others.map((one) =>
      one.table
        ? `EXISTS (FROM _mark m WHERE m.lsn = w.lsn AND m."table" = ${duckLiteral(one.object)} AND m.op = ${duckLiteral(one.what)})`
        : `EXISTS (FROM _part o WHERE ${part(one)})`,
    );
    const found = [happened('w', when), 'w.tick NOT IN (FROM _named)', ...conditions];
    await duck.run(`CREATE OR REPLACE TEMP TABLE _joined AS SELECT w.* FROM _part w WHERE ${found.join(' AND ')}`);
    const ofSource = `source = ${duckLiteral(source)}`;
    for (const one of others.filter((other) => !other.table && linked(other)))
      await duck.run(
        `DELETE FROM event WHERE ${ofSource} AND tick IN (SELECT o.tick FROM _part o JOIN _joined w ON ${part(one)})`,
      );
    await duck.run(`UPDATE event SET activity = ${duckLiteral(name)} WHERE ${ofSource} AND tick IN (SELECT tick FROM _joined)`);
    await duck.run('INSERT INTO _named SELECT tick FROM _joined');
  }
  for (const table of ['_part', '_tie', '_mark']) await duck.run(`DELETE FROM ${table}`);
}

/** Are its events looked at for business events? */
export function joins({ activities }: ProcessConfig, object: string): boolean {
  return activities.some(({ when, with: others }) => [when, ...others].some((one) => !one.table && one.object === object));
}

function happened(alias: string, { object, what }: EventPattern): string {
  const of = `${alias}.object = ${duckLiteral(object)}`;
  if (what === 'insert') return `${of} AND ${alias}.kind = 'created'`;
  if (what === 'delete') return `${of} AND ${alias}.kind = 'deleted'`;
  return `${of} AND ${alias}.kind IN ('created', 'state') AND ${alias}.after = ${duckLiteral(what)}`;
}

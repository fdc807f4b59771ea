import type { Grain } from '@tributary/config';
import { type Duck, duckIdent, duckLiteral } from '@tributary/duckdb';
import type { Compiled } from './definition.ts';
import { endOf, trunc } from './grains.ts';
import { type Changed, fromClause, movedRows, now } from './relations.ts';

/** What a change of a closed bucket is noted with. */
export interface Closing {
  /** Microseconds since 1970: buckets that ended before then are closed; 0 = none is. */
  readonly completeTo: number;
  /** Position vector before the change: as of there the bucket is as it was. */
  readonly vector: string;
}

/**
 * The results of one KPI, kept inside the transactions that change its tables (K2).
 *
 * - `_agg`: per finest bucket and dimensions, what is additive, by signed deltas;
 * - `_val`: per grain, bucket and dimensions, every other aggregate, computed anew for the buckets that changed rows name.
 *
 * Cost of a group: a scan of each changed table's new rows, one join of them with the other tables, and for `_val` one pass over
 * the fact for each grain.
 */
export class Maintained {
  readonly compiled: Compiled;
  readonly agg: string;
  readonly val: string;
  readonly #dims: readonly string[];

  constructor(compiled: Compiled) {
    this.compiled = compiled;
    this.agg = `_agg.${duckIdent(compiled.config.name)}`;
    this.val = `_val.${duckIdent(compiled.config.name)}`;
    this.#dims = compiled.dimensions.map((_, i) => `d${i}`);
  }

  /** Computes everything from the current rows and notes the version. Inside a transaction. */
  async rebuild(duck: Duck): Promise<void> {
    const { compiled } = this;
    const from = fromClause(compiled, ({ table }) => now(table));
    await duck.run(`CREATE OR REPLACE TABLE ${this.agg} AS ${this.#sums(from)}`);
    const [first, ...others] = this.#valGrains().map((grain) => this.#values(from, grain));
    await duck.run(
      first === undefined
        ? `DROP TABLE IF EXISTS ${this.val}`
        : `CREATE OR REPLACE TABLE ${this.val} AS ${[first, ...others].join(' UNION ALL ')}`,
    );
    await duck.run('DELETE FROM _meta.kpis WHERE name = $1', [compiled.config.name]);
    await duck.run('INSERT INTO _meta.kpis VALUES ($1, $2, false)', [compiled.config.name, compiled.version]);
  }

  /** Takes in what a group changed. Inside its transaction, behind the change of the tables. */
  async change(duck: Duck, changed: Changed, closing: Closing): Promise<void> {
    const moved = await movedRows(duck, this.compiled, changed);
    if (!moved) return;
    await this.#delta(duck, moved);
    const [some] = await duck.rows<{ rows: boolean; differ: boolean }>(
      `SELECT EXISTS (FROM _moved) AS rows, EXISTS (FROM _moved WHERE ${this.#differs()}) AS differ`,
    );
    if (some?.differ) await this.#addDelta(duck);
    const grains = this.compiled.grains;
    const closed = closing.completeTo > 0 && grains.length > 0;
    if (some?.differ && closed) await this.#noteRevisions(duck, `SELECT bucket FROM _moved WHERE ${this.#differs()}`, closing);
    if (some?.rows) for (const grain of this.#valGrains()) await this.#revalue(duck, grain, closed ? closing : null);
  }

  /** Computes everything anew beside what is kept. @returns rows that differ; 0 = K2 holds */
  async differences(duck: Duck): Promise<number> {
    const from = fromClause(this.compiled, ({ table }) => now(table));
    const fresh = [`SELECT * FROM (${this.#sums(from)})`, ...this.#valGrains().map((grain) => this.#values(from, grain))];
    const kept = [
      `SELECT * FROM ${this.agg}`,
      ...this.#valGrains().map((grain) => `SELECT * FROM ${this.val} WHERE grain = '${grain ?? 'total'}'`),
    ];
    let differing = 0;
    for (const [i, one] of fresh.entries()) {
      const sql = `SELECT count(*) AS n FROM ((${one} EXCEPT ALL ${kept[i]}) UNION ALL (${kept[i]} EXCEPT ALL ${one}))`;
      differing += (await duck.rows<{ n: number }>(sql))[0]?.n ?? 0;
    }
    return differing;
  }

  #sums(from: string): string {
    const { compiled } = this;
    const dims = compiled.dimensions.map(({ sql }, i) => `(${sql}\n) AS d${i}`);
    const sums = compiled.additives.flatMap(({ argument, sumType }, i) => [
      ...(sumType === null ? [] : [`coalesce(sum(${argument}), 0)::${sumType} AS s${i}`]),
      `count(${argument}) AS n${i}`,
    ]);
    return `SELECT ${[`${compiled.bucket} AS bucket`, ...dims, 'count(*) AS n', ...sums].join(', ')} FROM ${from} WHERE ${compiled.where} GROUP BY ALL`;
  }

  /** Every aggregate that is not additive, over all rows of a FROM clause (or those that `more` lets through). */
  #values(from: string, grain: Grain | null, more = 'true'): string {
    const { compiled } = this;
    const bucket = grain ? trunc(grain, compiled.bucket, compiled.calendar) : 'NULL::TIMESTAMPTZ';
    const dims = compiled.dimensions.map(({ sql }, i) => `(${sql}\n) AS d${i}`);
    const values = this.#recomputed().map(({ name, overRows }) => `${overRows}\n AS ${duckIdent(name)}`);
    return `SELECT ${[`'${grain ?? 'total'}' AS grain`, `${bucket} AS bucket`, ...dims, ...values].join(', ')} FROM ${from} WHERE ${compiled.where} AND ${more} GROUP BY ALL`;
  }

  #recomputed() {
    return this.compiled.measures.filter((one) => one.overRows !== null && one.overAgg === null);
  }

  #valGrains(): readonly (Grain | null)[] {
    if (this.#recomputed().length === 0) return [];
    return this.compiled.finest === null ? [null] : this.compiled.grains;
  }

  async #delta(duck: Duck, { gone, come }: { gone: string; come: string }): Promise<void> {
    const sums = this.#kept.map(({ name, type }) => `sum(w * ${name})::${type} AS ${name}`);
    const all = `SELECT 1 AS w, * FROM (${this.#sums(come)}) UNION ALL SELECT -1 AS w, * FROM (${this.#sums(gone)})`;
    await duck.run(
      `CREATE OR REPLACE TEMP TABLE _moved AS SELECT ${['bucket', ...this.#dims, ...sums].join(', ')} FROM (${all}) GROUP BY ${['bucket', ...this.#dims].join(', ')}`,
    );
  }

  #differs(): string {
    return this.#kept.map(({ name }) => `_moved.${name} <> 0`).join(' OR ');
  }

  /** Columns of `_agg` behind bucket and dimensions. */
  get #kept(): readonly { readonly name: string; readonly type: string }[] {
    const parts = this.compiled.additives.flatMap(({ sumType }, i) => [
      ...(sumType === null ? [] : [{ name: `s${i}`, type: sumType }]),
      { name: `n${i}`, type: 'BIGINT' },
    ]);
    return [{ name: 'n', type: 'BIGINT' }, ...parts];
  }

  async #addDelta(duck: Duck): Promise<void> {
    const same = (m: string) =>
      ['bucket', ...this.#dims].map((name) => `a.${name} IS NOT DISTINCT FROM ${m}.${name}`).join(' AND ');
    const sums = this.#kept.map(({ name, type }) => `(coalesce(a.${name}, 0) + _moved.${name})::${type} AS ${name}`);
    const key = ['bucket', ...this.#dims].map((name) => `_moved.${name}`);
    const list = [...key, ...sums].join(', ');
    await duck.run(
      `CREATE OR REPLACE TEMP TABLE _summed AS SELECT ${list} FROM _moved LEFT JOIN ${this.agg} a ON ${same('_moved')} WHERE ${this.#differs()}`,
    );
    await duck.run(`DELETE FROM ${this.agg} a USING _summed WHERE ${same('_summed')}`);
    await duck.run(`INSERT INTO ${this.agg} SELECT * FROM _summed WHERE n <> 0`);
  }

  /** Buckets of one grain that moved rows name, computed anew. */
  async #revalue(duck: Duck, grain: Grain | null, closing: Closing | null): Promise<void> {
    const { compiled } = this;
    const label = duckLiteral(grain ?? 'total');
    const named = grain
      ? `SELECT DISTINCT ${trunc(grain, 'bucket', compiled.calendar)} AS bucket FROM _moved`
      : 'SELECT NULL::TIMESTAMPTZ AS bucket';
    await duck.run(`CREATE OR REPLACE TEMP TABLE _named AS ${named}`);
    const among = grain ? `${trunc(grain, compiled.bucket, compiled.calendar)} IN (SELECT bucket FROM _named)` : 'true';
    const from = fromClause(compiled, ({ table }) => now(table));
    await duck.run(`CREATE OR REPLACE TEMP TABLE _fresh AS ${this.#values(from, grain, among)}`);
    const kept = `SELECT v.* FROM ${this.val} v SEMI JOIN _named m ON v.bucket IS NOT DISTINCT FROM m.bucket WHERE v.grain = ${label}`;
    await duck.run(`CREATE OR REPLACE TEMP TABLE _stale AS ${kept}`);
    await duck.run(
      `DELETE FROM ${this.val} v USING _named m WHERE v.grain = ${label} AND v.bucket IS NOT DISTINCT FROM m.bucket`,
    );
    await duck.run(`INSERT INTO ${this.val} SELECT * FROM _fresh`);
    if (!closing || !grain) return;
    const differ = `SELECT bucket FROM ((FROM _fresh EXCEPT ALL FROM _stale) UNION ALL (FROM _stale EXCEPT ALL FROM _fresh))`;
    await this.#noteRevisions(duck, differ, closing, [grain]);
  }

  /** Closed buckets that changed: one revision more, once a group. */
  async #noteRevisions(
    duck: Duck,
    buckets: string,
    { completeTo, vector }: Closing,
    grains = this.compiled.grains,
  ): Promise<void> {
    const { name, late } = this.compiled.config;
    const { calendar } = this.compiled;
    for (const grain of grains) {
      const closed = `SELECT DISTINCT ${trunc(grain, 'bucket', calendar)} AS bucket FROM (${buckets})`;
      const at = `make_timestamptz(${completeTo}::BIGINT)`;
      await duck.run(
        `INSERT INTO _meta.revisions
         SELECT ${duckLiteral(name)}, '${grain}', b.bucket, coalesce(max(r.revision), 0) + 1, b.bucket < ${at} - to_milliseconds(${late.restateForMs}), ${duckLiteral(vector)}
         FROM (${closed}) b LEFT JOIN _meta.revisions r ON r.kpi = ${duckLiteral(name)} AND r.grain = '${grain}' AND r.bucket = b.bucket
         WHERE ${endOf(grain, 'b.bucket', calendar)} <= ${at} GROUP BY b.bucket HAVING count(*) FILTER (WHERE r.vector = ${duckLiteral(vector)}) = 0`,
      );
    }
  }
}

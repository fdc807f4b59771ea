import type { Grain, KpiTarget } from '@tributary/config';
import { Fault } from '@tributary/core';
import { type Answer, type Duck, duckIdent, duckLiteral } from '@tributary/duckdb';
import { EVERYTHING, type Scope } from './access.ts';
import type { Compiled, CompiledMeasure } from './definition.ts';
import { bucketColumns, bucketText, endOf, shift, trunc, writtenInstant } from './grains.ts';
import { fromClause, type View } from './relations.ts';

/** What is asked of a KPI; every part has a default. */
export interface ValuesQuestion {
  readonly grain?: Grain;
  readonly measures?: readonly string[];
  /** ISO 8601: buckets that begin at or after. */
  readonly from?: string;
  /** ISO 8601: buckets that begin before. */
  readonly to?: string;
  /** Dimensions to divide by; default: all. */
  readonly by?: readonly string[];
  /** Dimension → values that count. */
  readonly filter?: Readonly<Record<string, readonly string[]>>;
  /** Buckets without rows: left out, or shown as each measure's `empty` says. */
  readonly fill?: 'none' | 'empty';
  readonly asOf?: string;
}

export interface ValueRow {
  /** When the bucket begins, in the KPI's zone; null for a KPI without time. */
  readonly bucket: string | null;
  readonly dimensions: Readonly<Record<string, unknown>>;
  readonly values: Readonly<Record<string, unknown>>;
  /** How often the bucket changed after it was closed. */
  readonly revision: number;
  /** It changed though it is older than `late.restate_for`. */
  readonly flagged: boolean;
  /** Everything that belongs to it was committed and is in it. */
  readonly closed: boolean;
  readonly targets?: Readonly<Record<string, TargetView>>;
}

interface TargetView {
  readonly target: number;
  readonly status: 'ok' | 'warn' | 'crit' | 'below' | 'unknown';
}

/** Buckets in one answer. */
const BUCKETS_MAX = 100_000;

interface Viewing {
  readonly view: View;
  readonly kept: { readonly agg: string; readonly val: string } | null;
  readonly ask: ValuesQuestion;
  /** Rows that count; default: all. */
  readonly scope?: Scope;
}

/** Reads the values of one KPI at one moment, inside the caller's transaction. */
export class ValuesReader {
  readonly #duck: Duck;
  readonly #compiled: Compiled;
  readonly #view: View;
  readonly #grain: Grain | null;
  readonly #by: readonly number[];
  readonly #ask: ValuesQuestion;
  readonly #chosen: readonly CompiledMeasure[];
  /** Tables of what is kept of the KPI; null at a moment of the past: then everything is computed from rows. */
  readonly #kept: { readonly agg: string; readonly val: string } | null;
  readonly #scope: Scope;

  /** @throws Fault `query_refused` when the question names what the KPI does not have */
  constructor(duck: Duck, compiled: Compiled, { view, kept, ask, scope = EVERYTHING }: Viewing) {
    this.#duck = duck;
    this.#compiled = compiled;
    this.#view = view;
    this.#kept = kept;
    this.#scope = scope;
    this.#ask = ask;
    const { grains, measures } = compiled;
    this.#grain = grains.length === 0 ? null : (ask.grain ?? (grains.includes('day') ? 'day' : (grains[0] as Grain)));
    if (this.#grain && !grains.includes(this.#grain))
      throw refused('grain', `${compiled.config.name} has no grain ${this.#grain}. Grains: ${grains.join(', ')}`);
    const names = compiled.dimensions.map(({ name }) => name);
    this.#by = (ask.by ?? names).map((name) => this.#dimension('by', name));
    for (const name of Object.keys(ask.filter ?? {})) this.#dimension('filter', name);
    for (const name of ask.measures ?? [])
      if (!measures.some((one) => one.name === name))
        throw refused(
          'measure',
          `${compiled.config.name} has no measure ${name}. Measures: ${measures.map((one) => one.name).join(', ')}`,
        );
    this.#chosen = measures.filter(({ name }) => ask.measures === undefined || ask.measures.includes(name));
  }

  /** @param completeTo µs since 1970 */
  async rows(completeTo: number): Promise<ValueRow[]> {
    const answer = await this.#duck.query(await this.#sql(completeTo), this.#scope.values);
    return answer.rows.map((row) => this.#row(row, answer));
  }

  /** What the dimensions have together in the range that is asked for: at most `limit`, those with the most rows. */
  async groups(limit: number): Promise<Readonly<Record<string, unknown>>[]> {
    const dims = this.#by.map((d) => `d${d}`).join(', ');
    const answer = await this.#duck.query(
      `SELECT ${dims} FROM (${this.#base()}) GROUP BY ${dims} ORDER BY sum(_n) DESC, ${dims} LIMIT ${limit}`,
      this.#scope.values,
    );
    return answer.rows.map((row) => this.#dimensions(row, answer));
  }

  #dimension(parameter: string, name: string): number {
    const { dimensions, config } = this.#compiled;
    const index = dimensions.findIndex((one) => one.name === name);
    if (index === -1)
      throw refused(
        parameter,
        `${config.name} has no dimension ${name}. Dimensions: ${dimensions.map((one) => one.name).join(', ') || 'none'}`,
      );
    return index;
  }

  async #sql(completeTo: number): Promise<string> {
    const { calendar, config } = this.#compiled;
    const grain = this.#grain;
    const windows = this.#windowed();
    const filled = this.#ask.fill === 'empty' && grain !== null;
    const parts: string[] = [`_base AS (${this.#base()})`];
    if (windows.length > 0 || filled) parts.push(`_grid AS (${await this.#grid()})`);
    const direct = this.#direct();
    if (direct !== null) parts.push(`_direct AS (${direct})`);
    for (const [i, one] of windows.entries()) parts.push(`_w${i} AS (${this.#window(one, grain as Grain)})`);
    const key = ['bucket', ...this.#by.map((d) => `d${d}`)];
    const list = key.join(', ');
    const keys = [`SELECT ${list} FROM _base`, ...windows.map((_, i) => `SELECT ${list} FROM _w${i}`)];
    const dims = this.#by.map((d) => `d${d}`).join(', ');
    if (filled)
      keys.push(
        dims === ''
          ? 'SELECT bucket FROM _grid'
          : `SELECT _grid.bucket, ${dims} FROM _grid, (SELECT DISTINCT ${dims} FROM _base)`,
      );
    parts.push(`_keys AS (${keys.join(' UNION ')})`);
    const joined = ['_base', ...(direct === null ? [] : ['_direct']), ...windows.map((_, i) => `_w${i}`)]
      .map((name) => `LEFT JOIN ${name} ON ${key.map((one) => `k.${one} IS NOT DISTINCT FROM ${name}.${one}`).join(' AND ')}`)
      .join(' ');
    const columns = this.#needed().map((one) => `${this.#column(one, windows)} AS ${duckIdent(one.name)}`);
    const derived = this.#chosen.flatMap(({ name, measure }) =>
      measure.kind === 'derived' ? [`(${measure.sql}\n) AS ${duckIdent(name)}`] : [],
    );
    const told = [
      ...bucketColumns('bucket', calendar),
      'coalesce(_revision, 0) AS _revision',
      'coalesce(_flagged, false) AS _flagged',
      grain ? `${endOf(grain, 'bucket', calendar)} <= make_timestamptz(${completeTo}::BIGINT) AS _closed` : 'false AS _closed',
    ];
    const revisions = `SELECT bucket AS b, max(revision) AS _revision, bool_or(flagged) AS _flagged FROM _meta.revisions WHERE kpi = ${duckLiteral(config.name)} AND grain = ${duckLiteral(grain ?? '')} GROUP BY bucket`;
    return `WITH ${parts.join(', ')}
      SELECT ${['*', ...derived, ...told].join(', ')} FROM (SELECT k.*, ${columns.join(', ')} FROM _keys k ${joined}) v
      LEFT JOIN (${revisions}) r ON r.b = v.bucket WHERE ${this.#range('v.bucket')} ORDER BY ${list}`;
  }

  /** Measures to be had: those asked for, and those that they are made from. */
  #needed(): CompiledMeasure[] {
    const all = this.#compiled.measures;
    const derives = this.#chosen.some(({ measure }) => measure.kind === 'derived');
    if (derives) return all.filter(({ measure }) => measure.kind !== 'derived');
    const names = new Set(this.#chosen.flatMap(({ name, measure }) => ('of' in measure ? [name, measure.of] : [name])));
    return all.filter(({ name }) => names.has(name));
  }

  #windowed(): CompiledMeasure[] {
    return this.#needed().filter(({ measure }) => 'of' in measure);
  }

  /** Keys of all rows, and what is additive. */
  #base(): string {
    const additive = this.#plain().filter(({ overAgg }) => overAgg !== null && this.#kept !== null);
    const values = additive.map(({ name, overAgg }) => `${overAgg} AS ${duckIdent(name)}`);
    return this.#kept
      ? this.#over({ bucket: this.#truncated('bucket'), values: ['sum(n) AS _n', ...values] })
      : this.#overRows({ bucket: this.#truncated(this.#compiled.bucket), values: ['count(*) AS _n'] });
  }

  /** What is not additive: as it is kept where that answers the question, else computed from the rows. */
  #direct(): string | null {
    const others = this.#plain().filter(({ overAgg }) => overAgg === null || this.#kept === null);
    if (others.length === 0) return null;
    const { dimensions } = this.#compiled;
    const filtered = this.#scope.condition !== null || Object.keys(this.#ask.filter ?? {}).length > 0;
    const whole = this.#by.length === dimensions.length && !filtered;
    if (this.#kept && whole) {
      const list = ['bucket', ...this.#by.map((d) => `d${d}`), ...others.map(({ name }) => duckIdent(name))].join(', ');
      return `SELECT ${list} FROM ${this.#kept.val} WHERE grain = ${duckLiteral(this.#grain ?? 'total')} AND ${this.#range('bucket')}`;
    }
    const values = others.map(({ name, overRows }) => `${overRows}\n AS ${duckIdent(name)}`);
    return this.#overRows({ bucket: this.#truncated(this.#compiled.bucket), values });
  }

  #plain(): CompiledMeasure[] {
    return this.#needed().filter(({ measure }) => measure.kind === 'sql');
  }

  /** A measure over a window that its bucket names. */
  #window(one: CompiledMeasure, grain: Grain): string {
    const { measure } = one;
    if (!('of' in measure)) throw new Error(`${one.name} has no window`);
    const of = this.#compiled.measures.find(({ name }) => name === measure.of) as CompiledMeasure;
    const { calendar } = this.#compiled;
    const end = endOf(grain, '_grid.bucket', calendar);
    const [low, high] =
      measure.kind === 'rolling'
        ? [shift(end, { ...measure.span, count: -measure.span.count }, calendar), end]
        : measure.kind === 'to_date'
          ? [trunc(measure.grain, '_grid.bucket', calendar), end]
          : [
              shift('_grid.bucket', { ...measure.span, count: -measure.span.count }, calendar),
              shift(end, { ...measure.span, count: -measure.span.count }, calendar),
            ];
    // Computed once a bucket, not once a pair of bucket and row.
    const grid = `(SELECT bucket, ${low} AS low, ${high} AS high FROM _grid) AS _grid`;
    const within = (bucket: string) => `JOIN ${grid} ON ${bucket} >= _grid.low AND ${bucket} < _grid.high`;
    return of.overAgg !== null && this.#kept !== null
      ? this.#over({ bucket: '_grid.bucket', values: [`${of.overAgg} AS value`], join: within('a.bucket') })
      : this.#overRows({ bucket: '_grid.bucket', values: [`${of.overRows}\n AS value`], join: within(this.#compiled.bucket) });
  }

  #over({ bucket, values, join = '' }: { bucket: string; values: readonly string[]; join?: string }): string {
    const dims = this.#by.map((d) => `d${d}`);
    const where = [join === '' ? this.#range('a.bucket') : 'true', ...this.#filters((d) => `d${d}`)].join(' AND ');
    return `SELECT ${[`${bucket} AS bucket`, ...dims, ...values].join(', ')} FROM ${this.#kept?.agg} a ${join} WHERE ${where} GROUP BY ALL`;
  }

  #overRows({ bucket, values, join = '' }: { bucket: string; values: readonly string[]; join?: string }): string {
    const { compiled } = { compiled: this.#compiled };
    const sqlOf = (d: number) => `(${compiled.dimensions[d]?.sql}\n)`;
    const from = fromClause(compiled, ({ table }) => this.#view(table));
    const range = join === '' ? this.#range(compiled.bucket) : 'true';
    const where = [compiled.where, range, ...this.#filters(sqlOf)].join(' AND ');
    const dims = this.#by.map((d) => `${sqlOf(d)} AS d${d}`);
    return `SELECT ${[`${bucket} AS bucket`, ...dims, ...values].join(', ')} FROM ${from} ${join} WHERE ${where} GROUP BY ALL`;
  }

  #filters(sqlOf: (dimension: number) => string): string[] {
    const asked = Object.entries(this.#ask.filter ?? {}).map(
      ([name, values]) => `${sqlOf(this.#dimension('filter', name))}::VARCHAR IN (${values.map(duckLiteral).join(', ')})`,
    );
    const { condition } = this.#scope;
    return condition === null ? asked : [...asked, condition((name) => sqlOf(this.#dimension('row_filter', name)))];
  }

  #truncated(bucket: string): string {
    return this.#grain ? trunc(this.#grain, bucket, this.#compiled.calendar) : 'NULL::TIMESTAMPTZ';
  }

  /** SQL: lies a bucket in the range that is asked for? */
  #range(bucket: string): string {
    const { from, to } = this.#ask;
    const begins = this.#grain && from !== undefined ? [`${bucket} >= ${this.#truncated(this.#at('from', from))}`] : [];
    return [...begins, ...(this.#grain && to !== undefined ? [`${bucket} < ${this.#at('to', to)}`] : [])].join(' AND ') || 'true';
  }

  /**
   * A SELECT, with the scope's values to bind, of the values as a flat table: bucket (an instant), dimensions and measures in types of their own, revision, closed.
   * @param completeTo µs since 1970
   */
  async flat(completeTo: number): Promise<string> {
    const { dimensions } = this.#compiled;
    const columns = [
      ...(this.#grain ? ['bucket'] : []),
      ...this.#by.map((d) => `d${d} AS ${duckIdent(dimensions[d]?.name as string)}`),
      ...this.#chosen.map(({ name }) => duckIdent(name)),
      'coalesce(_revision, 0) AS revision',
      '_closed AS closed',
    ];
    return `SELECT ${columns.join(', ')} FROM (${await this.#sql(completeTo)})`;
  }

  /**
   * A SELECT, with the scope's values to bind, of the joined rows behind one bucket, every column as `alias.column`.
   * @param bucket an instant within the bucket; null for a KPI without time
   */
  behind(bucket: string | null): string {
    const { calendar, bucket: own, from, where } = this.#compiled;
    if (this.#grain && bucket === null) throw refused('bucket', 'is missing: an instant in the bucket whose rows are wanted');
    const within = this.#grain
      ? `${trunc(this.#grain, own, calendar)} = ${trunc(this.#grain, this.#at('bucket', bucket as string), calendar)}`
      : 'true';
    const columns = from.flatMap(({ alias, table }) =>
      table.columns.map(({ name, ident }) => `${duckIdent(alias)}.${ident} AS ${duckIdent(`${alias}.${name}`)}`),
    );
    const filters = this.#filters((d) => `(${this.#compiled.dimensions[d]?.sql}\n)`);
    const rows = fromClause(this.#compiled, ({ table }) => this.#view(table));
    return `SELECT ${columns.join(', ')} FROM ${rows} WHERE ${[where, within, ...filters].join(' AND ')}`;
  }

  #at(parameter: string, text: string): string {
    return writtenInstant(text, this.#compiled.calendar, parameter);
  }

  /** Every bucket of the range, or from the first to the last with rows. */
  async #grid(): Promise<string> {
    const grain = this.#grain as Grain;
    const { calendar } = this.#compiled;
    const { from, to } = this.#ask;
    const [found] = await this.#duck.rows<{ first: string | null; last: string | null }>(
      `SELECT min(bucket)::VARCHAR AS first, max(bucket)::VARCHAR AS last FROM (${this.#base()})`,
      this.#scope.values,
    );
    const there = (text: string | null | undefined) => (text ? `TIMESTAMPTZ ${duckLiteral(text)}` : null);
    const first = from === undefined ? there(found?.first) : this.#at('from', from);
    const end = to === undefined ? there(found?.last) : this.#at('to', to);
    if (!first || !end) return 'SELECT NULL::TIMESTAMPTZ AS bucket LIMIT 0';
    const start = trunc(grain, first, calendar);
    const before = to === undefined ? '<=' : '<';
    const count = `SELECT date_diff('${grain}', ${start}, ${end}) AS n`;
    const [size] = await this.#duck.rows<{ n: number }>(count);
    if ((size?.n ?? 0) > BUCKETS_MAX)
      throw refused('from', `more than ${BUCKETS_MAX} buckets: name a shorter range, or a coarser grain`);
    const steps = `unnest(range(0, ${Math.max(0, size?.n ?? 0) + 2})) AS step`;
    const bucket = `${shift(start, { count: 0, unit: grain }, calendar).replace(/\(0\)/, '(step)')}`;
    return `SELECT bucket FROM (SELECT ${bucket} AS bucket FROM (SELECT ${steps})) WHERE bucket ${before} ${end}`;
  }

  /** SQL of a measure over the joined parts of one answer. */
  #column(one: CompiledMeasure, windows: readonly CompiledMeasure[]): string {
    const { measure } = one;
    const empty = (sql: string, counts: boolean) => (counts || measure.empty === 'zero' ? `coalesce(${sql}, 0)` : sql);
    if (measure.kind === 'sql') return empty(this.#source(one), one.counts);
    const of = this.#compiled.measures.find(({ name }) => 'of' in measure && name === measure.of) as CompiledMeasure;
    const value = empty(`_w${windows.indexOf(one)}.value`, of.counts);
    if (measure.kind !== 'versus' || measure.as === 'value') return value;
    const base = empty(this.#source(of), of.counts);
    return measure.as === 'ratio' ? `(${base}) / ${value}` : `((${base}) - ${value}) / ${value}`;
  }

  #source({ name, overAgg }: CompiledMeasure): string {
    return `${overAgg !== null && this.#kept !== null ? '_base' : '_direct'}.${duckIdent(name)}`;
  }

  #dimensions(row: Readonly<Record<string, unknown>>, { columns }: Answer): Readonly<Record<string, unknown>> {
    const types = new Map(columns.map(({ name, type }) => [name, type]));
    const { dimensions } = this.#compiled;
    return Object.fromEntries(
      this.#by.map((d) => [dimensions[d]?.name as string, plainNumber(row[`d${d}`], types.get(`d${d}`) ?? '')]),
    );
  }

  #row(row: Readonly<Record<string, unknown>>, answer: Answer): ValueRow {
    const types = new Map(answer.columns.map(({ name, type }) => [name, type]));
    const { config } = this.#compiled;
    const values = Object.fromEntries(this.#chosen.map(({ name }) => [name, plainNumber(row[name], types.get(name) ?? '')]));
    const targets = config.targets.filter(({ grain, measure }) => grain === this.#grain && measure in values);
    return {
      bucket: bucketText(row),
      dimensions: this.#dimensions(row, answer),
      values,
      revision: Number(row['_revision']),
      flagged: row['_flagged'] === true,
      closed: row['_closed'] === true,
      ...(targets.length > 0
        ? { targets: Object.fromEntries(targets.map((one) => [one.measure, targetView(one, values[one.measure])])) }
        : {}),
    };
  }
}

function targetView({ target, warn, crit, good }: KpiTarget, value: unknown): TargetView {
  if (value === null || value === undefined) return { target, status: 'unknown' };
  const misses = (limit: number | null) => limit !== null && (good === 'up' ? Number(value) < limit : Number(value) > limit);
  return { target, status: misses(crit) ? 'crit' : misses(warn) ? 'warn' : misses(target) ? 'below' : 'ok' };
}

/** Decimals are numbers where a double holds them exactly enough to print the same digits, and text beyond. */
function plainNumber(value: unknown, type: string): unknown {
  if (typeof value !== 'string' || !/^(DECIMAL|HUGEINT|BIGINT|UBIGINT)/.test(type)) return value;
  return value.replaceAll(/[-.]/g, '').replace(/^0+/, '').length <= 15 ? Number(value) : value;
}

function refused(parameter: string, message: string): Fault {
  return new Fault('query_refused', `${parameter}: ${message}`, { parameter });
}

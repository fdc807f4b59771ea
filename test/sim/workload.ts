import type { ColumnSchema, PgType } from '@tributary/core';
import { type ModelTable, type PostgresModel, type Transaction, type Values } from './pg-model.ts';
import type { World } from './world.ts';

const type = (oid: number, name: string): PgType => ({ oid, schema: 'pg_catalog', name, kind: 'base' });
const column = (name: string, of: PgType, key = 0): ColumnSchema => ({ name, type: of, typmod: -1, sqlType: of.name, key });
const INT8 = type(20, 'int8');
const TEXT = type(25, 'text');

/** Of few different values, so that rows are often equal. */
const KEYLESS = { schema: 'public', columns: [column('few', INT8), column('note', TEXT), column('big', TEXT)] } as const;

export interface WorkloadOptions {
  /** Mean time between two transactions that begin, ms. */
  readonly everyMs: number;
  /** Mean time between two statements, ms. */
  readonly statementMs: number;
  /** How long a commit record may be in the WAL before others see it, ms. */
  readonly visibleMs: number;
  /** Chance of a transaction that outgrows one message. */
  readonly hugeChance: number;
  readonly rows: number;
  /** Share of statements that concern the tables without key. */
  readonly keyless: number;
  /** Chance that a statement is a truncation. */
  readonly truncateChance: number;
}

/** Random transactions, several at a time, on two tables with a key and two without: one that tells old rows whole, one append-only. */
export class Workload {
  readonly #world: World;
  readonly #model: PostgresModel;
  readonly #options: WorkloadOptions;
  readonly tables: readonly ModelTable[];
  #serial = 0;
  #stopped = false;

  constructor(world: World, model: PostgresModel, options: WorkloadOptions) {
    this.#world = world;
    this.#model = model;
    this.#options = options;
    const one = { schema: 'public', table: 'one', identity: 'default' } as const;
    const two = { schema: 'public', table: 'two', identity: 'default' } as const;
    this.tables = [
      model.addTable(16_401, { ...one, columns: [column('id', INT8, 1), column('note', TEXT), column('big', TEXT)] }, [0]),
      model.addTable(
        16_402,
        { ...two, columns: [column('big', TEXT), column('b', TEXT, 2), column('a', INT8, 1), column('v', INT8)] },
        [2, 1],
      ),
      model.addTable(16_403, { ...KEYLESS, table: 'whole', identity: 'full' }, []),
      model.addTable(16_404, { ...KEYLESS, table: 'append', identity: 'default' }, []),
    ];
    const first = model.begin();
    for (const table of this.tables) for (let i = 0; i < options.rows; i++) this.#insert(first, table);
    model.commit(first);
    model.end(first);
  }

  start(): void {
    if (this.#stopped) return;
    this.#world.after(this.#world.random.long(this.#options.everyMs), () => {
      if (!this.#stopped && this.#model.running) this.#transaction();
      this.start();
    });
  }

  /** No new transactions; those that run end. */
  stop(): void {
    this.#stopped = true;
  }

  #transaction(): void {
    const { random } = this.#world;
    const transaction = this.#model.begin();
    const huge = random.chance(this.#options.hugeChance);
    this.#statement(transaction, huge ? 4 + random.below(6) : 1 + random.below(5), huge ? 200_000 : 60);
  }

  #statement(transaction: Transaction, left: number, lengthMax: number): void {
    const { random } = this.#world;
    if (transaction.state !== 'running') return;
    this.#write(transaction, lengthMax);
    const wait = random.chance(0.05) ? random.between(200, 4_000) : random.long(this.#options.statementMs);
    if (left > 1) this.#world.after(wait, () => this.#statement(transaction, left - 1, lengthMax));
    else this.#world.after(wait, () => this.#end(transaction));
  }

  #end(transaction: Transaction): void {
    const { random } = this.#world;
    if (transaction.state !== 'running') return;
    if (random.chance(0.1)) return this.#model.end(transaction);
    this.#model.commit(transaction);
    const { visibleMs } = this.#options;
    const wait = visibleMs > 0 && random.chance(0.3) ? random.long(visibleMs) : random.between(0, 0.2);
    this.#world.after(wait, () => this.#model.end(transaction));
  }

  #write(transaction: Transaction, lengthMax: number): void {
    const { random } = this.#world;
    const { keyless, truncateChance } = this.#options;
    const table = random.pick(random.chance(keyless) ? this.tables.slice(2) : this.tables.slice(0, 2));
    if (!this.#model.open(transaction, table)) return;
    if (random.chance(truncateChance)) return this.#model.truncate(transaction, table);
    if (random.chance(0.3)) return this.#insert(transaction, table);
    const keys = [...table.rows.keys()];
    const key = keys[random.below(keys.length)];
    const version = key === undefined ? null : this.#model.writable(transaction, table, key);
    if (!version) return;
    if (random.chance(0.3)) return this.#model.delete(transaction, table, version);
    if (random.chance(0.1)) {
      const values = this.#values(table, lengthMax, version.values);
      const moved = table.key.reduce<Values>((row, index) => row.with(index, this.#key(index)), values);
      return this.#model.update(transaction, table, version, moved);
    }
    this.#model.update(transaction, table, version, this.#values(table, lengthMax, version.values));
  }

  #insert(transaction: Transaction, table: ModelTable): void {
    this.#model.insert(transaction, table, this.#values(table, 60, null));
  }

  #key(index: number): string {
    return index === 1 ? `k ${this.#serial % 3}` : String(++this.#serial);
  }

  /** New values; with `old`, of some columns only, and never of the key. */
  #values({ schema, key }: ModelTable, lengthMax: number, old: Values | null): Values {
    const { random } = this.#world;
    if (key.length === 0 && random.chance(0.6)) return [String(random.below(3)), random.pick([null, 'a', 'b c']), null];
    return schema.columns.map((one, index) => {
      if (key.includes(index)) return old ? (old[index] as string) : this.#key(index);
      const keep = old && random.chance(one.name === 'big' && lengthMax < 100 ? 0.7 : 0.3);
      if (keep) return old[index] as string | null;
      if (random.chance(0.1)) return null;
      if (one.type === INT8) return String(random.below(1_000_000));
      return one.name === 'big' ? this.#long(lengthMax) : `n ${random.below(100_000)}`;
    });
  }

  #long(lengthMax: number): string {
    const { random } = this.#world;
    const length = lengthMax > 100 ? 100_000 + random.below(lengthMax) : random.below(lengthMax);
    return `${random.word().toString(36)}${'x'.repeat(length)}`;
  }
}

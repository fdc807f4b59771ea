import { join } from 'node:path';
import type { ProcessConfig } from '@tributary/config';
import { type Database, type Duck, openDisposable, Turns } from '@tributary/duckdb';
import { keepLearned, LEARNED_TABLE, learnedBefore, learnTransitions, withLearned } from '../conformance/learned.ts';
import { VERDICT_TABLES, VERDICT_UPGRADE } from '../conformance/kept.ts';
import { RECAST, Verdicts } from '../conformance/verdicts.ts';
import { caseOrderOf } from '../analysis/concurrent.ts';
import { KeptSteps } from '../analysis/kept-steps.ts';
import { openState } from '../state.ts';

export interface StoreOptions {
  readonly dataDir: string;
  readonly process: ProcessConfig;
  /** Memory for the cases that something happened in last. */
  readonly heldBytes: number;
  readonly warn: (facts: object, message: string) => void;
}

/** Emptied when the definition is another one. */
const TABLES = [
  'event',
  'relation',
  'object',
  'link',
  'place',
  'snapshot',
  'definition',
  'followed',
  'violation',
  'owed',
  'learned',
];

/** Higher with every change of what is kept of verdicts: then all cases are judged anew. */
const VERDICTS_FORMAT = 2;

/** Transactions whose notes stand in `recast`. */
const RECASTS_MAX = 1_000;

/** What one transaction notes for its end. */
const SCRATCH = [
  'CREATE TEMP TABLE _dirty (object VARCHAR, key VARCHAR)',
  'CREATE TEMP TABLE _mark (lsn UBIGINT, "table" VARCHAR, op VARCHAR)',
  'CREATE TEMP TABLE _part (tick BIGINT, lsn UBIGINT, object VARCHAR, key VARCHAR, kind VARCHAR, after VARCHAR)',
  'CREATE TEMP TABLE _tie (tick BIGINT, parent VARCHAR, parent_key VARCHAR)',
  RECAST,
];

/**
 * The DuckDB file of one process. One writer, who has {@link lock}: the projections of all its sources write through it, one at a
 * time; readers have connections of their own and see one moment.
 *
 * The state is disposable: of another definition, or where DuckDB cannot read it, it is made anew from the changelogs.
 */
export class ProcessStore {
  readonly process: ProcessConfig;
  readonly writer: Duck;
  /** As it is judged: with what it has learned. */
  #judging: ProcessConfig;
  #verdicts: Verdicts;
  readonly #heldBytes: number;
  readonly #database: Database;
  readonly #turns = new Turns();
  readonly #steps: KeptSteps;
  readonly #asking = new Turns();
  /** Notes in `recast` so far. */
  #recasts = 0;
  readonly #listeners = new Set<() => void>();

  private constructor(
    { process, heldBytes }: StoreOptions,
    { database, writer, asker }: { database: Database; writer: Duck; asker: Duck },
  ) {
    this.process = process;
    this.#database = database;
    this.writer = writer;
    this.#steps = new KeptSteps(asker, caseOrderOf(process));
    this.#judging = process;
    this.#heldBytes = heldBytes;
    this.#verdicts = new Verdicts(process, heldBytes);
  }

  /** @throws Fault `database_unreachable` when another process holds the file, `disk_full` */
  static async open(options: StoreOptions): Promise<ProcessStore> {
    const { dataDir, process, warn } = options;
    const path = join(dataDir, 'process', `${process.name}.duckdb`);
    const aside = (facts: object) => warn(facts, 'the state of the process cannot be read; it is put aside and made anew');
    const database = await openDisposable(path, () => openState(path), aside);
    try {
      const writer = await database.connect();
      for (const statement of [...VERDICT_TABLES, VERDICT_UPGRADE, LEARNED_TABLE, ...SCRATCH]) await writer.run(statement);
      // Of a process that ran before: nothing is kept yet that it speaks of.
      await writer.run('DELETE FROM recast');
      const store = new ProcessStore(options, { database, writer, asker: await database.connect() });
      await store.#define(warn);
      return store;
    } catch (error) {
      database.close();
      throw error;
    }
  }

  /** Aborts when DuckDB gave the file up; it is then to be opened anew. */
  get invalid(): AbortSignal {
    return this.#database.invalid;
  }

  /** The process as it is judged: with the transitions that it has learned. */
  get judging(): ProcessConfig {
    return this.#judging;
  }

  get verdicts(): Verdicts {
    return this.#verdicts;
  }

  /** With the lock, outside of a transaction: once all sources were read up to where it is to learn, what is learned judges all cases. */
  async learn(): Promise<void> {
    if (!this.process.conformance.learned || this.#judging !== this.process) return;
    const learned = await learnTransitions(this.writer, this.process);
    if (!learned) return;
    const judging = withLearned(this.process, learned);
    const verdicts = new Verdicts(judging, this.#heldBytes);
    await this.transaction(async (duck) => {
      await keepLearned(duck, this.process, learned);
      await verdicts.judgeAll(duck);
    });
    [this.#judging, this.#verdicts] = [judging, verdicts];
  }

  /** Hears of every commit of a source. @returns the function that ends it */
  listen(told: () => void): () => void {
    this.#listeners.add(told);
    return () => this.#listeners.delete(told);
  }

  /** Something was committed. */
  tell(): void {
    for (const told of this.#listeners) told();
  }

  /** Waits for its turn to write. @returns the function that ends it */
  lock(): Promise<() => void> {
    return this.#turns.take();
  }

  /** A connection that sees one moment; the caller closes it. */
  async reader(): Promise<Duck> {
    const duck = await this.#database.connect();
    await duck.run('BEGIN TRANSACTION READ ONLY');
    return duck;
  }

  /**
   * Asks of what is kept from one question to the next, as of one moment; one at a time, as it is kept on one connection.
   * @param work must not wait for whoever gets the answer
   */
  async asking<Answer>(work: (steps: KeptSteps) => Promise<Answer>): Promise<Answer> {
    const release = await this.#asking.take();
    const { duck } = this.#steps;
    try {
      await duck.run('BEGIN');
      try {
        return await work(this.#steps);
      } finally {
        await duck.run('COMMIT').catch(async () => {
          this.#steps.forget();
          await duck.run('ROLLBACK').catch(() => {});
        });
      }
    } finally {
      release();
    }
  }

  /**
   * In the transaction that is open: {@link KeptSteps} of the cases in `_recast`, or of all, are not right any more. What nobody asked for
   * in a long time is not told one by one.
   */
  async recast(what: 'noted' | 'all'): Promise<void> {
    const nth = ++this.#recasts;
    const all = what === 'all' || nth % RECASTS_MAX === 0;
    if (all) await this.writer.run('DELETE FROM recast');
    await this.writer.run(
      `INSERT INTO recast ${all ? `VALUES (${nth}, NULL)` : `SELECT DISTINCT ${nth}, "case" FROM _recast WHERE "case" IS NOT NULL`}`,
    );
  }

  /** With the lock: all or nothing. */
  async transaction(work: (duck: Duck) => Promise<void>): Promise<void> {
    await this.writer.run('BEGIN');
    try {
      await work(this.writer);
      await this.writer.run('COMMIT');
    } catch (error) {
      await this.rollback();
      throw error;
    }
  }

  /** With the lock: nothing of the transaction that is open stays, in memory neither. */
  async rollback(): Promise<void> {
    this.verdicts.forget();
    await this.writer.run('ROLLBACK').catch(() => {});
  }

  close(): void {
    this.writer.close();
    this.#steps.duck.close();
    this.#database.close();
  }

  /** What says which events there are, and what judges them: of other rules alone all cases are judged anew, from what is here. */
  async #define(warn: StoreOptions['warn']): Promise<void> {
    const { conformance, watch: _watched, ...made } = this.process;
    const [version, rules] = [JSON.stringify(made), JSON.stringify([VERDICTS_FORMAT, conformance])];
    const learned = await learnedBefore(this.writer, this.process);
    if (learned && this.process.conformance.learned) {
      this.#judging = withLearned(this.process, learned);
      this.#verdicts = new Verdicts(this.#judging, this.#heldBytes);
    }
    const [kept] = await this.writer.rows<{ version: string }>('SELECT version FROM definition');
    const [judged] = await this.writer.rows<{ version: string }>('SELECT version FROM judged');
    if (kept?.version === version && judged?.version === rules) return;
    const anew = kept?.version !== version;
    if (kept && anew) warn({ process: this.process.name }, 'the process is defined anew, and computed from the start');
    await this.transaction(async (duck) => {
      if (anew) for (const table of TABLES) await duck.run(`DELETE FROM ${table}`);
      if (anew) await duck.run('INSERT INTO definition VALUES ($1)', [version]);
      if (anew) [this.#judging, this.#verdicts] = [this.process, new Verdicts(this.process, this.#heldBytes)];
      await this.verdicts.judgeAll(duck);
      await duck.run('DELETE FROM judged');
      await duck.run('INSERT INTO judged VALUES ($1)', [rules]);
    });
    await this.learn();
  }
}

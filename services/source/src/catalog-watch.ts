import { createHash } from 'node:crypto';
import { Fault, type TableSchema } from '@tributary/core';
import type { CatalogTable } from '@tributary/postgres';
import type { Contract, Shape } from './contract.ts';
import type { SourceSession } from './database.ts';
import type { RelationMessage } from './pgoutput.ts';
import type { SourceState, TableState } from './state.ts';

/** Whole tables up to this many blocks are compared by content at every look; larger ones by statistics. */
const CONTENT_BLOCKS_MAX = 2_048;

export interface CatalogWatchOptions {
  readonly session: SourceSession;
  readonly wanted: (table: string) => boolean;
  readonly state: SourceState;
  /** Take snapshots of tables that were never captured. */
  readonly snapshots: boolean;
  /** Changes the stream has brought of a table. */
  readonly changesOf: (table: string) => number;
  /** Called when some table's snapshot became due. */
  readonly due: () => void;
  readonly contract: Contract;
  /** Stores the state, with everything that is due by now. */
  readonly persist: () => Promise<unknown>;
}

/**
 * Keeps the publications, and the list of due snapshots, equal to what the database holds: tables that appear, change
 * their shape or key, gain, lose or truncate partitions, and append-only tables that changed otherwise.
 */
export class CatalogWatch {
  readonly #options: CatalogWatchOptions;
  #tables = new Map<string, CatalogTable>();
  /** Transactions below this xid may have changed the table before it was published. */
  readonly #unpublishedBelow = new Map<string, bigint>();
  /** Whole tables: changes the stream had brought when the content was last known. */
  readonly #counted = new Map<string, number>();
  #looking: Promise<void> = Promise.resolve();
  /** Fingerprint of a catalog that has been checked since. */
  #glanced = '';

  constructor(options: CatalogWatchOptions) {
    this.#options = options;
  }

  table(name: string): CatalogTable | undefined {
    return this.#tables.get(name);
  }

  get tables(): ReadonlyMap<string, CatalogTable> {
    return this.#tables;
  }

  unpublishedBelow(name: string): bigint {
    return this.#unpublishedBelow.get(name) ?? 0n;
  }

  schemaOf(table: CatalogTable): Promise<TableSchema> {
    return this.#options.session.schemaOf(table);
  }

  /** Columns that consumers keep and the tables do not give. */
  kept(): Record<string, string[]> {
    return this.#options.contract.kept(this.#tables);
  }

  /** How a snapshot reads and tells a table. @throws Fault `contract_broken` */
  async shapeOf(table: CatalogTable): Promise<Shape> {
    return this.#options.contract.shape(await this.schemaOf(table), table);
  }

  /** @param exact leave no doubt: read again every append-only table whose content is not certain. @throws Fault `contract_broken` */
  check(exact: boolean): Promise<void> {
    this.#looking = this.#looking.catch(() => {}).then(() => this.#check(exact));
    return this.#looking;
  }

  /**
   * Checks only when the catalog is another than at the last look, or when some table's content must be watched, which no
   * catalog tells. @param catalog its fingerprint; what changes after it was taken is seen at the next look
   */
  async glance(catalog: string): Promise<void> {
    const told = [...this.#tables.values()].every((table) => table.identifiable);
    if (told && catalog === this.#glanced) return;
    await this.check(false);
    this.#glanced = catalog;
  }

  async #check(exact: boolean): Promise<void> {
    const { session, wanted, state, contract, persist } = this.#options;
    const tables = await session.tables(wanted);
    const added = await this.#publish(tables);
    const found = new Map(tables.map((table) => [`${table.schema}.${table.table}`, table]));
    // Also of a table that was published already: an earlier leader may have done it a moment ago, and died.
    const fresh = new Set([...added, ...[...found.keys()].filter((name) => !this.#tables.has(name))]);
    if (fresh.size > 0) {
      const xid = await session.nextXid();
      for (const name of fresh) this.#unpublishedBelow.set(name, xid);
    }
    this.#tables = found;
    let due = false;
    for (const [name, table] of this.#tables) due = (await this.#consider(name, table, exact)) || due;
    for (const [name, { open }] of Object.entries(state.tables)) {
      if (this.#tables.has(name)) continue;
      // Nobody may wait for the end of a reading that has no table any more.
      if (open) due = this.request(name);
      else delete state.tables[name];
    }
    const broken = contract.look(this.#tables);
    // Whoever goes on when the tables fit again may find them as they were: that they must be read again is told before.
    if (broken && due) await persist();
    if (broken) throw broken;
    if (due) this.#options.due();
  }

  /** @returns true when a snapshot of the table became due */
  async #consider(name: string, table: CatalogTable, exact: boolean): Promise<boolean> {
    const { state, snapshots } = this.#options;
    const places = table.columns.map((column) => column.place);
    const shape = fingerprint({
      columns: table.columns.map(({ place: _place, ...column }) => column),
      // A column that was dropped and made again is another one.
      ...(places.some((place, i) => place !== i + 1) ? { places } : {}),
      key: table.key,
      identity: table.identity,
      identifiable: table.identifiable,
    });
    const leaves = table.partitioned ? fingerprint(table.leaves.map((leaf) => [leaf.oid, leaf.file])) : '';
    const mode = table.identifiable && table.key.length > 0 ? 'keyed' : 'whole';
    const known = state.tables[name];
    const same = known && known.oid === table.oid && known.mode === mode && known.shape === shape && known.leaves === leaves;
    if (same)
      return (
        known.snapshot === null &&
        !table.identifiable &&
        (await this.#changedUnseen(name, table, known, exact)) &&
        this.request(name)
      );
    const { snapshot = null, skip = null, open = false } = known ?? {};
    state.tables[name] = { oid: table.oid, mode, shape, leaves, snapshot, open, churn: '', content: '', skip };
    if (!known && !snapshots) return false;
    return this.request(name);
  }

  /** Makes a snapshot of a known table due (a running one starts over). @returns true */
  request(name: string): true {
    const { state } = this.#options;
    const table = state.tables[name];
    if (!table) throw new Fault('not_found', `there is no captured table ${name}`);
    table.snapshot = { generation: ++state.generation, begun: false, leaf: 0, block: 0, reread: [] };
    return true;
  }

  async #changedUnseen(name: string, table: CatalogTable, known: TableState, exact: boolean): Promise<boolean> {
    if (table.churn !== known.churn) return true;
    const quiet = this.#counted.get(name) === this.#options.changesOf(name);
    if (!quiet) return exact;
    if (blocksOf(table) > CONTENT_BLOCKS_MAX) return false;
    return (await this.contentOf(this.#options.session, table)) !== known.content;
  }

  /** Notes that a whole table's content is known as of now. */
  settled(name: string): void {
    this.#counted.set(name, this.#options.changesOf(name));
  }

  /** Number and hash of all rows, whatever their order; '' for a table too large to ask often. */
  async contentOf(session: SourceSession, table: CatalogTable): Promise<string> {
    return blocksOf(table) > CONTENT_BLOCKS_MAX ? '' : session.contentOf(table);
  }

  /** @returns names of tables that were not published before */
  async #publish(tables: readonly CatalogTable[]): Promise<string[]> {
    const { session } = this.#options;
    const members = await session.published();
    const added: string[] = [];
    for (const [publication, other, identifiable] of [
      ['all', 'append', true],
      ['append', 'all', false],
    ] as const) {
      const right = tables.filter((table) => table.identifiable === identifiable);
      const missing = right.filter((table) => !members[publication].has(table.oid));
      if (missing.length > 0) await session.publish(publication, missing);
      added.push(...missing.map((table) => `${table.schema}.${table.table}`));
      for (const table of right) if (members[other].has(table.oid)) await session.unpublish(other, table);
    }
    return added;
  }

  /**
   * The shape of a relation as the stream describes it, completed from the catalog.
   * @throws Fault `contract_broken`
   */
  async lookup(relation: RelationMessage): Promise<Shape> {
    const { session, contract, state } = this.#options;
    const name = `${relation.schema}.${relation.table}`;
    const [table] = await session.tables((one) => one === name);
    const same =
      table &&
      table.columns.length === relation.columns.length &&
      table.columns.every((column, i) => {
        const told = relation.columns[i];
        return told && column.name === told.name && column.type === told.type && column.typmod === told.typmod;
      });
    const schema = same ? await session.schemaOf(table) : await session.historicSchema(relation, table);
    const shape = await contract.shape(schema, table);
    // What is left out comes with a snapshot that begins after this moment: it sees all of it, for the table has changed its shape since.
    if (shape.leftOut && state.tables[name]) {
      this.request(name);
      this.#options.due();
    }
    return shape;
  }
}

function blocksOf(table: CatalogTable): number {
  return table.leaves.reduce((sum, leaf) => sum + leaf.blocks, 0);
}

function fingerprint(value: unknown): string {
  return createHash('sha256').update(JSON.stringify(value)).digest('base64url').slice(0, 16);
}

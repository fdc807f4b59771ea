import { createHash } from 'node:crypto';
import { Fault, type TableSchema } from '@tributary/core';
import {
  type CatalogTable,
  quoteIdent,
  quoteTable,
  readTables,
  type Session,
  sqlState,
  tableSchemaOf,
  TypeCatalog,
  Visibility,
} from '@tributary/postgres';
import type { RelationMessage } from './pgoutput.ts';
import { publicationNames } from './slot.ts';
import type { SourceState, TableState } from './state.ts';

/** Whole tables up to this many blocks are compared by content at every look; larger ones by statistics. */
const CONTENT_BLOCKS_MAX = 2_048;

export interface CatalogWatchOptions {
  readonly source: string;
  readonly session: Session;
  readonly version: number;
  readonly wanted: (table: string) => boolean;
  readonly state: SourceState;
  /** Take snapshots of tables that were never captured. */
  readonly snapshots: boolean;
  /** Changes the stream has brought of a table. */
  readonly changesOf: (table: string) => number;
  /** Called when some table's snapshot became due. */
  readonly due: () => void;
}

/**
 * Keeps the publications, and the list of due snapshots, equal to what the database holds: tables that appear, change
 * their shape or key, gain, lose or truncate partitions, and append-only tables that changed otherwise.
 */
export class CatalogWatch {
  readonly #options: CatalogWatchOptions;
  readonly types = new TypeCatalog();
  #tables = new Map<string, CatalogTable>();
  /** Transactions below this xid may have changed the table before it was published. */
  readonly #unpublishedBelow = new Map<string, bigint>();
  /** Whole tables: changes the stream had brought when the content was last known. */
  readonly #counted = new Map<string, number>();
  #looking: Promise<void> = Promise.resolve();

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
    return tableSchemaOf(this.#options.session, this.types, table);
  }

  /** @param exact leave no doubt: read again every append-only table whose content is not certain */
  check(exact: boolean): Promise<void> {
    this.#looking = this.#looking.catch(() => {}).then(() => this.#check(exact));
    return this.#looking;
  }

  async #check(exact: boolean): Promise<void> {
    const { session, wanted, version, state } = this.#options;
    const tables = await readTables(session, wanted, version);
    const added = await this.#publish(tables);
    const { snapshot } = await session.row<{ snapshot: string }>('SELECT pg_current_snapshot()::text AS snapshot');
    const { xmax } = new Visibility(snapshot);
    for (const name of added) this.#unpublishedBelow.set(name, xmax);
    this.#tables = new Map(tables.map((table) => [`${table.schema}.${table.table}`, table]));
    let due = false;
    for (const [name, table] of this.#tables) due = (await this.#consider(name, table, exact)) || due;
    for (const name of Object.keys(state.tables)) if (!this.#tables.has(name)) delete state.tables[name];
    if (due) this.#options.due();
  }

  /** @returns true when a snapshot of the table became due */
  async #consider(name: string, table: CatalogTable, exact: boolean): Promise<boolean> {
    const { state, snapshots } = this.#options;
    const shape = fingerprint({
      columns: table.columns,
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
    const snapshot = known?.snapshot ?? null;
    state.tables[name] = { oid: table.oid, mode, shape, leaves, snapshot, churn: '', content: '', skip: known?.skip ?? null };
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
  async contentOf(session: Session, table: CatalogTable): Promise<string> {
    if (blocksOf(table) > CONTENT_BLOCKS_MAX) return '';
    const { content } = await session.row<{ content: string }>(
      `SELECT count(*) || ':' || coalesce(sum(hashtextextended(t::text, 0)::numeric), 0) AS content FROM ${quoteTable(table.schema, table.table)} t`,
    );
    return content;
  }

  /** @returns names of tables that were not published before */
  async #publish(tables: readonly CatalogTable[]): Promise<string[]> {
    const { session, source } = this.#options;
    const [all, append] = publicationNames(source);
    const published = await session.rows<{ publication: string; oid: number }>(
      `SELECT p.pubname AS publication, r.prrelid::int8::float8 AS oid FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid
        WHERE p.pubname IN ($1, $2)`,
      [all, append],
    );
    const inAll = new Set(published.filter((row) => row.publication === all).map((row) => row.oid));
    const inAppend = new Set(published.filter((row) => row.publication === append).map((row) => row.oid));
    const added: string[] = [];
    for (const [publication, other, identifiable, members, others] of [
      [all, append, true, inAll, inAppend],
      [append, all, false, inAppend, inAll],
    ] as const) {
      const right = tables.filter((table) => table.identifiable === identifiable);
      const missing = right.filter((table) => !members.has(table.oid));
      if (missing.length > 0) await this.#add(publication, missing);
      added.push(...missing.map((table) => `${table.schema}.${table.table}`));
      for (const table of right) {
        if (!others.has(table.oid)) continue;
        await this.#alter(`ALTER PUBLICATION ${quoteIdent(other)} DROP TABLE ${quoteTable(table.schema, table.table)}`, table);
      }
    }
    return added;
  }

  /** All at once, so that transactions over several tables come whole from the first moment; one by one to name the culprit. */
  async #add(publication: string, tables: readonly CatalogTable[]): Promise<void> {
    const sql = (some: readonly CatalogTable[]) =>
      `ALTER PUBLICATION ${quoteIdent(publication)} ADD TABLE ${some.map((table) => `ONLY ${quoteTable(table.schema, table.table)}`).join(', ')}`;
    try {
      await this.#options.session.run(`SET lock_timeout = '5s'; ${sql(tables)}; SET lock_timeout = 0`);
    } catch (error) {
      if (!/^(42P01|42710|42501)$/.test(sqlState(error))) throw error;
      for (const table of tables) await this.#alter(sql([table]), table);
    }
  }

  async #alter(sql: string, { schema, table }: CatalogTable): Promise<void> {
    try {
      await this.#options.session.run(`SET lock_timeout = '5s'; ${sql}; SET lock_timeout = 0`);
    } catch (error) {
      const state = sqlState(error);
      // Somebody dropped it, or did the same, meanwhile: the next look sees.
      if (state === '42P01' || state === '42710' || state === '42704') return;
      if (state === '42501') {
        throw new Fault(
          'source_misconfigured',
          `this role may not publish ${schema}.${table}: only its owner may. Run as the owner: ${sql}; or leave the table out with "!${schema}.${table}".`,
          { table: `${schema}.${table}` },
          { cause: error },
        );
      }
      throw error;
    }
  }

  /** The shape of a relation as the stream describes it, completed from the catalog. */
  async lookup(relation: RelationMessage): Promise<TableSchema> {
    const { session, version } = this.#options;
    const name = `${relation.schema}.${relation.table}`;
    const [table] = await readTables(session, (one) => one === name, version);
    const same =
      table &&
      table.columns.length === relation.columns.length &&
      table.columns.every((column, i) => {
        const told = relation.columns[i];
        return told && column.name === told.name && column.type === told.type && column.typmod === told.typmod;
      });
    if (same) return tableSchemaOf(session, this.types, table);
    return this.#historic(relation, table);
  }

  /** A shape that the table no longer has: the message tells names and types, the catalog what it still knows of them. */
  async #historic(relation: RelationMessage, table: CatalogTable | undefined): Promise<TableSchema> {
    const { session } = this.#options;
    await this.types.load(
      session,
      relation.columns.map((column) => column.type),
    );
    const names = await session.rows<{ name: string }>(
      'SELECT format_type(t.oid, t.mod) AS name FROM unnest($1::oid[], $2::int[]) WITH ORDINALITY t(oid, mod, n) ORDER BY t.n',
      [relation.columns.map((column) => column.type), relation.columns.map((column) => column.typmod)],
    );
    const flagged = relation.identity === 'f' ? [] : relation.columns.filter((column) => column.key).map((column) => column.name);
    const all = new Set(relation.columns.map((column) => column.name));
    const present = table?.key.every((column) => all.has(column)) ? table.key : [];
    const key =
      present.length > 0 && (flagged.length === 0 || present.every((column) => flagged.includes(column))) ? present : flagged;
    return {
      schema: relation.schema,
      table: relation.table,
      identity: ({ d: 'default', i: 'index', f: 'full' } as const)[relation.identity] ?? 'nothing',
      columns: relation.columns.map((column, i) => {
        const sqlType = names[i]?.name ?? '???';
        return {
          name: column.name,
          type: this.types.tree(column.type),
          typmod: column.typmod,
          sqlType: sqlType === '???' || sqlType === '-' ? 'text' : sqlType,
          key: key.indexOf(column.name) + 1,
        };
      }),
    };
  }
}

function blocksOf(table: CatalogTable): number {
  return table.leaves.reduce((sum, leaf) => sum + leaf.blocks, 0);
}

function fingerprint(value: unknown): string {
  return createHash('sha256').update(JSON.stringify(value)).digest('base64url').slice(0, 16);
}

import { Fault, type Lsn, type TableSchema } from '@tributary/core';
import type { CatalogTable, Visibility } from '@tributary/postgres';
import type { Replication, ReplicateOptions, Rows, SourceDatabase, SourceSession } from '@tributary/source';
import { Link, type Weather } from './link.ts';
import { type ModelTable, type PostgresModel, SLOT, TOAST_LENGTH, type Values } from './pg-model.ts';
import type { Process } from './scheduler.ts';
import { Walsender } from './walsender.ts';
import type { World } from './world.ts';

export interface DatabaseOptions {
  readonly world: World;
  readonly process: Process;
  readonly model: PostgresModel;
  /** Without loss: TCP sends again. */
  readonly weather: Weather;
  /** Told of every confirmed position that arrives. */
  readonly confirmed: (lsn: Lsn) => void;
}

const unreachable = (why: string) => new Fault('database_unreachable', why);

/** One process's way to the simulated database: a link for every connection. */
export class SimDatabase implements SourceDatabase {
  readonly #options: DatabaseOptions;
  readonly links = new Set<Link>();

  constructor(options: DatabaseOptions) {
    this.#options = options;
  }

  link(): Link {
    const { world, process, weather } = this.#options;
    const link = new Link(world, process, { weather, unreachable, reconnects: false });
    this.links.add(link);
    return link;
  }

  async open(): Promise<SourceSession> {
    const link = this.link();
    const session = new SimSession(this.#options, link, () => this.links.delete(link));
    await session.ping();
    return session;
  }

  replicate(options: ReplicateOptions): Replication {
    const link = this.link();
    return new Walsender({ ...this.#options, link, options, closed: () => this.links.delete(link) });
  }
}

class SimSession implements SourceSession {
  readonly #options: DatabaseOptions;
  readonly #link: Link;
  readonly #closed: () => void;
  #broken: Fault | null = null;
  #seen: Visibility | null = null;

  constructor(options: DatabaseOptions, link: Link, closed: () => void) {
    this.#options = options;
    this.#link = link;
    this.#closed = closed;
    link.onBreak(() => {
      this.#broken ??= unreachable('session broke');
    });
  }

  /** A statement, which runs at the server in one go. */
  #ask<T>(answer: (model: PostgresModel) => T): Promise<T> {
    if (this.#broken) return Promise.reject(this.#broken);
    return this.#link.call(() => {
      const { model } = this.#options;
      if (!model.running) throw unreachable('the database is down');
      return answer(model);
    });
  }

  async ping(): Promise<void> {
    await this.#ask(() => null);
  }

  server() {
    return this.#ask(({ systemId, version }) => ({ systemId, version }));
  }

  ensurePublications(): Promise<void> {
    return this.#ask((model) => {
      model.publicationsMade = true;
    });
  }

  ensureSlot() {
    return this.#ask((model) => {
      if (!model.publicationsMade) throw new Fault('database_rejected', 'the slot was made before the publications');
      const known = model.slots.get(SLOT);
      if (known) return { name: SLOT, confirmed: known.confirmed, created: false };
      const { lsn } = model;
      model.firstSlotAt ??= lsn;
      model.newestSlotAt = lsn;
      model.slots.set(SLOT, { confirmed: lsn, persisted: lsn, reader: null });
      return { name: SLOT, confirmed: lsn, created: true };
    });
  }

  slotHealth() {
    return this.#ask(healthOf);
  }

  look() {
    return this.#ask((model) => ({
      visibility: model.visibility(),
      health: healthOf(model),
      catalog: JSON.stringify([[...model.tables.keys()], [...model.published.all], [...model.published.append]]),
    }));
  }

  visibility(): Promise<Visibility> {
    return this.#ask((model) => model.visibility());
  }

  nextXid(): Promise<bigint> {
    return this.#ask((model) => model.once(null).xid);
  }

  emit(content: string): Promise<void> {
    return this.#ask((model) => {
      model.once(content);
    });
  }

  tables(wanted: (name: string) => boolean): Promise<CatalogTable[]> {
    return this.#ask((model) => [...model.tables.values()].filter((table) => wanted(table.name)).map(catalogTable));
  }

  async schemaOf({ schema, table }: CatalogTable): Promise<TableSchema> {
    return (this.#options.model.tables.get(`${schema}.${table}`) as ModelTable).schema;
  }

  async typeNamed(): Promise<null> {
    return null;
  }

  async historicSchema(): Promise<TableSchema> {
    throw new Fault('database_rejected', 'shapes do not change in this world');
  }

  published() {
    return this.#ask(({ published }) => ({ all: new Set(published.all), append: new Set(published.append) }));
  }

  publish(publication: 'all' | 'append', tables: readonly CatalogTable[]): Promise<void> {
    return this.#ask((model) => {
      const transaction = model.begin();
      for (const table of tables) model.published[publication].add(table.oid);
      model.commit(transaction);
      model.end(transaction);
    });
  }

  unpublish(publication: 'all' | 'append', table: CatalogTable): Promise<void> {
    return this.#ask((model) => {
      model.published[publication].delete(table.oid);
    });
  }

  contentOf(table: CatalogTable): Promise<string> {
    return this.#ask((model) => String(model.tables.get(`${table.schema}.${table.table}`)?.digest));
  }

  begin(): Promise<Visibility> {
    return this.#ask((model) => {
      this.#seen = model.visibility();
      this.#options.world.tell(`snapshot ${this.#seen.text}`);
      return this.#seen;
    });
  }

  end(): Promise<void> {
    return this.#ask(() => {
      this.#seen = null;
    });
  }

  async *copy(table: CatalogTable, schema: TableSchema, rows: Rows): AsyncGenerator<Buffer, number, undefined> {
    const chosen = await this.#ask((model) => {
      const known = model.tables.get(`${schema.schema}.${table.table}`) as ModelTable;
      const seen = this.#seen ?? model.visibility();
      return [...model.select(known, seen)].filter((version) => matches(version, rows)).map((version) => version.values);
    });
    const half = Math.floor(chosen.length / 2);
    for (const some of [chosen.slice(0, half), chosen.slice(half)]) if (some.length > 0) yield Buffer.from(csv(some));
    return chosen.length;
  }

  walPosition(): Promise<Lsn> {
    return this.#ask(({ lsn }) => lsn);
  }

  async close(): Promise<void> {
    this.#broken ??= unreachable('session closed');
    this.#link.close();
    this.#closed();
  }
}

function healthOf(model: PostgresModel) {
  const slot = model.slots.get(SLOT);
  if (!slot) return null;
  const retainedBytes = Number(model.lsn - slot.confirmed);
  return { name: SLOT, active: slot.reader !== null, retainedBytes, walStatus: 'reserved', safeBytes: null };
}

function matches(version: { readonly block: number; readonly key: string }, rows: Rows): boolean {
  if (rows.kind === 'keys') return rows.keys.some((key) => key.join('\x1f') === version.key);
  if (rows.kind === 'range') return version.block >= rows.start && (rows.end === null || version.block < rows.end);
  return true;
}

function catalogTable({ oid, schema, key, blocks }: ModelTable): CatalogTable {
  return {
    oid,
    schema: schema.schema,
    table: schema.table,
    partitioned: false,
    identity: 'default',
    columns: schema.columns.map(({ name, type, typmod, sqlType }, index) => ({
      name,
      place: index + 1,
      type: type.oid,
      typmod,
      sqlType,
      toastable: type.name === 'text',
    })),
    key: key.map((index) => schema.columns[index]?.name as string),
    identifiable: true,
    leaves: [{ oid, name: schema.table, file: oid, blocks }],
    churn: '0',
  };
}

function csv(rows: readonly Values[]): string {
  return rows.map((row) => `${row.map((cell) => (cell === null ? '' : quoted(cell))).join(',')}\n`).join('');
}

function quoted(cell: string): string {
  return cell.length > TOAST_LENGTH || /^[\w.-]+$/.test(cell) ? cell : `"${cell.replaceAll('"', '""')}"`;
}

import { Fault, type Lsn, type TableSchema } from '@tributary/core';
import type { CatalogTable, Visibility } from '@tributary/postgres';
import type { Replication, ReplicateOptions, Rows, SourceDatabase, SourceSession } from '@tributary/source';
import { Link, type Weather } from './link.ts';
import { addDigest, type ModelTable, type PostgresModel, SLOT, TOAST_LENGTH, type Values } from './pg-model.ts';
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
  // The server's side.
  #seen: Visibility | null = null;
  #gone = false;

  constructor(options: DatabaseOptions, link: Link, closed: () => void) {
    this.#options = options;
    this.#link = link;
    this.#closed = closed;
    link.onBreak(() => {
      this.#broken ??= unreachable('session broke');
    });
    link.onHangup(() => {
      this.#gone = true;
      this.#letGo();
    });
  }

  /** The server's side: what a transaction held. */
  #letGo(): void {
    this.#seen = null;
    for (const table of this.#options.model.tables.values()) table.readers.delete(this);
  }

  /** A statement, which runs at the server in one go. */
  #ask<T>(answer: (model: PostgresModel) => T | Promise<T>): Promise<T> {
    if (this.#broken) return Promise.reject(this.#broken);
    return this.#link.call(() => {
      const { model } = this.#options;
      if (!model.running) throw unreachable('the database is down');
      return answer(model);
    });
  }

  /** A statement that waits for whoever truncates one of these tables. */
  #askOf<T>(tables: (model: PostgresModel) => Iterable<ModelTable>, answer: (model: PostgresModel) => T): Promise<T> {
    return this.#ask(async (model) => {
      for (const table of tables(model)) await model.untruncated(table);
      if (this.#gone || !model.running) throw unreachable('the session ended while it waited');
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
      catalog: JSON.stringify([
        [...model.tables.values()].map(({ oid, file }) => [oid, file]),
        [...model.published.all],
        [...model.published.append],
      ]),
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
    const chosen = (model: PostgresModel) => [...model.tables.values()].filter((table) => wanted(table.name));
    return this.#askOf(chosen, (model) => chosen(model).map((table) => catalogTable(table, model.statistics)));
  }

  async schemaOf(table: CatalogTable): Promise<TableSchema> {
    return tableOf(this.#options.model, table).schema;
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
    const chosen = (model: PostgresModel) => tables.map((table) => tableOf(model, table));
    return this.#askOf(chosen, (model) => {
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
    return this.#askOf(
      (model) => [tableOf(model, table)],
      (model) => {
        const rows = [...model.select(this.#lock(model, table), this.#seen ?? model.visibility())];
        return `${rows.length}:${rows.reduce((sum, { digest }) => addDigest(sum, digest), 0)}`;
      },
    );
  }

  begin(table?: CatalogTable): Promise<Visibility> {
    return this.#askOf(
      (model) => (table ? [tableOf(model, table)] : []),
      (model) => {
        this.#seen = model.visibility();
        if (table) this.#lock(model, table);
        this.#options.world.tell(`snapshot ${this.#seen.text}`);
        return this.#seen;
      },
    );
  }

  end(): Promise<void> {
    return this.#ask(() => this.#letGo());
  }

  async *copy(table: CatalogTable, _: TableSchema, rows: Rows): AsyncGenerator<Buffer, number, undefined> {
    const chosen = await this.#askOf(
      (model) => [tableOf(model, table)],
      (model) => {
        const seen = this.#seen ?? model.visibility();
        const visible = [...model.select(this.#lock(model, table), seen)];
        return visible.filter((version) => matches(version, rows)).map((version) => version.values);
      },
    );
    const half = Math.floor(chosen.length / 2);
    for (const some of [chosen.slice(0, half), chosen.slice(half)]) if (some.length > 0) yield Buffer.from(csv(some));
    return chosen.length;
  }

  /** Inside a transaction nobody truncates what it has read, until its end. */
  #lock(model: PostgresModel, table: CatalogTable): ModelTable {
    const known = tableOf(model, table);
    if (this.#seen) known.readers.add(this);
    return known;
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

function tableOf(model: PostgresModel, { schema, table }: CatalogTable): ModelTable {
  return model.tables.get(`${schema}.${table}`) as ModelTable;
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

function catalogTable({ oid, schema, key, blocks, file, churn }: ModelTable, statistics: number): CatalogTable {
  return {
    oid,
    schema: schema.schema,
    table: schema.table,
    partitioned: false,
    identity: schema.identity,
    columns: schema.columns.map(({ name, type, typmod, sqlType }, index) => ({
      name,
      place: index + 1,
      type: type.oid,
      typmod,
      sqlType,
      toastable: type.name === 'text',
    })),
    key: key.map((index) => schema.columns[index]?.name as string),
    references: [],
    identifiable: schema.identity === 'full' || key.length > 0,
    leaves: [{ oid, name: schema.table, file, blocks }],
    churn: `${churn} since ${statistics}`,
  };
}

function csv(rows: readonly Values[]): string {
  return rows.map((row) => `${row.map((cell) => (cell === null ? '' : quoted(cell))).join(',')}\n`).join('');
}

function quoted(cell: string): string {
  return cell.length > TOAST_LENGTH || /^[\w.-]+$/.test(cell) ? cell : `"${cell.replaceAll('"', '""')}"`;
}

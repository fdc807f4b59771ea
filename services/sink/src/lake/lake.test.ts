import { existsSync } from 'node:fs';
import { cp, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type BatchDraft, memoryBroker, SectionDraft } from '@tributary/changelog';
import {
  compareSourcePosition,
  Fault,
  Op,
  type OpCode,
  type SnapshotMark,
  type StoredBatch,
  type TableSchema,
} from '@tributary/core';
import type { Duck } from '@tributary/duckdb';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { LakeProjection } from './lake.ts';
import { LakeStore } from './lake-store.ts';
import { Manifests } from './manifest.ts';

const column = (name: string, key: number): TableSchema['columns'][number] => ({
  name,
  type: { oid: 25, schema: 'pg_catalog', name: 'text', kind: 'base' },
  typmod: -1,
  sqlType: 'text',
  key,
});
const keyed: TableSchema = { schema: 'public', table: 'k', identity: 'default', columns: [column('id', 1), column('v', 0)] };
const NASTY = [null, '', 'plain', '\x1e', '\x1c\x1f', 'é"\\', 'Infinity'];

type Row = readonly [op: OpCode, id: string, v: string | null];

/** A changelog in memory with a model of what must come of it. */
class Source {
  readonly broker = memoryBroker();
  readonly rows = new Map<string, string | null>();
  /** `lsn+ordinal op id` of every change; rows that were read have no ordinal. */
  readonly history: string[] = [];
  #writer: Awaited<ReturnType<typeof this.broker.changelogs.write>> | null = null;
  #lsn = 0;
  #reads = 0;
  #n = 0;

  async transaction(rows: readonly Row[]): Promise<void> {
    this.#lsn += 16;
    this.#reads = 0;
    rows.forEach(([op, id, v], i) => {
      if (op === Op.deleted) this.rows.delete(id);
      else this.rows.set(id, v);
      this.history.push(`${this.#lsn}+${i + 1} ${String.fromCharCode(op)} ${id}`);
    });
    const lsn = BigInt(this.#lsn);
    const transactions = [{ lsn, endLsn: lsn + 8n, xid: this.#lsn, committedAt: this.#lsn }];
    await this.#append({ kind: 'stream', position: { lsn, ordinal: rows.length }, transactions, mark: null }, rows);
  }

  /** One step of a snapshot; `rows` are told as read. */
  async read(step: SnapshotMark['step'], ids: readonly string[] = []): Promise<void> {
    const place = { lsn: BigInt(this.#lsn), ordinal: 2 ** 32 + ++this.#reads };
    for (const id of ids) this.history.push(`${this.#lsn} r ${id}`);
    const mark = { step, table: 'public.k', generation: 1, reset: false };
    const rows = ids.map((id): Row => [Op.read, id, this.rows.get(id) ?? null]);
    await this.#append({ kind: 'read', position: place, transactions: [], mark }, rows);
  }

  /** Some transactions of inserts, updates and deletes. */
  async work(transactions: number): Promise<void> {
    for (let t = 0; t < transactions; t++) {
      const rows: Row[] = [];
      for (let i = 0; i <= t % 5; i++) {
        const n = this.#n++;
        const id = String((n * 7) % 40);
        const there = rows.some((row) => row[1] === id) || this.rows.has(id);
        if (rows.some((row) => row[1] === id)) continue;
        rows.push([there ? (n % 3 === 0 ? Op.deleted : Op.updated) : Op.created, id, `${NASTY[n % NASTY.length] ?? ''}${n}`]);
      }
      await this.transaction(rows);
    }
  }

  async #append(
    header: Pick<BatchDraft['header'], 'kind' | 'position' | 'transactions' | 'mark'>,
    rows: readonly Row[],
  ): Promise<void> {
    this.#writer ??= await this.broker.changelogs.write('s', { replicas: 1, maxAgeMs: 0, maxBytes: 0 });
    const section = new SectionDraft(keyed);
    rows.forEach(([op, id, v], i) => {
      section.cells[0]?.push(id);
      section.cells[1]?.push(op === Op.deleted ? undefined : v);
      section.row(op, 0, i + 1);
    });
    const common = { source: 's', epoch: 'e', restart: header.position.lsn + 8n, continues: false, more: false, state: null };
    await this.#writer.append({ header: { ...common, watermark: this.#lsn, ...header }, sections: rows.length ? [section] : [] });
  }
}

/** One worker's lake: a state of its own in front of a folder that all share. */
class Worker {
  readonly #source: Source;
  readonly #folder: string;
  readonly #state: string;
  #store: LakeStore | null = null;
  lake: LakeProjection | null = null;

  constructor(source: Source, folder: string, state: string) {
    this.#source = source;
    this.#folder = folder;
    this.#state = state;
  }

  /** @param statements how many succeed, of every connection, before the worker "dies" @param cause or before one fails with it */
  async open(statements = Infinity, cause: Fault | null = null): Promise<LakeProjection> {
    const store = (this.#store ??= await LakeStore.open(this.#state, 'lake', () => {}));
    const connect = async () => dying(await store.connect(), statements, cause);
    const mortal = { connect, lock: () => store.lock(), grow: () => store.grow(), shrink: () => store.shrink() };
    this.lake = await LakeProjection.open({
      config: {
        type: 'lake',
        name: 'lake',
        from: ['*'],
        flush: { everyMs: 0, bytes: 1 },
        compact: { everyMs: 1e12 },
      },
      source: 's',
      sourceConnection: {} as never,
      bus: {} as never,
      store: mortal,
      folder: this.#folder,
      now: () => 0,
      warn: () => {},
      cut: new AbortController().signal,
    });
    return this.lake;
  }

  /** Applies everything that is in the changelog, in groups of three batches. */
  async follow(): Promise<void> {
    const lake = this.lake as LakeProjection;
    const after = await lake.position();
    const status = await this.#source.broker.changelogs.status('s');
    if (after.seq >= (status?.lastSeq ?? 0)) return;
    const stop = new AbortController();
    let batches: StoredBatch[] = [];
    for await (const batch of this.#source.broker.changelogs.read('s', { after, signal: stop.signal })) {
      batches.push(batch);
      const end = batch.seq === status?.lastSeq;
      if (batches.length < 3 && !end) continue;
      const group = { batches, after: { seq: batch.seq, ...batch.header.position }, watermark: batch.header.watermark };
      batches = [];
      await lake.apply({ ...group, partial: false });
      if (end) break;
    }
    stop.abort();
  }

  async compact(): Promise<void> {
    const view = { reached: async () => {}, signal: new AbortController().signal };
    for await (const _ of this.lake?.commands(view)['compact']?.({}) ?? []);
  }

  async close(): Promise<void> {
    await this.lake?.close();
    this.#store?.close();
    this.lake = null;
    this.#store = null;
  }

  /** State, Parquet and history against the model. */
  async expectRight(): Promise<void> {
    await this.compact();
    const table = await this.#compacted();
    const expected = [...this.#source.rows].map(([id, v]) => ({ id, v })).toSorted((x, y) => (x.id < y.id ? -1 : 1));
    expect(await this.#rows(`SELECT id, v FROM _current."s.public.k" ORDER BY id`)).toEqual(expected);
    for (const file of [table?.current?.path, table?.exact?.path])
      expect(await this.#rows(`SELECT id, v FROM read_parquet('${join(this.#folder, file ?? '')}') ORDER BY id`)).toEqual(
        expected,
      );
    await this.expectHistory();
  }

  async memory(): Promise<string> {
    const [row] = await this.#rows<{ limit: string }>(`SELECT current_setting('memory_limit') AS "limit"`);
    return row?.limit ?? '';
  }

  /** Every change stands in the lake's history once. */
  async expectHistory(): Promise<void> {
    await this.compact();
    const files = (await this.#compacted())?.changes.map(({ path }) => `'${join(this.#folder, path)}'`);
    const changes = await this.#rows<{ op: string; lsn: string; ordinal: number; id: string }>(
      `SELECT _op AS op, _lsn AS lsn, _ordinal AS ordinal, id FROM read_parquet([${files}])`,
    );
    const told = changes.map(({ op, lsn, ordinal, id }) => {
      const at = Number(`0x${lsn.split('/')[1]}`);
      return op === 'r' ? `${at} r ${id}` : `${at}+${ordinal} ${op} ${id}`;
    });
    expect(told.toSorted()).toEqual(this.#source.history.toSorted());
  }

  async #compacted() {
    return (await new Manifests(this.#folder).latest())?.tables['public.k'];
  }

  async #rows<T extends object>(sql: string): Promise<T[]> {
    const duck = await (this.#store as LakeStore).connect();
    try {
      return await duck.rows<T>(sql);
    } finally {
      duck.close();
    }
  }
}

/** A connection that ends the worker after some statements, wherever that is; or on which one statement fails. */
function dying(duck: Duck, statements: number, cause: Fault | null): Duck {
  let left = statements;
  return new Proxy(duck, {
    get(target, name) {
      const value = Reflect.get(target, name) as unknown;
      if (typeof value !== 'function') return value;
      const method = value.bind(target) as (...args: unknown[]) => unknown;
      if (name !== 'run' && name !== 'rows') return method;
      return async (...args: unknown[]) => {
        if (cause ? left-- === 0 : left-- <= 0) throw cause ?? new Error('the worker died');
        return method(...args);
      };
    },
  });
}

describe('the lake of one source, moved between workers', () => {
  let folder: string;
  let source: Source;
  let workers: Worker[];
  const lakeFolder = () => join(folder, 'lake');
  const worker = (name: string) => {
    const made = new Worker(source, lakeFolder(), join(folder, name));
    workers.push(made);
    return made;
  };

  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), 'tributary-lake-'));
    source = new Source();
    workers = [];
  });
  afterEach(async () => {
    for (const one of workers) await one.close();
    await rm(folder, { recursive: true, force: true });
  });

  /** A compaction, then history that is ahead of it. */
  async function lakeOf(first: Worker): Promise<void> {
    await first.open();
    await source.work(30);
    await first.follow();
    await first.compact();
    await source.work(9);
    await first.follow();
  }

  it('is loaded from the last compaction by a worker without state, and history has every change once', async () => {
    const a = worker('a');
    await lakeOf(a);
    const at = await (a.lake as LakeProjection).position();
    const b = worker('b');
    const start = await (await b.open()).position();
    expect(compareSourcePosition(start, at)).toBeLessThan(0);
    expect(start.seq).toBeGreaterThan(0);
    await source.work(20);
    await b.follow();
    await b.expectRight();
  });

  it('is read from the start by a worker without state while nothing has been compacted, and history stays as it is', async () => {
    const a = worker('a');
    await a.open();
    await source.work(20);
    await a.follow();
    const b = worker('b');
    expect((await (await b.open()).position()).seq).toBe(0);
    await b.follow();
    await b.expectRight();
  });

  it('has more memory for a transaction that needs more, until that is through', async () => {
    const a = worker('a');
    await a.open(40, new Fault('memory_full', 'as the test wants it'));
    await source.work(30);
    await expect(a.follow()).rejects.toThrow('as the test wants it');
    expect(await a.memory()).toBe('128.0 MiB');
    await a.lake?.close();
    await a.open();
    await a.follow();
    expect(await a.memory()).toBe('64.0 MiB');
    await a.expectRight();
  });

  it('refuses a worker that slept while another one made commits, and gives it the newest state', async () => {
    const a = worker('a');
    await lakeOf(a);
    const b = worker('b');
    await b.open();
    await source.work(5);
    await b.follow();
    await b.compact();
    const refused = await a.follow().catch((error: unknown) => error);
    expect((refused as Fault).kind).toBe('fenced');
    await a.close();
    await a.open();
    await source.work(3);
    await a.follow();
    await a.expectRight();
    await expect(
      b
        .follow()
        .then(() => source.work(1))
        .then(() => b.follow()),
    ).rejects.toThrow('another worker writes the lake');
  });

  it('refuses a worker that slept until the number of its next commit was swept', async () => {
    const a = worker('a');
    await lakeOf(a);
    const b = worker('b');
    await b.open();
    for (let i = 0; i < 12; i++) {
      await source.work(1);
      await b.follow();
      await b.compact();
    }
    await expect(a.follow()).rejects.toThrow('another worker writes the lake');
    await b.expectRight();
  });

  it('is right when a worker dies at any statement of the loading', async () => {
    const a = worker('a');
    await lakeOf(a);
    await a.close();
    const old = join(folder, 'old');
    await cp(join(folder, 'a'), old, { recursive: true });
    await a.open();
    await source.work(20);
    await a.follow();
    await a.compact();
    await source.work(5);
    await a.follow();
    await a.close();
    let deaths = 0;
    for (let statements = 0; ; statements++) {
      await cp(old, join(folder, 'b'), { recursive: true, force: true });
      const b = worker('b');
      const died = await b.open(statements).then(
        () => false,
        () => true,
      );
      await b.close();
      await b.open();
      await b.follow();
      await b.expectRight();
      await b.close();
      await rm(join(folder, 'b'), { recursive: true });
      if (!died) break;
      deaths++;
    }
    expect(deaths).toBeGreaterThan(10);
  });

  it('sweeps what a snapshot no longer met when the snapshot began at another worker', async () => {
    const a = worker('a');
    await lakeOf(a);
    const [gone, ...kept] = [...source.rows.keys()];
    source.rows.delete(gone as string);
    await source.read('begin');
    await source.read('chunk', kept.slice(0, 3));
    await a.follow();
    await a.compact();
    const b = worker('b');
    await b.open();
    await source.read('chunk', kept.slice(3));
    await source.read('end');
    await b.follow();
    await b.expectRight();
  });

  it('is emptied by a reset that died half way', async () => {
    const a = worker('a');
    await lakeOf(a);
    await a.close();
    // Opening takes the first statements; those after them are the reset's.
    let deaths = 0;
    for (let statements = 0; ; statements += 2) {
      const dies = await a.open(statements).catch(() => null);
      const emptied = await dies?.reset().then(
        () => true,
        () => false,
      );
      await a.close();
      if (emptied === true) break;
      if (emptied !== false) continue;
      deaths++;
      await a.open();
      await a.follow();
      await a.close();
    }
    expect(deaths).toBeGreaterThan(2);
    expect((await (await a.open()).position()).seq).toBe(0);
    await a.follow();
    await a.expectRight();
  });

  it('is set back by a worker that died half way, and every change stands in its history once', async () => {
    const a = worker('a');
    await a.open();
    await source.work(20);
    await a.follow();
    const to = await (a.lake as LakeProjection).position();
    await source.work(20);
    await a.follow();
    await a.close();
    let deaths = 0;
    for (let statements = 0; ; statements += 3) {
      const dies = await a.open(statements).catch(() => null);
      const rewind = { to, watermark: 0, kept: new Set<string>(), begun: new Map(), foreign: false };
      const went = await dies?.rewind({ ...rewind, until: await dies.position() }).then(
        () => true,
        () => false,
      );
      await a.close();
      if (went === undefined) continue;
      if (!went) deaths++;
      await a.open();
      if (went) expect(await (a.lake as LakeProjection).position()).toEqual(to);
      await a.follow();
      if (went) break;
      await a.close();
    }
    expect(deaths).toBeGreaterThan(3);
    await a.expectRight();
    const b = worker('b');
    await b.open();
    await source.work(3);
    await b.follow();
    await b.expectRight();
  });

  it('goes over a hole in the changelog while its history is ahead of its state, and only then', async () => {
    const a = worker('a');
    await lakeOf(a);
    const to = await (a.lake as LakeProjection).position();
    const b = worker('b');
    const until = await (await b.open()).position();
    const none = new Set<string>();
    const rewind = { to, until, watermark: 0, kept: none, begun: new Map() };
    await expect(b.lake?.rewind({ ...rewind, foreign: false })).rejects.toThrow('still being loaded');
    await b.lake?.rewind({ ...rewind, foreign: true });
    expect(await b.lake?.position()).toEqual(to);
    await source.work(5);
    await b.follow();
    await b.expectHistory();
  });

  it('is rebuilt when its folder is lost, and goes back when an older copy of its folder is put there', async () => {
    const a = worker('a');
    await lakeOf(a);
    await cp(lakeFolder(), join(folder, 'copy'), { recursive: true });
    await source.work(5);
    await a.follow();
    await a.compact();
    await a.close();
    await rm(lakeFolder(), { recursive: true });
    await a.open();
    await a.follow();
    await a.expectRight();
    await a.close();
    await rm(lakeFolder(), { recursive: true });
    await cp(join(folder, 'copy'), lakeFolder(), { recursive: true });
    await a.open();
    await a.follow();
    await a.expectRight();
  });

  it('leaves alone files that another worker is about to name', async () => {
    const a = worker('a');
    await lakeOf(a);
    const table = join(lakeFolder(), 'public.k');
    const newest = (await new Manifests(lakeFolder()).latest())?.commit ?? 0;
    const [unnamed, coming] = [newest - 1, newest + 9].map((n) =>
      join(table, `changes-${String(n).padStart(9, '0')}-0123abcd.parquet`),
    );
    await writeFile(unnamed as string, '');
    await writeFile(coming as string, '');
    await source.work(1);
    await a.follow();
    await a.compact();
    expect([existsSync(unnamed as string), existsSync(coming as string)]).toEqual([false, true]);
    expect((await readdir(table)).length).toBeGreaterThan(3);
  });
});

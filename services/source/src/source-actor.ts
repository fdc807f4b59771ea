import type { ChangelogOptions, Changelogs, ChangelogWriter, LastBatch } from '@tributary/changelog';
import { type Actor, aborted, Grace, together, unlessAborted } from '@tributary/cluster';
import { matchesTable, type SourceConfig } from '@tributary/config';
import {
  type Bus,
  type Clock,
  epochOf,
  Fault,
  formatLsn,
  type Lsn,
  ORIGIN,
  parseLsn,
  type Random,
  READ_ORDINAL_MIN,
  unreachable,
} from '@tributary/core';
import { Visibility } from '@tributary/postgres';
import { CatalogWatch } from './catalog-watch.ts';
import { ConfirmedPrefix } from './confirmed-prefix.ts';
import { type Anchor, branchOf, continuity, type Gap, rewound } from './continuity.ts';
import { Contract } from './contract.ts';
import type { Replication, Slot, SourceDatabase, SourceSession } from './database.ts';
import { Heart } from './heart.ts';
import { recoverSnapshots } from './recover.ts';
import { Snapshotter } from './snapshotter.ts';
import { emptyState, type SourceState } from './state.ts';
import { Stream } from './stream.ts';
import { Touches } from './touches.ts';
import type { Vitals } from './vitals.ts';

export interface SourceOptions {
  readonly config: SourceConfig;
  readonly database: SourceDatabase;
  readonly changelogs: Changelogs;
  readonly changelog: ChangelogOptions;
  readonly lingerMs: number;
  readonly confirmAfterMs: number;
  readonly bus: Bus;
  readonly clock: Clock;
  readonly random: Random;
  readonly warn: (facts: object, message: string) => void;
  /** Outlives this instance. */
  readonly vitals: Vitals;
}

/** How often the catalog, the slot's health and what snapshots can see are looked at. */
const LOOK_MS = 1_000;
/** How often PostgreSQL is told what it may forget; it ends a connection that is silent for 8 s. */
const CONFIRM_MS = 2_000;
/** How often a snapshot that somebody waits for tells how far it is. */
const PROGRESS_MS = 250;

/**
 * Captures one database into one changelog: leader of one slot.
 *
 * It starts from what the changelog says (its last batch), never from what it remembers, and whatever goes wrong it
 * ends and is started anew. PostgreSQL lets one reader at a slot, the changelog one writer at a stream.
 */
export class SourceActor implements Actor {
  readonly #options: SourceOptions;
  #facts: () => Record<string, unknown>;
  /** Fingerprint of the catalog before it was checked last. */
  #looked = '';

  constructor(options: SourceOptions) {
    this.#options = options;
    this.#facts = () => options.vitals.facts(null);
  }

  facts(): Record<string, unknown> {
    return this.#facts();
  }

  async run(signal: AbortSignal, ready: () => void, halted: (fault: Fault) => Promise<void>): Promise<void> {
    for (;;) {
      try {
        return await this.#attempt(signal, ready);
      } catch (error) {
        if (!(error instanceof Fault) || error.kind !== 'contract_broken' || signal.aborted) throw error;
        await this.#standStill(() => halted(error), signal);
      }
    }
  }

  /**
   * Waits until the catalog is another one than at the last look, or somebody asks for another try. Every catalog is tried: also
   * one that breaks the contract in another way must be told, and published as it is. What the slot keeps is told meanwhile.
   */
  async #standStill(halted: () => Promise<void>, signal: AbortSignal): Promise<void> {
    const { database, clock, vitals } = this.#options;
    const session = await database.open('contract');
    try {
      let again: Promise<void> | null = null;
      let nudged = false;
      while (!signal.aborted && !nudged) {
        const { catalog, health } = await session.look();
        if (catalog !== this.#looked) return;
        vitals.slot(health);
        again ??= halted().then(() => void (nudged = true));
        await clock.sleep(LOOK_MS, signal);
      }
    } finally {
      await session.close();
    }
  }

  #contract(session: SourceSession): Contract {
    const { config, vitals } = this.#options;
    return new Contract({ config, alerts: vitals.alerts, typeNamed: (name) => session.typeNamed(name) });
  }

  async #attempt(signal: AbortSignal, ready: () => void): Promise<void> {
    const grace = new Grace(signal, this.#options.clock);
    const held: { close(): Promise<void> }[] = [];
    let ended = false;
    const opened = async <T extends { close(): Promise<void> }>(opening: Promise<T>): Promise<T> => {
      const one = await opening;
      if (ended) await one.close();
      else held.push(one);
      return one;
    };
    const work = async () => {
      const open = (name: string) => opened(this.#options.database.open(name));
      const control = await open('control');
      const catalog = await open('catalog');
      // Before anything that may fail: a source that cannot start still tells what its slot keeps.
      this.#options.vitals.slot(await control.slotHealth());
      const writer = await opened(this.#options.changelogs.write(this.#options.config.name, this.#options.changelog));
      await this.#lead({ signal, ready, control, catalog, open, opened, writer });
    };
    const lead = async () => {
      try {
        // A broker that does not answer is left waiting: with its sessions and its writer closed, the rest can do nothing more.
        await unlessAborted(work(), grace.cut);
      } finally {
        ended = true;
        await unlessAborted(Promise.all(held.map((one) => one.close())), grace.cut).catch(() => {});
      }
    };
    try {
      await grace.step(lead);
    } finally {
      grace.forget();
    }
  }

  async #lead(lead: Lead): Promise<void> {
    const { config, database, changelogs, clock, random, confirmAfterMs } = this.#options;
    const { signal, control, catalog } = lead;
    const server = await control.server();
    await control.ensurePublications();
    const slot = await control.ensureSlot();
    const writer = await this.#whole(lead, slot);
    const { last, state, start } = await this.#start({ ...lead, writer }, slot, server.systemId);
    const restart = last?.header.restart ?? start.from;
    const recovered = await recoverSnapshots(changelogs, config.name, last, state);
    const touches = new Touches(await control.visibility(), await control.nextXid());
    const confirmed = new ConfirmedPrefix(confirmAfterMs, slot.confirmed);
    const failed = new Failure();
    const stream: Stream = new Stream({
      source: config.name,
      epoch: state.epoch,
      writer,
      resume: last?.header.position ?? ORIGIN,
      restart,
      anchor: start.anchor,
      watermark: last?.header.watermark ?? 0,
      lingerMs: this.#options.lingerMs,
      touches,
      confirmed,
      lookup: (relation) => watch.lookup(relation),
      hold: (reason) => reader.hold(reason),
      release: (reason) => reader.release(reason),
      fail: failed.with,
      clock,
    });
    let streaming = false;
    const tellState = () => stream.publish(null, [], state);
    const watch = new CatalogWatch({
      session: catalog,
      contract: this.#contract(catalog),
      // Where nothing was told yet everything will be read anyway.
      persist: async () => last && (await (streaming ? stream.whenPassed(0n, tellState) : tellState())),
      wanted: (table) => matchesTable(config.tables, table),
      state,
      snapshots: config.snapshot === 'initial',
      changesOf: (table) => stream.changesOf(table),
      due: () => snapshotter.wake(),
    });
    const heart = new Heart({ session: control, stream, random, fail: failed.with });
    const snapshotter = new Snapshotter({
      source: config.name,
      open: lead.open,
      watch,
      stream,
      touches,
      writer,
      state,
      clock,
      heartbeat: () => heart.beat(),
      pass: () => heart.pass(),
    });
    for (const [table, keys] of recovered) stream.collectIncomplete(table, keys);
    for (const [name, table] of Object.entries(state.tables)) {
      if (table.skip) stream.skip(name, new Visibility(table.skip.snapshot), parseLsn(table.skip.until));
    }
    const reader: Replication = database.replicate({
      slot: slot.name,
      from: start.from,
      message: (bytes, start, end) => stream.message(bytes, start, end),
      keepalive: (walEnd, replyRequested) => {
        stream.keepalive(walEnd);
        if (replyRequested) reader.confirm(confirmed.safe()).catch(failed.with);
      },
    });
    this.#facts = () => ({
      source: config.name,
      ...this.#told(stream, confirmed),
      changes: stream.changes + snapshotter.rows,
      tables: Object.keys(state.tables).length,
      snapshot: snapshotter.progress,
      epoch: state.epoch,
    });
    const commands = { watch, snapshotter, heart, stream, state, signal };
    this.#looked = (await control.look()).catalog;
    await watch.check(false);
    // Held like a session: whoever is left behind while it begins to answer must not go on answering.
    const serving = await lead.opened(this.#serve(commands).then(closing));
    streaming = true;
    try {
      await together(signal, [
        (all) => failed.until(all),
        (all) =>
          stopped(
            all,
            () => reader.run(lead.ready),
            () => reader.stop(),
          ),
        (all) => snapshotter.run(all),
        (all) => heart.run(config.heartbeatMs, clock, all),
        (all) => this.#look({ control, watch, touches }, all),
        (all) => this.#confirm(reader, confirmed, all),
        async (all) => {
          await aborted(all);
          stream.close();
        },
      ]);
    } catch (error) {
      if (error instanceof Fault && error.kind === 'source_rewound' && last)
        await this.#tellGap({ control, writer }, rewound(last, await control.walPosition()), { last, systemId: server.systemId });
      throw error;
    } finally {
      stream.close();
      await serving.close();
    }
  }

  /** What changes all the time; the part that must outlive this instance is kept in the vitals. */
  #told(stream: Stream, confirmed: ConfirmedPrefix): Record<string, unknown> {
    const { vitals } = this.#options;
    const facts = stream.facts();
    const safe = confirmed.safe();
    vitals.confirmed(safe);
    vitals.complete(facts.watermark);
    return { ...facts, confirmedLsn: formatLsn(safe), ...vitals.facts(facts.lagMs) };
  }

  /** The writer of a changelog that lost its end is opened again on the copy of another server that did not, where there is one. */
  async #whole({ writer, control, opened }: Lead, slot: Slot): Promise<ChangelogWriter> {
    const { config, changelogs, changelog, warn } = this.#options;
    const walEnd = await control.walPosition();
    const lost = (last: LastBatch | null) => {
      const found = continuity(last, slot, walEnd);
      return found.kind === 'gap' && found.lost;
    };
    if (!lost(writer.last) || !(await changelogs.reconcileCopies(config.name, (last) => !lost(last)))) return writer;
    const again = await opened(changelogs.write(config.name, changelog));
    const names = { source: config.name, whole: !lost(again.last) };
    warn(
      names,
      'the broker lost what it had acknowledged: its copies of the changelog differed, and were made anew of one of them',
    );
    return again;
  }

  /**
   * Where to go on. An epoch that does not follow the changelog is told to it first, by a message without rows that carries
   * the state in which every table is due: whoever leads from then on finds that, and cannot pass it over.
   */
  async #start(lead: Lead, slot: Slot, systemId: string): Promise<Start> {
    const { config } = this.#options;
    const { last } = lead.writer;
    const known = (last?.state ?? null) as SourceState | null;
    if (known && known.systemId !== systemId) {
      throw new Fault(
        'identity_mismatch',
        `changelog ${config.name} was made from another database cluster (system ${known.systemId}, now ${systemId}). Give this source another name.`,
      );
    }
    const found = continuity(last, slot, await lead.control.walPosition());
    switch (found.kind) {
      case 'fresh':
        return { last, state: emptyState(this.#newEpoch(systemId), systemId), start: { from: found.from, anchor: null } };
      case 'follows':
        return { last, state: known ?? emptyState(last?.header.epoch ?? this.#newEpoch(systemId), systemId), start: found };
      case 'gap': {
        const told = await this.#tellGap(lead, found, { last, systemId });
        return { last: told, state: told.state as SourceState, start: { from: found.from, anchor: null } };
      }
      default:
        return unreachable(found);
    }
  }

  /** @returns the changelog's last batch from then on */
  async #tellGap(
    { writer, control }: Pick<Lead, 'writer' | 'control'>,
    { reason, from, place }: Gap,
    { last, systemId }: { last: LastBatch | null; systemId: string },
  ): Promise<LastBatch> {
    const { config, warn } = this.#options;
    const names = { source: config.name, reason, from: formatLsn(from), changelog: formatLsn(last?.header.position.lsn ?? 0n) };
    warn(names, 'the database does not go on where the changelog ends: every table is read again and reconciled');
    const known = (last?.state ?? null) as SourceState | null;
    const state: SourceState = {
      ...(known ?? emptyState('', systemId)),
      epoch: this.#newEpoch(systemId),
      ...(last ? {} : { regained: true }),
    };
    for (const table of Object.values(state.tables)) {
      table.skip = null;
      table.open = false;
      table.snapshot = { generation: ++state.generation, begun: false, leaf: 0, block: 0, reread: [] };
    }
    const beyond = branchOf(place) + (await control.walPosition());
    const mark = { step: 'gap', table: '', generation: state.generation, reset: false, progress: formatLsn(beyond) } as const;
    const header = {
      source: config.name,
      epoch: state.epoch,
      kind: 'read',
      position: { lsn: place, ordinal: READ_ORDINAL_MIN },
      restart: from,
      watermark: last?.header.watermark ?? 0,
      continues: false,
      more: false,
      transactions: [],
      mark,
      state,
    } as const;
    const seq = await writer.append({ header, sections: [] });
    const follows = last?.header.position ?? ORIGIN;
    return { seq, header: { ...header, follows, stateSeq: 0 }, state, statePosition: { seq, ...header.position } };
  }

  #newEpoch(systemId: string): string {
    return epochOf(systemId, this.#options.random.token(6));
  }

  async #look(world: { control: SourceSession; watch: CatalogWatch; touches: Touches }, signal: AbortSignal): Promise<void> {
    const { control, watch, touches } = world;
    while (!signal.aborted) {
      const { visibility, health, catalog } = await control.look();
      touches.prune(visibility);
      this.#options.vitals.slot(health);
      this.#looked = catalog;
      await watch.glance(catalog);
      await this.#options.clock.sleep(LOOK_MS, signal);
    }
  }

  /** The only place that confirms besides answers to PostgreSQL's own question; also what keeps the connection alive. */
  async #confirm(reader: Replication, confirmed: ConfirmedPrefix, signal: AbortSignal): Promise<void> {
    const { clock } = this.#options;
    while (!signal.aborted) {
      await clock.sleep(CONFIRM_MS, signal);
      await reader.confirm(confirmed.safe());
    }
  }

  async #serve({ watch, snapshotter, heart, state, signal }: Commands): Promise<(() => Promise<void>)[]> {
    const { bus, clock, config } = this.#options;
    const prefix = `tributary.source.${config.name}`;
    const settle = async () => {
      await watch.check(true);
      await snapshotter.settled();
    };
    const barrier = await bus.serve(`${prefix}.barrier`, async function* (question) {
      await settle();
      const seq = await heart.pass();
      const { shapes = [] } = question as { shapes?: readonly string[] };
      const asked = shapes.flatMap((name) => watch.tables.get(name) ?? []);
      const told = shapes.length > 0 ? { shapes: await Promise.all(asked.map((table) => watch.schemaOf(table))) } : {};
      yield { seq, tables: [...watch.tables.keys()], kept: watch.kept(), ...told };
    });
    const snapshot = await bus.serve(`${prefix}.snapshot`, async function* (question) {
      const { table, where, keys } = question as { table?: string; where?: string; keys?: readonly (readonly string[])[] };
      await watch.check(false);
      const name = table === undefined ? undefined : table.includes('.') ? table : `public.${table}`;
      const chosen = keys ? ({ kind: 'keys', keys } as const) : where === undefined ? null : ({ kind: 'where', where } as const);
      if (name !== undefined && chosen) {
        yield { done: true, tables: [name], rows: await snapshotter.choose(name, chosen, signal) };
        return;
      }
      const names = name === undefined ? Object.keys(state.tables) : [name];
      for (const one of names) watch.request(one);
      snapshotter.wake();
      const before = snapshotter.rows;
      let settled = false;
      const end = snapshotter.settled().then(() => {
        settled = true;
      });
      while (!settled) {
        await Promise.race([end, clock.sleep(PROGRESS_MS)]);
        if (!settled) yield { done: false, progress: snapshotter.progress };
      }
      yield { done: true, tables: names, rows: snapshotter.rows - before };
    });
    const references = await bus.serve(`${prefix}.references`, async function* () {
      // A foreign key that is declared later is no change of a table's shape: it is looked for.
      await watch.check(false);
      yield { references: [...watch.tables].flatMap(([table, { references: own }]) => own.map((one) => ({ table, ...one }))) };
    });
    return [barrier, snapshot, references];
  }
}

interface Lead {
  readonly signal: AbortSignal;
  readonly ready: () => void;
  readonly control: SourceSession;
  readonly catalog: SourceSession;
  readonly open: (name: string) => Promise<SourceSession>;
  /** Closes with this attempt, at once where that has ended meanwhile. */
  readonly opened: <T extends { close(): Promise<void> }>(opening: Promise<T>) => Promise<T>;
  readonly writer: ChangelogWriter;
}

/** Where a leader goes on: the changelog's last batch, what it says, and what PostgreSQL is asked for. */
interface Start {
  readonly last: LastBatch | null;
  readonly state: SourceState;
  readonly start: { readonly from: Lsn; readonly anchor: Anchor | null };
}

interface Commands {
  readonly watch: CatalogWatch;
  readonly snapshotter: Snapshotter;
  readonly heart: Heart;
  readonly stream: Stream;
  readonly state: SourceState;
  readonly signal: AbortSignal;
}

/** The first failure of anything that has no caller to throw to. */
class Failure {
  #first: { readonly error: unknown } | null = null;
  #notify: () => void = () => {};

  readonly with = (error: unknown): void => {
    this.#first ??= { error };
    this.#notify();
  };

  /** @throws the first failure, also one that came before */
  async until(signal: AbortSignal): Promise<void> {
    if (!this.#first) await Promise.race([aborted(signal), new Promise<void>((resolve) => (this.#notify = resolve))]);
    const first = this.#first as { readonly error: unknown } | null;
    if (first) throw first.error;
  }
}

/** Runs `work`; asks it to end when `signal` aborts. */
async function stopped(signal: AbortSignal, work: () => Promise<void>, stop: () => Promise<unknown>): Promise<void> {
  const react = () => void stop();
  signal.addEventListener('abort', react, { once: true });
  try {
    if (signal.aborted) await stop();
    else await work();
  } finally {
    signal.removeEventListener('abort', react);
  }
}

/** Ends what is served, once. */
function closing(stops: (() => Promise<void>)[]): { close(): Promise<void> } {
  return {
    async close() {
      for (const stop of stops.splice(0)) await stop();
    },
  };
}
